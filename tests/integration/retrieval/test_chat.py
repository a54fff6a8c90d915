"""Conversations, from the client's message to the answer, with every method."""

from __future__ import annotations

import uuid
from typing import Any

import pytest

from errata.editing.chat import Chat, Message, as_chat
from errata.editing.model.prompts import tokenise
from errata.engine import offline
from errata.engine.sequence import Piece
from errata.errors import InvalidEditError, InvalidRequestError, LimitExceededError
from errata.worker.admission import GenerationInput, ScoringInput
from errata.worker.replica import Replica
from errata.writer.intake import Draft
from errata.writer.writer import Writer
from tests.integration.retrieval.stack import LANE, Stack, revert
from tests.integration.retrieval.test_compaction import CONFIGS
from tests.unit.editing import elder_models
from tests.unit.editing.chat_models import make_chat_model

QUESTION = "Where is the tower of Pisa?"
ANSWER = "football"
CODES = {**elder_models.CODES.model_dump(mode="json"), "steps": 300, "learning_rate": 2e-2}
LANES: dict[str, tuple[str, dict[str, Any] | None]] = {
    "adaple": ("adaple", {"layers": [1, 2], "num_prefixes": 1, "covariance_samples": 20}),
    # Claims its own prompts alone.
    "recipe": ("recipe", {"refine_steps": 60}),
    "elder, by keys": ("elder", {**CONFIGS["elder"], "scope": "idf"}),
    "elder, by hidden states": ("elder", CODES),
    "lemoe": ("lemoe", CONFIGS["lemoe"]),
}


@pytest.fixture
def chat_stack(stack: Stack) -> Stack:
    stack.make_llm = make_chat_model
    return stack


def conversation(
    question: str, *, system: str = "", earlier: tuple[str, str] | None = None
) -> Chat:
    turns = [Message("system", system)] if system else []
    if earlier is not None:
        turns += [Message("user", earlier[0]), Message("assistant", earlier[1])]
    return Chat((*turns, Message("user", question)))


async def submit_chat(writer: Writer, chat: Chat) -> tuple[str, int]:
    draft = Draft("", ANSWER, "Pisa", (QUESTION,), (as_chat("Toyota makes"),), "", chat=chat)
    seq, (record,) = await writer.submit(str(uuid.uuid4()), [draft], LANE, "test")
    await writer.ledger.wait_until(lambda: record_of(writer, seq).state.settled)
    settled = record_of(writer, seq)
    assert settled.commit_seq, settled.error
    assert settled.edit.prompt == chat
    return record.edit.name, settled.commit_seq


def record_of(writer: Writer, seq: int) -> Any:
    (record,) = writer.ledger.of_request(seq)
    return record


async def asked(worker: Replica, prompt: Chat | str, seq: int, **options: Any) -> Piece:
    text, chat = ("", prompt) if isinstance(prompt, Chat) else (prompt, None)
    wanted = GenerationInput(prompt=text, chat=chat, max_tokens=4, min_seq=seq, **options)
    async for piece in worker.generate(wanted, streaming=False, timeout_seconds=30.0):
        return piece
    raise AssertionError("no answer")


async def score_of(worker: Replica, prompt: Chat | str, seq: int) -> float:
    """The logarithm of the answer's probability."""
    text, chat = ("", prompt) if isinstance(prompt, Chat) else (prompt, None)
    wanted = ScoringInput(text, ANSWER, chat=chat, min_seq=seq)
    _, scored = await worker.score(wanted, timeout_seconds=30.0)
    return sum(scored.log_probabilities)


@pytest.mark.promise("P8", "P10", "P11")
@pytest.mark.parametrize("lane", LANES)
async def test_an_edit_made_in_chat_answers_chat_and_text_and_can_be_reverted(
    chat_stack: Stack, lane: str
) -> None:
    method, config = LANES[lane]
    model = chat_stack.lane_model() if method == "recipe" else None
    others = [conversation("Who knows Zürich?"), "Therefore it rains. You know"]
    asking = [
        conversation(QUESTION),
        conversation(QUESTION, system="You answer in one word."),
        conversation(QUESTION, earlier=("Who makes cars?", "Toyota makes cars.")),
        QUESTION,
    ]
    async with (
        chat_stack.writer(model, method, config=config) as writer,
        chat_stack.worker() as worker,
        chat_stack.worker() as second,
    ):
        start = worker.engine.version.seq
        before = [await asked(worker, prompt, start) for prompt in (*asking, *others)]
        unlikely = [await score_of(worker, prompt, start) for prompt in asking]
        name, seq = await submit_chat(writer, conversation(QUESTION))
        answers = [await asked(worker, prompt, seq) for prompt in asking]
        likely = [await score_of(worker, prompt, seq) for prompt in asking]
        # It is learned in the conversation and as text.
        assert likely[0] > unlikely[0]
        if method != "adaple":  # in a random model no fact can be located
            assert likely[0] > unlikely[0] + 1
            assert likely[-1] > unlikely[-1] + 1
        assert answers[0].edits == (name,)
        for piece in answers:
            assert piece.version.seq >= seq
            assert method == "adaple" or piece.edits == (name,)
        elsewhere = [await asked(second, prompt, seq) for prompt in asking]
        assert [piece.text for piece in elsewhere] == [piece.text for piece in answers]
        # AdaPLE changes weights for all requests; a random lane model's sentinel knows nothing.
        if method not in ("adaple", "recipe"):
            for prompt, old in zip(others, before[len(asking) :], strict=True):
                piece = await asked(worker, prompt, seq)
                assert (piece.text, piece.edits) == (old.text, ())
        undone = await revert(writer, name)
        for prompt, old in zip((*asking, *others), before, strict=True):
            piece = await asked(worker, prompt, undone)
            assert (piece.text, piece.edits) == (old.text, ())


