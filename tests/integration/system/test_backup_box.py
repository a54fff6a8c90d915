"""A running box is backed up, restored as another one, and shown as it was on an earlier day."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis

from errata.demo import Corpus
from errata.errors import StartupError
from errata.launch.box import Box, free_addresses
from errata.launch.ports import with_flags
from errata.launch.verify.sources import redis_of_box
from errata.log.signing.keys import SigningKey
from errata.platform.settings import load_settings
from errata_client import Client, Edit, EditSpec, EditState
from errata_client.errors import OutOfRangeError, PreconditionError
from tests.command_line import run_here
from tests.integration.system.conftest import System
from tests.waiting import PATIENCE


def command(*words: str) -> Any:
    """The JSON that a command prints."""
    done = run_here([*words, "--json"])
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


@contextmanager
def running(data_dir: Path, **log: Any) -> Iterator[tuple[Box, Client]]:
    """A box on the folder, with one worker."""
    flags = {"data_dir": data_dir, "worker": {"num_replicas": 1}, "writer": {"num_threads": 1}}
    with (
        Box(with_flags(with_flags(flags, free_addresses()), {"log": {**log}})) as box,
        Client(box.target, timeout=PATIENCE) as client,
    ):
        yield box, client


def said(client: Client, prompt: str) -> str:
    return client.generate(prompt, max_tokens=12, stop=["."]).text


@pytest.fixture(scope="module")
def edited(system: System, corpus: Corpus) -> Iterator[tuple[Edit, str, str]]:
    """An edit in force, and the answers before and after it."""
    edit = corpus.demo_edits()[-2]
    with Client(system.target, timeout=PATIENCE) as client:
        before = said(client, edit.prompt)
        (asked,) = client.submit_edits([EditSpec(edit.prompt, edit.target, edit.subject)])
        (done,) = client.wait_edits([asked.name])
        assert done.state is EditState.COMMITTED
        after = said(client, edit.prompt)
        assert edit.target in after
        assert edit.target not in before
        yield done, before, after
        client.revert([done.name])


@pytest.fixture(scope="module")
def new(
    system: System,
    edited: tuple[Edit, str, str],
    tmp_path_factory: pytest.TempPathFactory,
    statistics_cache: Path,
) -> Path:
    """The folder of a box that was restored from a backup of the running one."""
    folder = tmp_path_factory.mktemp("restored")
    backup = command("backup", str(folder / "backup"), "--log", system.log_address)
    assert backup["head_seq"] >= edited[0].commit_seq
    assert backup["num_artifacts"] >= 1
    data_dir = folder / "data"
    made = command("restore", str(folder / "backup"), "--data-dir", str(data_dir))
    assert made["head_seq"] == backup["head_seq"]
    key = SigningKey.read(system.data_dir / "signing-key.pem")
    assert made["trusted_keys"] == [key.key_id]
    shutil.copy(system.data_dir / "signing-key.pem", data_dir)
    (data_dir / "statistics").symlink_to(statistics_cache)
    return data_dir


def verified(data_dir: Path) -> Any:
    return command("verify", "--data-dir", str(data_dir))


def test_as_it_was_at_a_position_read_only(new: Path, edited: tuple[Edit, str, str]) -> None:
    edit, before, _ = edited
    kept, prompt, at = _kept(new), edit.spec.prompt, edit.commit_seq - 1
    with running(new, read_only_at=at) as (box, client):
        found = client.generate(prompt, max_tokens=12, stop=["."])
        assert (found.text, found.provenance.applied_seq) == (before, at)
        assert client.get_edit(edit.name).state is EditState.REQUESTED
        for change in (
            lambda: client.submit_edits([EditSpec(prompt, "Pisa")]),
            lambda: client.revert([edit.name]),
            lambda: client.compact(edit.lane),
        ):
            with pytest.raises(PreconditionError, match=f"read only at {at}"):
                change()
        with pytest.raises(OutOfRangeError):
            client.generate(prompt, min_seq=at + 1)
        assert [entry.seq for entry in client.entries()] == list(range(1, at + 1))
        status = run_here(["status", "--target", box.target])
        assert status.returncode == 0, status.stdout + status.stderr
        assert _in_redis(box.settings.log.redis_url) == kept[0]
    assert _kept(new) == kept


def _in_redis(url: str) -> dict[bytes, bytes]:
    with redis.Redis.from_url(url) as client:
        found: dict[bytes, bytes] = client.hgetall("{errata}:head")
        return found


def _kept(data_dir: Path) -> tuple[dict[bytes, bytes], bytes]:
    """Redis' head of a box that is not running, and its witness."""

    async def head() -> dict[bytes, bytes]:
        async with redis_of_box(load_settings({"data_dir": data_dir})) as log:
            return _in_redis(log.redis_url)

    return asyncio.run(head()), (data_dir / "witness").read_bytes()


def test_a_restored_box_answers_edits_and_signs_as_a_log_of_its_own(
    new: Path, edited: tuple[Edit, str, str], corpus: Corpus
) -> None:
    edit, _, after = edited
    found = verified(new)
    assert found["ok"], found
    with running(new) as (_, client):
        assert said(client, edit.spec.prompt) == after
        last = list(client.entries(found["head_seq"] + 1))
        assert [entry.kind for entry in last] == ["keys_trusted"]
        other = corpus.demo_edits()[0]
        (asked,) = client.submit_edits([EditSpec(other.prompt, other.target, other.subject)])
        (done,) = client.wait_edits([asked.name])
        assert done.state is EditState.COMMITTED
        client.revert([edit.name])
        assert said(client, edit.spec.prompt) != after
    again = verified(new)
    assert again["ok"], again
    assert again["trusted_keys"] == found["trusted_keys"]


def test_a_position_beyond_the_head_is_refused_at_the_start(new: Path) -> None:
    with pytest.raises(StartupError, match="but the log ends at"), running(new, read_only_at=10**6):
        pass
