"""Conversion and checks of a message before it enters the engine."""

from __future__ import annotations

import threading
import unicodedata
from pathlib import Path
from typing import ClassVar

import pytest

from errata.artifacts.store import ArtifactStore
from errata.editing.chat import Chat, Message
from errata.editing.model.causal_lm import CausalLM
from errata.editing.model.prompts import tokenise
from errata.errors import InvalidRequestError
from errata.platform.limits import CHARS_PER_TOKEN
from errata.platform.settings import WorkerSettings
from errata.worker import admission, convert
from errata.worker.admission import GenerationInput, SamplingInput
from errata.worker.replica import Replica
from errata_client._gen.errata.v1 import inference_pb2
from tests.waiting import PATIENCE


def _asked(model: CausalLM, prompt: str) -> tuple[tuple[int, ...], bool]:
    message = inference_pb2.GenerateRequest(prompt=prompt)
    asked = convert.generation_input(message)
    request = admission.generation(model, asked, 64, streaming=False, timeout_seconds=5.0)
    return request.prompt_ids, request.drops_blank


def test_a_prompt_that_ends_in_a_blank_is_read_as_it_was_learned(shared_model: CausalLM) -> None:
    prompt = "The capital of France is "
    learned = tokenise(shared_model, prompt, "Lyon")
    assert _asked(shared_model, prompt) == (learned.ids[: -learned.num_target], True)
    assert _asked(shared_model, prompt.strip()) == (learned.ids[: -learned.num_target], False)


@pytest.mark.parametrize(
    ("prompt", "separator", "scored"),
    [
        ("The capital of France is", None, " Lyon"),
        ("The capital of France is ", None, " Lyon"),
        ("The capital of France is Saint-", None, "Lyon"),
        ("The capital of France is", "\n", "\nLyon"),
        ("The capital of France is", "", "Lyon"),
    ],
)
def test_a_continuation_follows_the_separator_of_the_prompt_or_the_caller(
    shared_model: CausalLM, prompt: str, separator: str | None, scored: str
) -> None:
    message = inference_pb2.ScoreRequest(prompt=prompt, continuation="Lyon", separator=separator)
    request = admission.scoring(shared_model, convert.scoring_input(message), 5.0)
    assert request.prompt_ids == _asked(shared_model, prompt)[0]
    assert shared_model.tokenizer.decode(request.continuation_ids) == scored


def test_a_separator_is_white_space(shared_model: CausalLM) -> None:
    message = inference_pb2.ScoreRequest(prompt="a", continuation="b", separator="-")
    with pytest.raises(InvalidRequestError, match="white space") as caught:
        admission.scoring(shared_model, convert.scoring_input(message), 5.0)
    assert caught.value.field == "separator"


def test_a_prompt_cannot_contain_a_control_token(shared_model: CausalLM) -> None:
    ids, _ = _asked(shared_model, "The sign <eos> ends a text<eos>")
    assert shared_model.tokenizer.eos_token_id not in ids


def _refused(model: CausalLM, asked: GenerationInput) -> InvalidRequestError:
    with pytest.raises(InvalidRequestError) as caught:
        admission.generation(model, asked, 64, streaming=False, timeout_seconds=5.0)
    return caught.value


def test_a_text_that_cannot_fit_is_refused_by_its_characters(shared_model: CausalLM) -> None:
    limit = CHARS_PER_TOKEN * shared_model.max_positions
    for field, asked in {
        "prompt": GenerationInput("a" * (limit + 1)),
        "chat": GenerationInput(
            "", chat=Chat((Message("user", "a" * limit), Message("user", "b")))
        ),
    }.items():
        error = _refused(shared_model, asked)
        assert (error.field, error.metadata["num_chars"]) == (field, str(limit + 1))


def test_stacked_marks_are_refused_before_they_are_normalised(shared_model: CausalLM) -> None:
    """200 kB of them took 13 s: normalising sorts them in quadratic time."""
    stacked = "a" + "\u0301\u0316" * 16
    for field, asked in {
        "prompt": GenerationInput(f"The capital of {stacked}"),
        "chat.messages[0].content": GenerationInput("", chat=Chat((Message("user", stacked),))),
    }.items():
        assert "combining marks" in _refused(shared_model, asked).message
        assert _refused(shared_model, asked).field == field


def test_thirty_marks_are_text(shared_model: CausalLM) -> None:
    prompt = "a" + "\u0301\u0316" * 15 + "b" + "\u0301" * 30
    assert _asked(shared_model, prompt) == _asked(
        shared_model, unicodedata.normalize("NFC", prompt)
    )


@pytest.mark.parametrize("value", [1e-39, 1e-6, 0.00099, -0.1, 10.1, float("nan"), float("inf")])
def test_a_temperature_is_zero_or_within_its_range(shared_model: CausalLM, value: float) -> None:
    asked = GenerationInput("The capital", sampling=SamplingInput(temperature=value))
    assert _refused(shared_model, asked).field == "sampling.temperature"


@pytest.mark.parametrize("value", [0.0, 1e-3, 10.0])
def test_the_limits_of_temperatures_are_allowed(shared_model: CausalLM, value: float) -> None:
    asked = GenerationInput("The capital", sampling=SamplingInput(temperature=value))
    made = admission.generation(shared_model, asked, 64, streaming=False, timeout_seconds=5.0)
    assert made.sampling.temperature == value


class _Noting(str):
    """A text that notes which thread reads it."""

    readers: ClassVar[set[int]] = set()

    def strip(self, *_: object) -> str:
        self.readers.add(threading.get_ident())
        return ""


async def test_a_prompt_is_read_outside_of_the_event_loop(
    shared_model: CausalLM, tmp_path: Path
) -> None:
    store = ArtifactStore(str(tmp_path))
    replica = Replica("r", shared_model, store, "127.0.0.1:1", WorkerSettings())
    await replica.engine.start()
    pieces = replica.generate(
        GenerationInput(_Noting("a")), streaming=False, timeout_seconds=PATIENCE
    )
    with pytest.raises(InvalidRequestError, match="empty"):
        await anext(pieces)
    assert _Noting.readers
    assert threading.get_ident() not in _Noting.readers
    await replica.close()
