import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
import torch

from errata.demo import Corpus
from errata.editing.causal_lm import CausalLM
from errata.editing.prompts import tokenise
from errata.engine.engine import BatchEngine
from errata.engine.sequence import GenerationRequest, Piece, ScoringRequest, Version
from errata.errors import InvalidRequestError, QueueFullError, UnavailableError
from tests.unit.editing.tiny_models import make_model

VERSION = Version(0, bytes(32), "state", 0)


@pytest.fixture
async def engine(shared_model: CausalLM) -> AsyncIterator[BatchEngine]:
    engine = BatchEngine(shared_model, version=VERSION, max_batch_size=4, max_queue=8)
    engine.start()
    yield engine
    await asyncio.to_thread(engine.close)


def _prompts(corpus: Corpus) -> list[str]:
    return [edit.prompt for edit in corpus.demo_edits()] + [
        probe.prompt for edit in corpus.demo_edits() for probe in edit.neighbours
    ]


async def _collect(engine: BatchEngine, request: GenerationRequest) -> list[Piece]:
    return [piece async for piece in engine.generate(request)]


def _naive(model: CausalLM, ids: tuple[int, ...], num_tokens: int) -> list[int]:
    """Greedy decoding of one row without padding or cache."""
    row = list(ids)
    for _ in range(num_tokens):
        with torch.no_grad():
            logits = model.model(input_ids=torch.tensor([row])).logits
        row.append(int(logits[0, -1].argmax()))
    return row[len(ids) :]


async def test_a_mixed_batch_gives_each_row_its_own_greedy_text(
    engine: BatchEngine, shared_model: CausalLM, corpus: Corpus
) -> None:
    prompts = _prompts(corpus)[:6]
    rows = [tokenise(shared_model, prompt).ids for prompt in prompts]
    assert len({len(row) for row in rows}) > 1, "the rows must need padding"
    lengths = [3, 8, 5, 12, 1, 6]
    requests = [GenerationRequest(row, n) for row, n in zip(rows, lengths, strict=True)]
    together = await asyncio.gather(*[_collect(engine, request) for request in requests])
    for row, n, pieces in zip(rows, lengths, together, strict=True):
        expected = _naive(shared_model, row, n)
        eos = shared_model.tokenizer.eos_token_id
        if eos in expected:
            expected = expected[: expected.index(eos)]
        text = shared_model.tokenizer.decode(expected, skip_special_tokens=True)
        assert "".join(piece.text for piece in pieces) == text
        assert [piece.finish_reason for piece in pieces[:-1]] == [""] * (len(pieces) - 1)
        assert pieces[-1].finish_reason in ("stop", "length")


async def test_scores_equal_those_of_the_plain_forward(
    engine: BatchEngine, shared_model: CausalLM, corpus: Corpus
) -> None:
    edits = corpus.demo_edits()[:4]
    rows = [tokenise(shared_model, edit.prompt, edit.target) for edit in edits]
    requests = [
        ScoringRequest(row.ids[: -row.num_target], row.ids[-row.num_target :]) for row in rows
    ]
    scored = await asyncio.gather(*[engine.score(request) for request in requests])
    for request, result in zip(requests, scored, strict=True):
        ids = [*request.prompt_ids, *request.continuation_ids]
        with torch.no_grad():
            log_p = shared_model.model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
        start = len(request.prompt_ids) - 1
        for index, token in enumerate(request.continuation_ids):
            assert result.log_probabilities[index] == pytest.approx(
                float(log_p[start + index, token]), abs=1e-3
            )
            assert result.argmax_ids[index] == int(log_p[start + index].argmax())


@pytest.mark.promise("P6")
async def test_an_answer_has_one_version_though_a_change_comes_in_between(
    engine: BatchEngine, shared_model: CausalLM, corpus: Corpus
) -> None:
    ids = tokenise(shared_model, corpus.demo_edits()[0].prompt).ids
    stream = engine.generate(GenerationRequest(ids, 40))
    first = await anext(stream)
    changed = asyncio.create_task(engine.change(lambda: (replace(VERSION, seq=1), None)))
    rest = [piece async for piece in stream]
    assert {piece.version.seq for piece in [first, *rest]} == {0}
    await changed
    after = await _collect(engine, GenerationRequest(ids, 2))
    assert {piece.version.seq for piece in after} == {1}, "the change must be seen afterwards"


async def test_a_change_that_fails_leaves_the_version(engine: BatchEngine) -> None:
    def broken() -> tuple[Version, None]:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await engine.change(broken)
    assert engine.version == VERSION


async def test_a_full_queue_pushes_back_and_then_serves_again(
    engine: BatchEngine, shared_model: CausalLM, corpus: Corpus
) -> None:
    ids = tokenise(shared_model, corpus.demo_edits()[0].prompt).ids
    request = GenerationRequest(ids, 30)
    results = await asyncio.gather(
        *[_collect(engine, request) for _ in range(40)], return_exceptions=True
    )
    refused = [result for result in results if isinstance(result, QueueFullError)]
    served = [result for result in results if isinstance(result, list)]
    assert refused
    assert served
    assert len(refused) + len(served) == 40
    assert refused[0].metadata["retry_after_seconds"]
    assert await _collect(engine, request)


async def test_a_request_that_cannot_fit_the_model_is_refused(
    engine: BatchEngine, shared_model: CausalLM
) -> None:
    with pytest.raises(InvalidRequestError, match="tokens; the model takes"):
        await _collect(engine, GenerationRequest((1,) * 8, shared_model.max_positions))


async def test_no_row_steps_past_the_longest_sequence_for_anothers_sake() -> None:
    """A long prompt and a long answer in one batch would together leave GPT-2's positions."""
    model = make_model("gpt2")
    engine = BatchEngine(model, version=VERSION, max_batch_size=4, max_queue=8)
    long = GenerationRequest((5,) * (model.max_positions - 1), 1)
    short = GenerationRequest((7,), model.max_positions - 1)
    waiting = [asyncio.create_task(_collect(engine, request)) for request in (long, short)]
    await asyncio.sleep(0)  # both wait before the engine starts
    engine.start()
    for pieces in await asyncio.gather(*waiting):
        assert pieces[-1].finish_reason in ("stop", "length")
    await asyncio.to_thread(engine.close)


async def test_a_failing_batch_fails_alone(engine: BatchEngine, shared_model: CausalLM) -> None:
    with pytest.raises(IndexError):
        await _collect(engine, GenerationRequest((10**6,), 2))  # no such token
    assert await _collect(engine, GenerationRequest((1,), 2))


async def test_a_closed_engine_says_so(shared_model: CausalLM) -> None:
    engine = BatchEngine(shared_model, version=VERSION, max_batch_size=4, max_queue=8)
    engine.start()
    engine.close()
    with pytest.raises(UnavailableError):
        await _collect(engine, GenerationRequest((1,), 2))
