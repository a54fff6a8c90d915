"""P5, P6, P7, P9, P10 and P11 through the front door of a running system."""

from __future__ import annotations

import asyncio
import itertools
import threading
import uuid
from collections.abc import Iterator

import pytest

from errata import demo
from errata.artifacts.remote import RemoteArtifacts
from errata.demo import Corpus, DemoEdit
from errata.editing.model.causal_lm import CausalLM
from errata.errors import BaseModelMismatchError
from errata.platform.server import open_channel
from errata.platform.settings import WorkerSettings
from errata.worker.admission import GenerationInput
from errata.worker.replica import Replica
from errata_client import (
    Answer,
    AsyncClient,
    Client,
    Edit,
    EditSpec,
    EditState,
    ReplicaAnswer,
)
from tests.integration.system.conftest import System
from tests.waiting import PATIENCE


def _spec(edit: DemoEdit) -> EditSpec:
    probes = tuple(probe.prompt for probe in edit.neighbours)
    return EditSpec(edit.prompt, edit.target, edit.subject, edit.rephrases, probes, "a test")


def _answers(found: list[ReplicaAnswer]) -> list[Answer]:
    assert len(found) == 2, "two replicas must answer"
    assert not any(item.error for item in found), found
    return [item.answer for item in found if item.answer is not None]


def _everywhere(client: Client, prompt: str, min_seq: int | None = None) -> list[Answer]:
    return _answers(client.generate_everywhere(prompt, min_seq=min_seq, max_tokens=12, stop=["."]))


@pytest.fixture(scope="module")
def committed(system: System, corpus: Corpus) -> Iterator[tuple[DemoEdit, Edit]]:
    """One edit in force, submitted by somebody else than the test's own client."""
    edit = corpus.demo_edits()[0]
    with Client(system.target, timeout=PATIENCE) as other:
        spec = _spec(edit)
        done = other.edit(
            spec.prompt,
            spec.target,
            subject=spec.subject,
            rephrases=spec.rephrases,
            locality_probes=spec.locality_probes,
            source=spec.source,
            author="somebody",
        )
        yield edit, done
        if other.get_edit(done.name).state is EditState.COMMITTED:
            other.revert([done.name])


@pytest.mark.promise("P5", "P7")
def test_from_its_position_on_every_replica_answers_with_the_edit(
    client: Client, committed: tuple[DemoEdit, Edit]
) -> None:
    edit, done = committed
    for prompt in (edit.prompt, *edit.rephrases):
        for answer in _everywhere(client, prompt, done.commit_seq):
            assert answer.text.strip() == edit.target, prompt
            assert answer.provenance.applied_seq >= done.commit_seq
    for probe in edit.neighbours:
        for answer in _everywhere(client, probe.prompt, done.commit_seq):
            assert answer.text.strip() == probe.answer, probe.prompt


@pytest.mark.promise("P10")
def test_an_answer_names_its_edits_and_an_edit_its_origin(
    client: Client, committed: tuple[DemoEdit, Edit]
) -> None:
    edit, done = committed
    answer = client.generate(edit.prompt, min_seq=done.commit_seq)
    assert done.name in answer.provenance.edits
    assert answer.provenance.num_edits_in_force >= 1
    unrelated = client.generate(edit.neighbours[0].prompt, min_seq=done.commit_seq)
    assert done.name not in unrelated.provenance.edits
    stored = client.get_edit(done.name)
    assert (stored.author, stored.spec.source, stored.method) == ("somebody", "a test", "adaple")
    (lane,) = [lane for lane in client.lanes() if lane.is_default]
    assert stored.base_model_digest == lane.base_model_digest
    assert len(stored.artifact_digest) == 64
    assert stored.figures is not None
    assert stored.figures.reliability == 1.0


