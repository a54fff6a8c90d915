"""Edits that fail individually are rejected, those that fail in a batch are retried."""

from __future__ import annotations

import asyncio
import importlib
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from errata import demo
from errata.artifacts.store import ArtifactStore
from errata.demo import Corpus
from errata.editing.edit import Edit
from errata.editing.model.causal_lm import CausalLM
from errata.editing.registry import get_method
from errata.errors import CheckFailedError, FitError, LaneFullError, SingularCovarianceError
from errata.indices.faiss_indices import FaissIndices
from errata.log.entries import Entry, LaneConfigured
from errata.platform.settings import WriterSettings
from errata.replica.applier import Applier
from errata.replica.open_lane import OpenLane
from errata.writer.batching import seed_of
from errata.writer.fitting import FitOutcome, fit_batch
from errata.writer.resources import WriterResources

LIMITS = WriterSettings()


class Bench:
    """The writer's model with one lane."""

    def __init__(self, folder: Path, cache: Path) -> None:
        method = get_method("adaple")
        self.model = CausalLM.load(demo.model_path())
        config = method.config()
        resources = WriterResources(None, cache)
        applier = Applier(self.model, ArtifactStore(str(folder)), FaissIndices(), keep_memory=True)
        kind = LaneConfigured(
            "lanes/main", "adaple", config.model_dump_json(), "c", self.model.digest
        )
        change = asyncio.run(applier.prepare(Entry(1, "id", datetime.now(UTC), "", kind)))
        assert change is not None
        change.apply()
        self.lane: OpenLane = applier.lanes["lanes/main"]
        self.lane.lane.gather(resources)

    def fit(self, edits: list[Edit], limits: WriterSettings = LIMITS) -> FitOutcome:
        before = self.model.current_digest()
        outcome = fit_batch(self.model, self.lane, edits, limits)
        assert self.model.current_digest() == before, "the model must be unchanged"
        return outcome


@pytest.fixture
def bench(tmp_path: Path, statistics_cache: Path) -> Bench:
    return Bench(tmp_path, statistics_cache)


@pytest.fixture
def edits(corpus: Corpus) -> list[Edit]:
    return [
        Edit(f"edits/2-{index}", edit.prompt, edit.target, edit.subject, edit.rephrases)
        for index, edit in enumerate(corpus.demo_edits()[:4])
    ]


def _impossible(edit: Edit) -> Edit:
    """An edit whose locality probe is its own prompt."""
    return Edit(edit.name, edit.prompt, edit.target, edit.subject, (), (edit.prompt,))


def test_a_batch_that_passes_is_fitted_whole_and_deterministically(
    bench: Bench, edits: list[Edit]
) -> None:
    first, again = bench.fit(edits), bench.fit(edits)
    assert first.fitted is not None
    assert again.fitted is not None
    assert [edit.name for edit in first.fitted.edits] == [edit.name for edit in edits]
    assert first.fitted.artifact == again.fitted.artifact
    assert all(figures.reliability == 1.0 for figures in first.fitted.figures)
    assert not first.rejections
    assert first.settled == {edit.name for edit in edits}
    assert set(first.seconds) == {"check", "keys", "targets", "solve"}


def test_a_seed_depends_on_the_edits_and_not_on_their_positions(
    edits: list[Edit],
) -> None:
    elsewhere = [replace(edit, name=f"edits/9-{i}") for i, edit in enumerate(edits)]
    assert seed_of("c", elsewhere) == seed_of("c", edits)
    others = [
        seed_of("d", edits),
        seed_of("c", edits[:3]),
        seed_of("c", edits[::-1]),
        seed_of("c", [replace(edits[0], target="another"), *edits[1:]]),
    ]
    assert len({seed_of("c", edits), *others}) == 5


def test_an_edit_that_fails_in_a_batch_is_left_out_and_retried_individually(
    bench: Bench, edits: list[Edit]
) -> None:
    bad = _impossible(edits[1])
    outcome = bench.fit([edits[0], bad, edits[2]])
    assert outcome.fitted is not None
    assert [edit.name for edit in outcome.fitted.edits] == [edits[0].name, edits[2].name]
    assert outcome.retry_alone == {bad.name}
    assert not outcome.rejections, "not before it has failed individually"
    alone = bench.fit([bad])
    assert alone.fitted is None
    (rejection,) = alone.rejections
    assert isinstance(rejection.error, CheckFailedError)
    assert rejection.error.metadata["metric"] == "locality"
    assert rejection.figures is not None
    assert rejection.figures.locality == 0.0


@pytest.mark.parametrize(
    ("raised", "kind"),
    [
        (SingularCovarianceError("singular"), SingularCovarianceError),
        (RuntimeError("out of memory"), FitError),
    ],
)
def test_a_fit_that_raises_rejects_the_edit_and_does_not_end_the_writer(
    bench: Bench,
    edits: list[Edit],
    monkeypatch: pytest.MonkeyPatch,
    raised: Exception,
    kind: type[Exception],
) -> None:
    def broken(*args: Any, **kwargs: Any) -> None:
        raise raised

    monkeypatch.setattr(importlib.import_module("errata.editing.adaple.fit"), "solve_delta", broken)
    outcome = bench.fit(edits[:2])
    assert outcome.fitted is None
    (rejection,) = outcome.rejections
    assert rejection.edit == edits[0].name, "the batch was halved until one edit was at fault"
    assert type(rejection.error) is kind
    monkeypatch.undo()
    assert bench.fit(edits[:2]).fitted is not None


def test_a_full_lane_gets_no_second_attempt(
    bench: Bench, edits: list[Edit], monkeypatch: pytest.MonkeyPatch
) -> None:
    fits: list[int] = []

    def full(*args: Any, **kwargs: Any) -> None:
        fits.append(1)
        raise LaneFullError("the lane is full.")

    monkeypatch.setattr(importlib.import_module("errata.editing.adaple.fit"), "solve_delta", full)
    outcome = bench.fit(edits[:2])
    assert [type(r.error) for r in outcome.rejections] == [LaneFullError]
    assert len(fits) == 2, "of both, then of one: a stronger attempt makes no room"

    def full_for_all(*args: Any, **kwargs: Any) -> None:
        fits.append(1)
        raise LaneFullError("the lane is full.", lane_is_full=True)

    name = importlib.import_module("errata.editing.adaple.fit")
    monkeypatch.setattr(name, "solve_delta", full_for_all)
    fits.clear()
    assert [r.edit for r in bench.fit(edits[:2]).rejections] == [e.name for e in edits[:2]]
    assert len(fits) == 1, "fewer edits would have no more room"


def test_a_later_attempt_saves_an_edit_that_the_model_resists(bench: Bench, corpus: Corpus) -> None:
    stubborn = corpus.demo_edits()[4]
    edit = Edit("edits/2-0", stubborn.prompt, stubborn.target, stubborn.subject)
    assert bench.fit([edit]).fitted is not None
