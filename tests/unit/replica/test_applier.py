"""Applying entries: equal entries give equal states; entries that fail change nothing."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
import torch

from errata import demo
from errata.artifacts.store import ArtifactStore
from errata.demo import Corpus
from errata.editing.artifact import Artifact
from errata.editing.edit import Edit
from errata.editing.model.causal_lm import CausalLM
from errata.editing.registry import get_method
from errata.errors import (
    ArtifactCorruptError,
    BaseModelMismatchError,
    DataLossError,
    NotFoundError,
    PreconditionError,
)
from errata.indices.faiss_indices import FaissIndices
from errata.log.entries import (
    ArtifactRef,
    EditsCommitted,
    EditsReverted,
    Entry,
    Figures,
    LaneConfigured,
    Payload,
)
from errata.platform.settings import WriterSettings
from errata.replica.applier import Applier
from errata.writer.fitting import fit_batch
from errata.writer.resources import WriterResources

FIGURES = Figures(1, None, 1, False)


def _entry(seq: int, kind: Payload) -> Entry:
    return Entry(seq, f"id-{seq}", datetime.now(UTC), "test", kind)


def _edits(corpus: Corpus) -> list[Edit]:
    return [
        Edit(f"edits/{seq}-0", edit.prompt, edit.target, edit.subject)
        for seq, edit in enumerate(corpus.demo_edits(), start=2)
    ]


@pytest.fixture(scope="module")
def history(
    corpus: Corpus, statistics_cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[list[Entry], ArtifactStore]:
    """A lane and two commits of two edits each, fitted by the writer's code."""
    return asyncio.run(_history(corpus, tmp_path_factory.mktemp("history"), statistics_cache))


async def _history(corpus: Corpus, folder: Path, cache: Path) -> tuple[list[Entry], ArtifactStore]:
    store = ArtifactStore(str(folder / "artifacts"))
    model = CausalLM.load(demo.model_path())
    config = get_method("adaple").config()
    lane = LaneConfigured("lanes/main", "adaple", config.model_dump_json(), "c", model.digest)
    entries = [_entry(1, lane)]
    applier = Applier(model, store, FaissIndices(), keep_memory=True)
    await _apply(applier, entries)
    applier.lanes["lanes/main"].lane.gather(WriterResources(None, cache))
    edits = _edits(corpus)
    for batch in (edits[:2], edits[2:4]):
        outcome = fit_batch(model, applier.lanes["lanes/main"], batch, WriterSettings())
        fitted = outcome.fitted
        assert fitted is not None
        ref = ArtifactRef(await store.put(fitted.artifact), len(fitted.artifact))
        names = tuple(edit.name for edit in fitted.edits)
        kind = EditsCommitted(
            "lanes/main", names, fitted.figures, ref, None, fitted.seed, model.digest, "c"
        )
        entries.append(_entry(len(entries) + 1, kind))
        await _apply(applier, entries[-1:])
    return entries, store


async def _apply(applier: Applier, entries: list[Entry]) -> None:
    for entry in entries:
        change = await applier.prepare(entry)
        if change is not None:
            change.apply()


@pytest.mark.promise("P7")
async def test_the_same_entries_give_the_same_state(
    history: tuple[list[Entry], ArtifactStore],
) -> None:
    entries, store = history
    first = Applier(CausalLM.load(demo.model_path()), store, FaissIndices())
    second = Applier(CausalLM.load(demo.model_path()), store, FaissIndices())
    digests = []
    for entry in entries:
        await _apply(first, [entry])
        digests.append(first.digest())
    await _apply(second, entries)
    assert second.digest() == digests[-1]
    assert len(set(digests)) == len(digests), "every entry changes the digest"
    for layer in range(second.model.num_layers):
        second.model.down_weight(layer)[0, 0] += 1e-3
    assert second.digest() != digests[-1], "a changed weight changes the digest"


@pytest.mark.promise("P11")
async def test_reverting_all_edits_restores_the_base_model_bit_for_bit(
    history: tuple[list[Entry], ArtifactStore],
) -> None:
    entries, store = history
    model = CausalLM.load(demo.model_path())
    applier = Applier(model, store, FaissIndices())
    await _apply(applier, entries[:1])
    base, bits = applier.digest(), model.current_digest()
    await _apply(applier, entries[1:])
    assert model.current_digest() != bits
    names = [
        name for e in entries if isinstance(e.payload, EditsCommitted) for name in e.payload.edits
    ]
    for seq, name in enumerate(names, start=len(entries) + 1):
        await _apply(applier, [_entry(seq, EditsReverted((name,), ""))])
    assert model.current_digest() == bits
    assert applier.digest() == base
    assert applier.num_edits == 0
    assert applier.attribution() is None


