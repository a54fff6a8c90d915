"""`errata plan`: from a configuration alone, with clear errors."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from errata import demo
from errata.launch.plan.show import size
from tests.command_line import run_here

LLAMA = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 8,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 300,
    "max_position_embeddings": 4096,
}


@pytest.fixture(autouse=True)
def _settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ERRATA_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(LLAMA))
    return path


def plan(*options: str) -> dict[str, Any]:
    done = run_here(["plan", "--json", *options])
    assert done.returncode == 0, done.stderr
    made: dict[str, Any] = json.loads(done.stdout)
    return made


def service(made: dict[str, Any], name: str) -> dict[str, Any]:
    (found,) = (item for item in made["services"] if item["name"] == name)
    return dict(found)


def part(made: dict[str, Any], service_name: str, what: str) -> int:
    (found,) = (p for p in service(made, service_name)["parts"] if p["what"] == what)
    return int(found["bytes"])


@pytest.mark.parametrize("method", ["adaple", "recipe", "elder", "lemoe"])
def test_a_config_alone_gives_a_plan(config: Path, method: str) -> None:
    made = plan("--model", str(config), "--method", method, "--edits", "500")
    names = [item["name"] for item in made["services"]]
    assert ("retrieval" in names) == (method != "adaple")
    assert made["lanes"][0]["method"] == method
    weights = part(made, "worker", "weights")
    assert weights == part(made, "writer", "weights") == 4 * made["model"]["parameters"]
    for item in made["services"]:
        for place in ("device", "host"):
            assert item["highest"][place] >= item["bytes"][place]
            held = [p for p in item["parts"] if p["where"] == place and p["during"] == "always"]
            assert item["bytes"][place] == sum(p["bytes"] for p in held)


def test_options_change_what_they_name(config: Path) -> None:
    base = ("--model", str(config), "--method", "adaple", "--edits", "100")
    first, halved = plan(*base), plan(*base, "--dtype", "bfloat16")
    assert part(first, "worker", "weights") == 2 * part(halved, "worker", "weights")
    more = plan(*base[:-1], "200")
    for what in ("factors of commits", "directions for attribution"):
        assert part(more, "worker", what) == 2 * part(first, "worker", what)
    assert part(more, "writer", "statistics E[kkᵀ]") == part(first, "writer", "statistics E[kkᵀ]")
    fewer = plan(*base, "--rows", "4", "--replicas", "3", "--max-context", "512")
    assert service(fewer, "worker")["processes"] == 3
    kept = "keys and values that stay"
    # 16 rows of 1,024 entries against 4 rows of 512.
    assert part(first, "worker", kept) == 8 * part(fewer, "worker", kept)
    assert not any("max-context" in text for text in fewer["warnings"])
    assert any("max-context" in text for text in first["warnings"])


def test_the_demos_lanes_are_planned_with_their_lane_model() -> None:
    made = plan("--edits", "50")
    assert len(made["lanes"]) > 1
    assert made["model"]["layers"] == 6
    file = demo.lanes_path().parent / "recipe" / "lane_model.safetensors"
    planned = {p["bytes"] for p in service(made, "worker")["parts"] if p["what"] == "lane model"}
    assert all(0.95 * file.stat().st_size < size <= file.stat().st_size for size in planned)
    assert planned


def test_the_text_names_every_part(config: Path) -> None:
    options = ["plan", "--model", str(config), "--method", "elder", "--edits", "100"]
    whole, totals = run_here(options), run_here([*options, "--totals"])
    assert whole.returncode == totals.returncode == 0
    for word in ("differences of experts", "operations, not seconds", "4·P_e", "worker"):
        assert word in whole.stdout
    assert "differences of experts" not in totals.stdout
    assert "0 (optional)" in totals.stdout


@pytest.mark.parametrize(
    ("options", "reason", "words"),
    [
        (("--edits", "-1"), "INVALID_REQUEST", "give 0 or more"),
        (("--text-tokens", "3"), "INVALID_REQUEST", "at least 5"),
        (("--text-tokens", "9999"), "INVALID_REQUEST", "more than the"),
        (("--method", "rome"), "INVALID_REQUEST", "choose one of adaple"),
        (("--device", "abacus"), "INVALID_REQUEST", "plan for cpu or cuda"),
        (("--dtype", "int4"), "STARTUP_FAILED", "dtype"),
        (("--model", "no/such/config.json"), "MODEL_NOT_FOUND", "give a model's config.json"),
        (("--model", "/no/such/folder"), "MODEL_NOT_FOUND", "is not a folder"),
        (("--lanes-file", "/no/lanes.toml"), "STARTUP_FAILED", "lanes"),
        (("--measure", "--edits", "0", "--method", "adaple"), "INVALID_REQUEST", "at least one"),
    ],
)
def test_bad_options_get_a_remedy(options: tuple[str, ...], reason: str, words: str) -> None:
    done = run_here(["plan", *options])
    assert done.returncode == 1
    assert f"[{reason}]" in done.stderr
    assert words in done.stderr


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "cannot be read"),
        ("{}", "cannot be read"),
        (json.dumps({**LLAMA, "model_type": "bert"}), "none of the module layouts"),
        (json.dumps({"model_type": "t5"}), "causal language model"),
    ],
)
def test_other_configs_are_refused(config: Path, content: str, words: str) -> None:
    config.write_text(content)
    done = run_here(["plan", "--model", str(config)])
    assert done.returncode == 1
    assert "[MODEL_UNSUPPORTED]" in done.stderr
    assert words in done.stderr


def test_a_lane_model_of_another_llm_is_refused(config: Path, tmp_path: Path) -> None:
    shutil.copytree(demo.lanes_path().parent / "recipe", tmp_path / "recipe")
    lanes = tmp_path / "lanes.toml"
    lanes.write_text('[lanes.main]\nmethod = "recipe"\nmodel = "recipe"\n')
    done = run_here(["plan", "--model", str(config), "--lanes-file", str(lanes)])
    assert done.returncode == 1
    assert "is for an LLM of width 192" in done.stderr
    both = ["plan", "--model", str(config), "--lanes-file", str(lanes), "--method", "elder"]
    assert "not both" in run_here(both).stderr


def test_sizes_have_three_digits() -> None:
    sizes = {0: "0 B", 999: "999 B", 1_000: "1.00 kB", 12_345: "12.3 kB", 999_600: "1.00 MB"}
    assert {number: size(number) for number in sizes} == sizes


def test_redis_keeps_only_what_trims_leave(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ("--model", str(config), "--method", "recipe", "--edits")
    most, more = plan(*options, "50000"), plan(*options, "100000")
    kept = part(most, "redis", "entries in Redis")
    assert part(more, "redis", "entries in Redis") == pytest.approx(kept, rel=0.01)
    monkeypatch.setenv("ERRATA_LOG__TRIM", "false")
    untrimmed = plan(*options, "100000")
    assert part(untrimmed, "redis", "entries in Redis") > 4 * kept
    assert [p["what"] for p in service(untrimmed, "redis")["parts"]] == [
        "entries in Redis",
        "append-only file",
    ]
