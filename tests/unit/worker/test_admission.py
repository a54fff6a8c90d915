"""Conversion and checks of a message before it enters the engine."""

from __future__ import annotations

import pytest

from errata.editing.model.causal_lm import CausalLM
from errata.editing.model.prompts import tokenise
from errata.errors import InvalidRequestError
from errata.worker import admission, convert
from errata_client._gen.errata.v1 import inference_pb2


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
