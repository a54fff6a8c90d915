"""`errata bench edit` gives the same figures in process and through a cluster's front door."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from errata import demo
from errata.bench_cli import bench
from errata.demo import Corpus
from errata.errors import InvalidRequestError
from tests.integration.system.conftest import System

# The same code and the same edits; only clocks differ.
_COMPARED = (
    "model edits batch seed metrics pre immediate final ci95 state_bytes num_rejected config"
).split()


def write_records(corpus: Corpus, path: Path) -> None:
    """Facts of the demo corpus, turned round, in CounterFact's flat layout."""
    rows = []
    for name, relation in corpus.relations().items():
        facts = [fact for fact in corpus.facts() if fact.relation == name]
        for fact, other in itertools.pairwise(facts):
            prompt, rephrase = demo.prompts(relation, fact.subject)[:2]
            if fact.object != other.object:
                rows.append(
                    {
                        "prompt": prompt,
                        "subject": fact.subject,
                        "target_new": other.object,
                        "ground_truth": fact.object,
                        "rephrase_prompt": rephrase,
                        "locality_prompt": demo.prompts(relation, other.subject)[0],
                        "locality_ground_truth": other.object,
                    }
                )
    random.Random(0).shuffle(rows)
    path.write_text(json.dumps(rows), encoding="utf-8")


def _run(out: Path, *options: str) -> dict[str, Any]:
    arguments = ["edit", "--out", str(out), *options]
    done = CliRunner().invoke(bench, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads((out / "result.json").read_text())
    return found


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As many as the system's writer has: the order of a sum depends on it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
def test_both_ways_agree_to_the_last_digit(system: System, corpus: Corpus, tmp_path: Path) -> None:
    data, text, heldout = (tmp_path / name for name in ("facts.json", "text", "heldout"))
    write_records(corpus, data)
    # The paragraphs that the system's writer takes its statistics from.
    text.write_text("\n".join(corpus.training_text(0, 2_000)), encoding="utf-8")
    heldout.write_text("\n".join(corpus.training_text(1, 20)), encoding="utf-8")
    config = tmp_path / "config.toml"
    config.write_text('optimise = "top"\n')  # as in the demo's lanes
    common = ["--data", str(data), "--model", str(demo.model_path()), "--heldout", str(heldout)]
    common += ["--lane-config", str(config)]
    plans = {
        "whole": ["--edits", "20", "--batch", "5", "--texts", "2"],
        # What the first run did must be gone from the cluster.
        "again": ["--edits", "4", "--batch", "2", "--seed", "1", "--texts", "1"],
    }
    through = {
        name: _run(tmp_path / f"{name}-through", *common, *options, "--target", system.target)
        for name, options in plans.items()
    }
    inside = {
        name: _run(
            tmp_path / f"{name}-inside", *common, *options, "--text", str(text),
            "--cache-dir", str(tmp_path / "cache"), "--in-process",
        )
        for name, options in plans.items()
    }  # fmt: skip
    for name in plans:
        for key in _COMPARED:
            assert through[name][key] == inside[name][key], f"{name}: {key}"
    whole = through["whole"]
    assert whole["edits"] == 20
    assert whole["pre"]["reliability"]["exact"] < 0.2
    assert whole["final"]["reliability"]["exact"] > 0.5, "the figures are of edits that took"
    forgotten = (whole[when]["target_perplexity"] for when in ("final", "immediate"))
    assert next(forgotten) > next(forgotten), "and so many that they got into each other's way"


def test_a_cluster_without_a_chat_template_is_not_asked_in_chat(
    system: System, corpus: Corpus, tmp_path: Path
) -> None:
    write_records(corpus, tmp_path / "facts.json")
    arguments = ["edit", "--data", str(tmp_path / "facts.json"), "--out", str(tmp_path / "out")]
    failed = CliRunner().invoke(bench, [*arguments, "--target", system.target, "--form", "chat"])
    assert isinstance(failed.exception, InvalidRequestError)
    assert f"the model of {system.target} has no chat template" in str(failed.exception)