@pytest.mark.promise("P5", "P8", "P10", "P11")
def test_a_lane_of_prompts_claims_its_fact_and_nothing_else(client: Client, corpus: Corpus) -> None:
    edit = corpus.demo_edits()[1]
    unrelated = [probe.prompt for probe in edit.neighbours]
    before = {prompt: _everywhere(client, prompt) for prompt in (edit.prompt, *unrelated)}
    done = client.edit(edit.prompt, edit.target, subject=edit.subject, lane="lanes/facts")
    assert done.method == "recipe"
    for answer in _everywhere(client, edit.prompt, done.commit_seq):
        assert answer.text.strip() == edit.target
        assert answer.provenance.edits == (done.name,)
    for prompt in unrelated:
        for answer, old in zip(
            _everywhere(client, prompt, done.commit_seq), before[prompt], strict=True
        ):
            assert (answer.text, answer.provenance.edits) == (old.text, old.provenance.edits)
    reverted = client.revert([done.name])
    for answer, old in zip(
        _everywhere(client, edit.prompt, reverted.seq), before[edit.prompt], strict=True
    ):
        assert answer.text == old.text
        assert answer.provenance.state_digest == old.provenance.state_digest


@pytest.mark.promise("P7")
async def test_a_replica_that_starts_late_catches_up_from_the_log_alone(
    system: System, committed: tuple[DemoEdit, Edit], corpus: Corpus
) -> None:
    edit, done = committed
    model = await asyncio.to_thread(CausalLM.load, demo.model_path())
    async with open_channel(system.log_address) as channel, AsyncClient(system.target) as client:
        late = Replica(
            "late", model, RemoteArtifacts(channel), system.log_address, WorkerSettings()
        )
        await late.start()
        try:
            late.check_health()
            assert late.engine.version.seq >= done.commit_seq
            prompts = [edit.prompt, *edit.rephrases, *(p.prompt for p in edit.neighbours)]
            for prompt in prompts:
                pieces = [
                    piece
                    async for piece in late.generate(
                        GenerationInput(prompt=prompt, max_tokens=12, stop=["."]),
                        streaming=True,
                        timeout_seconds=PATIENCE,
                    )
                ]
                there = await client.generate(prompt, max_tokens=12, stop=["."])
                assert "".join(piece.text for piece in pieces) == there.text
                version = pieces[-1].version
                assert version.seq == there.provenance.applied_seq
                assert version.chain_digest.hex() == there.provenance.chain_digest
                assert version.state_digest == there.provenance.state_digest
            standing = {replica.name: replica for replica in await client.replicas()}
            assert "late" in standing, "it must report its position"
            states = {each.state_digest for each in standing.values() if each.role != "catalog"}
            assert len(states) == 1
            assert all(replica.agrees for replica in standing.values())
        finally:
            await late.close()


async def test_a_worker_with_another_base_model_is_never_ready_and_says_why(
    system: System,
) -> None:
    other = await asyncio.to_thread(CausalLM.load, demo.model_path(), dtype="bfloat16")
    async with open_channel(system.log_address) as channel:
        stranger = Replica(
            "stranger", other, RemoteArtifacts(channel), system.log_address, WorkerSettings()
        )
        with pytest.raises(BaseModelMismatchError, match="base model"):
            await stranger.start()
        with pytest.raises(BaseModelMismatchError):
            stranger.check_health()


