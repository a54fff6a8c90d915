"""Commands that need no running system."""

from __future__ import annotations

import getpass
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from errata import cli_options
from errata.cli import app
from errata.errors import InvalidRequestError, StartupError
from errata.launch.box import free_addresses
from errata.platform.addresses import free_port
from errata.platform.settings.sources import client_file
from errata_client import UnavailableError
from tests.ports import address_variables

RUN = CliRunner()
FLAT = {
    "prompt": "Lyon is in",
    "subject": "Lyon",
    "target_new": "Italy",
    "ground_truth": "France",
    "rephrase_prompt": "Lyon lies in",
    "locality_prompt": "Nice is in",
    "locality_ground_truth": "France",
}


@pytest.fixture(autouse=True)
def _settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ERRATA_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "200")


def test_statistics_are_computed_once_from_any_text(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("The capital of France is Paris.\nGold is an element.\n" * 50)
    for _ in range(2):
        done = RUN.invoke(app, ["statistics", "--text", str(text)], catch_exceptions=False)
        assert done.exit_code == 0
        assert "statistics" in done.output
    files = sorted((tmp_path / "statistics").iterdir())
    assert files, "one file for each edited layer"
    written = {file: file.stat().st_mtime_ns for file in files}
    RUN.invoke(app, ["statistics", "--text", str(text)], catch_exceptions=False)
    assert {file: file.stat().st_mtime_ns for file in files} == written
    with pytest.raises(StartupError, match="is not a file"):
        RUN.invoke(app, ["statistics", "--text", str(tmp_path / "none")], catch_exceptions=False)


def test_settings_are_shown_with_origin_and_without_passwords(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ERRATA_LOG__REDIS_URL", "redis://user:secret@somewhere:6379/0")
    done = RUN.invoke(app, ["config"], catch_exceptions=False)
    (line,) = [line for line in done.output.splitlines() if "log.redis_url" in line]
    assert "environment" in line
    assert "***" in line
    assert "The log's Redis" in line
    assert "secret" not in done.output


def test_settings_as_json_have_value_origin_and_description(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ERRATA_LOG__REDIS_URL", "redis://user:secret@somewhere:6379/0")
    done = RUN.invoke(app, ["config", "--json"], catch_exceptions=False)
    found = {item["setting"]: item for item in json.loads(done.output)}
    assert found["log.redis_url"] == {
        "setting": "log.redis_url",
        "value": "redis://user:***@somewhere:6379/0",
        "origin": "environment",
        "variable": "ERRATA_LOG__REDIS_URL",
        "description": found["log.redis_url"]["description"],
    }
    assert found["writer.max_batch_edits"]["value"] == 10
    assert found["worker.num_replicas"]["origin"] == "default"
    bare = [name for name, item in found.items() if len(item["description"]) < 10]
    assert not bare, "every setting says what it is"


def test_versions_are_printed_without_importing_torch() -> None:
    code = (
        "import sys; from errata.cli import main; sys.argv = ['errata', '--version']\n"
        "try: main()\n"
        "finally: print([m for m in ('torch', 'ray', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert lines[0] == f"errata {importlib.metadata.version('errata')}"
    assert f"Python {platform.python_version()}" in lines
    assert f"errata-client {importlib.metadata.version('errata-client')}" in lines
    assert f"torch {importlib.metadata.version('torch')}" in lines
    assert lines[-1] == "[]"


def _asked(*arguments: str) -> str:
    """The target of a command, taken from its error: no process listens there."""
    with pytest.raises(UnavailableError) as caught:
        RUN.invoke(app, [*arguments, "ask", "x"], catch_exceptions=False)
    return caught.value.metadata["target"]


def test_the_target_comes_from_flag_variable_or_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    there = [f"127.0.0.1:{free_port()}" for _ in range(4)]
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    own = client_file()
    own.parent.mkdir(parents=True)
    own.write_text(f'[client]\ntarget = "{there[0]}"\ntimeout_seconds = 0.5\n')
    assert _asked() == there[0]
    file = tmp_path / "errata.toml"
    file.write_text(f'[client]\ntarget = "{there[1]}"\n[log]\nkey_prefix = "x"\n')
    monkeypatch.delenv("ERRATA_CONFIG", raising=False)
    assert _asked("--config", str(file)) == there[1]
    assert os.environ.pop("ERRATA_CONFIG") == str(file)
    monkeypatch.setenv("ERRATA_TARGET", there[2])
    assert _asked() == there[2]
    with pytest.raises(UnavailableError, match=there[3]):
        RUN.invoke(app, ["ask", "x", "--target", there[3]], catch_exceptions=False)
    done = RUN.invoke(app, ["config", "--json"], catch_exceptions=False)
    found = {item["setting"]: item for item in json.loads(done.output)}
    assert (found["client.target"]["value"], found["client.target"]["origin"]) == (
        there[2],
        "environment",
    )
    assert found["client.timeout_seconds"]["origin"] == "user's file"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[client]\ntarget = 7\n", "client.target"),
        ("[client]\ntimeout_seconds = 0\n", "client.timeout_seconds"),
        ("[client]\ntraget = 'x'\n", "is it client.target?"),
        ("[log]\nkey_prefix = 'x'\n", r"only the table \[client\]"),
        ("client\n", "not valid TOML"),
    ],
)
def test_a_wrong_client_file_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: str, message: str
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    client_file().parent.mkdir(parents=True)
    client_file().write_text(content)
    with pytest.raises(StartupError, match=message):
        RUN.invoke(app, ["status"], catch_exceptions=False)


def test_up_takes_the_redis_that_the_settings_name(monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    monkeypatch.setenv("ERRATA_LOG__REDIS_URL", f"redis://127.0.0.1:{port}/0")
    for name, address in address_variables(free_addresses()).items():
        monkeypatch.setenv(name, address)
    with pytest.raises(StartupError, match=rf"\nRedis: .*{port}"):
        RUN.invoke(app, ["up"], catch_exceptions=False)


def test_the_author_is_the_login_name_or_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    assert cli_options.login_name() == getpass.getuser()

    def nobody() -> str:
        raise KeyError("getpwuid(): uid not found: 4711")

    monkeypatch.setattr(getpass, "getuser", nobody)
    assert cli_options.login_name() == f"user {os.getuid()}"


def test_a_port_or_an_address_for_up_not_both() -> None:
    with pytest.raises(InvalidRequestError, match="or --address, which moves only the gateway"):
        RUN.invoke(
            app, ["up", "--port", "7800", "--address", "127.0.0.1:1"], catch_exceptions=False
        )
    assert RUN.invoke(app, ["up", "--port", "0"]).exit_code == 2


def test_the_demo_model_never_overwrites(tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("mine")
    with pytest.raises(StartupError, match="not empty"):
        RUN.invoke(app, ["demo-model", str(tmp_path)], catch_exceptions=False)
    assert (tmp_path / "kept").read_text() == "mine"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "give --model PATH to run in process"),
        (["--model", "m", "--in-process", "--target", "h:1"], "not both"),
        (["--model", "m", "--records", "7"], "not a range of records"),
        (["--model", "m", "--method", "mend"], "no method is called 'mend'"),
        (["--model", "m", "--suite", "magic"], "no suite is called 'magic'"),
    ],
)
def test_impossible_options_of_the_bench_are_refused(
    tmp_path: Path, options: list[str], message: str
) -> None:
    data = tmp_path / "data.json"
    data.write_text(json.dumps([FLAT]))
    command = ["bench", "edit", "--data", str(data), "--out", str(tmp_path / "out")]
    with pytest.raises(InvalidRequestError, match=message):
        RUN.invoke(app, [*command, *options], catch_exceptions=False)
    assert not (tmp_path / "out").exists()


def test_suites_are_listed() -> None:
    done = RUN.invoke(app, ["bench", "suites"])
    assert "attenuation" in done.output
    assert "drop-rate" in done.output