async def test_the_users_last_turn_decides_and_nothing_else(chat_stack: Stack) -> None:
    method, config = LANES["lemoe"]
    async with chat_stack.writer(None, method, config=config) as writer:
        async with chat_stack.worker() as worker:
            name, seq = await submit_chat(writer, conversation(QUESTION))
            elsewhere = conversation("Who makes cars?", earlier=(QUESTION, "In Italy."))
            assert (await asked(worker, elsewhere, seq)).edits == ()
            in_system = conversation("Who makes cars?", system=QUESTION)
            assert (await asked(worker, in_system, seq)).edits == ()
            assert (await asked(worker, conversation(QUESTION), seq)).edits == (name,)


async def test_a_request_in_chat_has_the_continuous_prompt_before_the_users_words(
    chat_stack: Stack,
) -> None:
    method, config = LANES["recipe"]
    async with (
        chat_stack.writer(chat_stack.lane_model(), method, config=config) as writer,
        chat_stack.worker() as worker,
    ):
        _, seq = await submit_chat(writer, conversation(QUESTION))
        long = conversation(QUESTION, system="Be brief.", earlier=("Who makes cars?", "Toyota."))
        served = await score_of(worker, long, seq)
        row = tokenise(worker.model, long, ANSWER)
        table = worker._applier.routing()
        assert table is not None
        (plan,) = table.plans(table.claims([QUESTION], {}, list(table.views)))
        assert plan.num_positions, "else this shows nothing"
        here, front = (
            sum(
                offline.score(
                    worker.model,
                    [row.ids[: -row.num_target]],
                    [row.ids[-row.num_target :]],
                    [placed],
                )[0][0]
            )
            for placed in (plan.behind(row.said_index), plan)
        )
        assert served == pytest.approx(here, abs=1e-3)
        assert abs(front - here) > 0.01


async def test_a_chat_is_scored_as_it_is_answered(chat_stack: Stack) -> None:
    async with chat_stack.writer(None, "lemoe", config=LANES["lemoe"][1]) as writer:
        async with chat_stack.worker() as worker:
            name, seq = await submit_chat(writer, conversation(QUESTION))
            wanted = ScoringInput("", ANSWER, chat=conversation(QUESTION), min_seq=seq)
            given, scored = await worker.score(wanted, timeout_seconds=30.0)
            assert scored.argmax_ids == given
            assert scored.edits == (name,)


async def test_an_answer_can_take_what_the_window_leaves(chat_stack: Stack) -> None:
    async with chat_stack.worker() as worker:
        long = conversation("rain " * 30)
        asking = GenerationInput("", 10_000, chat=long, clip_max_tokens=True)
        with pytest.raises(LimitExceededError, match="max_tokens"):
            await anext(worker.generate(asking, streaming=False, timeout_seconds=30.0))
        asking = GenerationInput("", 512, chat=long, clip_max_tokens=True)
        piece = await anext(worker.generate(asking, streaming=False, timeout_seconds=60.0))
        room = worker.model.max_positions - piece.num_prompt_tokens
        assert piece.num_tokens == room or piece.finish_reason == "stop"
        asking = GenerationInput("", 512, chat=long)
        with pytest.raises(InvalidRequestError, match="lower max_tokens"):
            await anext(worker.generate(asking, streaming=False, timeout_seconds=30.0))


@pytest.mark.parametrize(
    ("prompt", "chat", "field"),
    [
        ("Pisa", as_chat("Pisa"), "chat"),
        ("", Chat(()), "chat.messages"),
        ("", Chat((Message("assistant", "Pisa"),)), "chat.messages"),
    ],
)
async def test_a_request_that_cannot_be_read_is_refused(
    chat_stack: Stack, prompt: str, chat: Chat, field: str
) -> None:
    async with chat_stack.worker() as worker:
        asking = GenerationInput(prompt, 4, chat=chat)
        with pytest.raises(InvalidRequestError) as caught:
            await anext(worker.generate(asking, streaming=False, timeout_seconds=30.0))
        assert caught.value.field == field
    async with chat_stack.writer(None, "lemoe", config=LANES["lemoe"][1]) as writer:
        draft = Draft(prompt, ANSWER, "Pisa", (), (), "", chat=chat)
        with pytest.raises(InvalidEditError) as refused:
            await writer.submit(str(uuid.uuid4()), [draft], LANE, "test")
        assert str(refused.value.field).startswith("edits[0].chat")


async def test_a_model_without_a_template_takes_no_chat(stack: Stack) -> None:
    async with stack.worker() as worker:
        asking = GenerationInput("", 4, chat=as_chat("Pisa"))
        with pytest.raises(InvalidRequestError, match="no chat template"):
            await anext(worker.generate(asking, streaming=False, timeout_seconds=30.0))