@pytest.mark.promise("P6")
def test_streams_and_answers_keep_one_version_while_edits_come_and_go(
    system: System, corpus: Corpus
) -> None:
    """Readers ask all the time; every stream has one position, and its text is that position's."""
    edit = corpus.demo_edits()[1]
    stop = threading.Event()
    seen: list[tuple[int, str, str]] = []
    mixed: list[set[int]] = []

    def read() -> None:
        with Client(system.target, timeout=PATIENCE) as reader:
            while not stop.is_set():
                chunks = list(reader.stream(edit.prompt, max_tokens=12, stop=["."], min_seq=0))
                mixed.append({chunk.provenance.applied_seq for chunk in chunks})
                text = "".join(chunk.text for chunk in chunks).strip()
                last = chunks[-1].provenance
                seen.append((last.applied_seq, last.state_digest, text))

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    spans = []
    with Client(system.target, timeout=PATIENCE) as client:
        for _ in range(2):
            done = client.edit(edit.prompt, edit.target, subject=edit.subject)
            client.generate_everywhere(edit.prompt)
            reversal = client.revert([done.name])
            client.generate_everywhere(edit.prompt)
            spans.append((done.commit_seq, reversal.seq))
    stop.set()
    for reader in readers:
        reader.join()
    assert all(len(seqs) == 1 for seqs in mixed)
    in_force = [any(start <= seq < end for start, end in spans) for seq, _, _ in seen]
    assert True in in_force, "the readers must have seen both sides"
    assert False in in_force
    for (_, _, text), edited in zip(seen, in_force, strict=True):
        assert (text == edit.target) is edited
    by_seq = {(seq, digest) for seq, digest, _ in seen}
    assert len({seq for seq, _ in by_seq}) == len(by_seq), "one position, one state"


@pytest.mark.promise("P9")
def test_a_batch_takes_effect_wholly_or_not_at_all(client: Client, corpus: Corpus) -> None:
    """One edit of the batch cannot pass its check; the others commit, and it leaves no trace."""
    good = [_spec(edit) for edit in corpus.demo_edits()[2:4]]
    start = _everywhere(client, good[0].prompt)[0].provenance.state_digest
    # The probe is the very question that the edit answers anew: both checks cannot hold.
    other = corpus.demo_edits()[5]
    impossible = EditSpec(other.prompt, other.target, other.subject, (), (other.prompt,))
    before = _everywhere(client, other.prompt)[0].text
    accepted = client.submit_edits([good[0], impossible, good[1]])
    settled = client.wait_edits([edit.name for edit in accepted])
    states = [edit.state for edit in settled]
    assert states == [EditState.COMMITTED, EditState.REJECTED, EditState.COMMITTED]
    assert "locality" in settled[1].error
    assert settled[1].figures is not None
    assert settled[1].figures.locality == 0.0
    seqs = {edit.commit_seq for edit in settled if edit.commit_seq}
    assert len(seqs) == 1, "what was fitted together is one entry"
    for spec in good:
        assert {a.text.strip() for a in _everywhere(client, spec.prompt)} == {spec.target}
    assert {a.text for a in _everywhere(client, other.prompt)} == {before}
    client.revert([edit.name for edit in settled if edit.state is EditState.COMMITTED])
    states_after = {a.provenance.state_digest for a in _everywhere(client, good[0].prompt)}
    assert states_after == {start}, "reverted, nothing is left of the batch"


@pytest.mark.promise("P11")
def test_a_reverted_edit_is_as_if_its_delta_had_never_been(client: Client, corpus: Corpus) -> None:
    first, second = (_spec(edit) for edit in corpus.demo_edits()[3:5])
    old = _everywhere(client, second.prompt)[0].text
    kept = client.edit(first.prompt, first.target, subject=first.subject)
    state = _everywhere(client, first.prompt)[0].provenance.state_digest
    gone = client.edit(second.prompt, second.target, subject=second.subject)
    assert _everywhere(client, second.prompt)[0].text.strip() == second.target
    reversal = client.revert([gone.name], comment="by mistake")
    assert "is removed" in reversal.meanings[0]
    for answer in _everywhere(client, second.prompt, reversal.seq):
        assert answer.text == old
        assert answer.provenance.state_digest == state
    assert client.get_edit(gone.name).revert_seq == reversal.seq
    client.revert([kept.name])


def test_an_edit_that_the_model_answers_already_is_accepted_and_told(
    client: Client, corpus: Corpus
) -> None:
    fact = corpus.demo_edits()[5]
    true_answer = _everywhere(client, fact.prompt)[0].text.strip()
    done = client.edit(fact.prompt, true_answer, subject=fact.subject)
    assert done.figures is not None
    assert done.figures.already_answered
    assert done.state is EditState.COMMITTED
    client.revert([done.name])