@pytest.mark.promise("P9")
@pytest.mark.parametrize(
    ("spoil", "error"),
    [
        (lambda k, good: replace(k, base_model_digest="other"), BaseModelMismatchError),
        (lambda k, good: replace(k, lane="lanes/none"), DataLossError),
        (lambda k, good: replace(k, artifact=ArtifactRef("0" * 64, 1)), NotFoundError),
        (lambda k, good: replace(k, edits=(*k.edits, "edits/99-0")), ArtifactCorruptError),
        (lambda k, good: replace(k, artifact=good), ArtifactCorruptError),
    ],
    ids=["model", "lane", "artifact missing", "more names than columns", "not an artifact"],
)
async def test_a_commit_that_cannot_be_applied_changes_nothing(
    history: tuple[list[Entry], ArtifactStore],
    spoil: Callable[[EditsCommitted, ArtifactRef], EditsCommitted],
    error: type[Exception],
) -> None:
    entries, store = history
    kind = entries[1].payload
    assert isinstance(kind, EditsCommitted)
    other = Artifact({"stray": torch.ones(2)}).to_bytes()
    stray = ArtifactRef(await store.put(other), len(other))
    applier = Applier(CausalLM.load(demo.model_path()), store, FaissIndices())
    await _apply(applier, entries[:1])
    before, bits = applier.digest(), applier.model.current_digest()
    with pytest.raises(error):
        await _apply(applier, [_entry(2, spoil(kind, stray))])
    assert (applier.digest(), applier.model.current_digest()) == (before, bits)
    await _apply(applier, entries[1:2])
    assert applier.digest() != before


async def test_damaged_artifact_bytes_are_refused(
    history: tuple[list[Entry], ArtifactStore], tmp_path: Path
) -> None:
    entries, store = history
    kind = entries[1].payload
    assert isinstance(kind, EditsCommitted)
    damaged = ArtifactStore(str(tmp_path))
    damaged.save(store.load(kind.artifact.digest))
    path = Path(damaged.path_of(kind.artifact.digest))
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    applier = Applier(CausalLM.load(demo.model_path()), damaged, FaissIndices())
    await _apply(applier, entries[:1])
    with pytest.raises(ArtifactCorruptError, match="is damaged"):
        await _apply(applier, entries[1:2])
    assert applier.num_edits == 0


async def test_a_lane_cannot_be_configured_twice_differently(
    history: tuple[list[Entry], ArtifactStore],
) -> None:
    entries, store = history
    applier = Applier(CausalLM.load(demo.model_path()), store, FaissIndices())
    await _apply(applier, entries[:1])
    await _apply(applier, [replace(entries[0], seq=2)])
    assert isinstance(entries[0].payload, LaneConfigured)
    with pytest.raises(PreconditionError, match="another name"):
        await _apply(applier, [_entry(3, replace(entries[0].payload, config_digest="d"))])


async def test_a_revert_of_an_edit_that_was_never_committed_is_data_loss(
    history: tuple[list[Entry], ArtifactStore],
) -> None:
    entries, store = history
    applier = Applier(CausalLM.load(demo.model_path()), store, FaissIndices())
    await _apply(applier, entries[:1])
    with pytest.raises(DataLossError, match="edits/9-9"):
        await _apply(applier, [_entry(2, EditsReverted(("edits/9-9",), ""))])


@pytest.mark.promise("P11", "P7")
async def test_an_edits_second_reversal_is_skipped_and_the_entrys_other_edits_are_reverted(
    history: tuple[list[Entry], ArtifactStore],
) -> None:
    entries, store = history
    names = [
        name for e in entries if isinstance(e.payload, EditsCommitted) for name in e.payload.edits
    ]
    once = Applier(CausalLM.load(demo.model_path()), store, FaissIndices())
    twice = Applier(CausalLM.load(demo.model_path()), store, FaissIndices())
    for applier in (once, twice):
        await _apply(applier, [*entries, _entry(4, EditsReverted((names[0],), ""))])
    await _apply(twice, [_entry(5, EditsReverted((names[0],), ""))])
    assert twice.digest() == once.digest()
    await _apply(once, [_entry(5, EditsReverted((names[1],), ""))])
    await _apply(twice, [_entry(6, EditsReverted((names[0], names[1]), ""))])
    assert twice.digest() == once.digest()
    assert twice.num_edits == len(names) - 2