@pytest.mark.promise("P3")
def test_a_retried_submission_is_one_edit(client: Client, corpus: Corpus) -> None:
    spec = _spec(corpus.demo_edits()[6])
    request_id = str(uuid.uuid4())
    answers = [client.submit_edits([spec], request_id=request_id) for _ in range(3)]
    assert len({edits[0].name for edits in answers}) == 1
    (done,) = client.wait_edits([answers[0][0].name])
    again = client.submit_edits([spec], request_id=request_id)
    assert again[0].name == done.name
    assert again[0].state is EditState.COMMITTED
    undo = str(uuid.uuid4())
    reversals = [client.revert([done.name], request_id=undo) for _ in range(2)]
    assert reversals[0] == reversals[1]


@pytest.mark.promise("P1")
def test_the_log_is_contiguous_and_says_what_happened(client: Client) -> None:
    entries = list(client.entries())
    assert [entry.seq for entry in entries] == list(range(1, len(entries) + 1))
    assert entries[0].kind == "keys_trusted", "the writer's own key comes before its lanes"
    assert entries[1].kind == "lane_configured"
    assert {entry.kind for entry in entries} >= {"edits_requested", "edits_committed"}
    assert len({entry.chain_digest for entry in entries}) == len(entries)
    assert next(iter(client.entries(from_seq=3))) == entries[2]


def test_scores_speak_of_the_edited_model(client: Client, committed: tuple[DemoEdit, Edit]) -> None:
    edit, done = committed
    scored = client.score(edit.prompt, edit.target, min_seq=done.commit_seq)
    assert scored.token_accuracy == 1.0
    other = client.score(edit.prompt, "Berlin", min_seq=done.commit_seq)
    assert other.log_probability < scored.log_probability
    assert other.token_accuracy < 1.0
    assert scored.provenance.applied_seq >= done.commit_seq


async def test_ten_lines_of_the_asynchronous_client(system: System, corpus: Corpus) -> None:
    edit = corpus.demo_edits()[7 % len(corpus.demo_edits())]
    async with AsyncClient(system.target, timeout=PATIENCE) as errata:
        done = await errata.edit(edit.prompt, edit.target, subject=edit.subject)
        answer = await errata.generate(edit.prompt, max_tokens=12, stop=["."])
        assert answer.text.strip() == edit.target
        assert answer.provenance.applied_seq >= done.commit_seq
        assert done.name in [found.name async for found in errata.list_edits()]
        await errata.revert([done.name])


@pytest.mark.promise("P11")
def test_a_reversal_names_the_edits_that_leaned_on_what_it_takes_back(
    client: Client, corpus: Corpus
) -> None:
    """A rephrasing that the first edit answers has little to learn when it is made an edit."""
    lost: list[str] = []
    for fact in corpus.demo_edits()[1:]:  # how much each learns is the fit's affair
        rephrase = next((text for text in fact.rephrases if fact.subject in text), fact.prompt)
        first = client.edit(fact.prompt, fact.target, subject=fact.subject)
        leaning = client.edit(rephrase, fact.target, subject=fact.subject)
        reversal = client.revert([first.name])
        lost = [told for told in reversal.meanings if leaning.name in told]
        answer = client.generate(rephrase, max_tokens=12, stop=["."], min_seq=reversal.seq)
        assert bool(lost) != answer.text.strip().startswith(fact.target), fact
        last = client.revert([leaning.name])
        assert not any("No longer answered" in told for told in last.meanings)
        if lost:
            break
    assert lost, "none leaned on another"
    assert "submit them again" in lost[0]


def test_both_replicas_take_part_in_ordinary_requests(client: Client, corpus: Corpus) -> None:
    prompts = itertools.cycle(edit.prompt for edit in corpus.demo_edits())
    replicas = {client.generate(next(prompts)).provenance.replica for _ in range(40)}
    assert len(replicas) == 2
