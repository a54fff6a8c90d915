"""Refinement of continuous prompts: which edits take gradient steps, and when they stop."""

from typing import Any

import pytest
import torch
from torch import Tensor

from errata.editing.edit import Edit, EditBatch
from errata.editing.model.causal_lm import CausalLM
from errata.editing.model.prompts import TokenRow, tokenise_all
from errata.editing.recipe import refine
from errata.editing.recipe.config import RecipeConfig
from errata.editing.recipe.refine import SURE, refined
from errata.editing.retriever.lane_model import LaneModel
from errata.editing.retriever.losses import Texts, answer_logits
from tests.unit.editing.recipe_models import make_edits, make_lane, make_lane_model

FACTS = (
    ("Lyon lies in the region of", "Italy"),
    ("Helsinki was founded in the year", "Finland"),
    ("Pisa is twinned with the town of", "Lyon"),
)
MANY = 100  # steps; more than any of these edits needs to become twice as probable


def _texts(llama: CausalLM) -> list[list[TokenRow]]:
    return [
        tokenise_all(llama, [(prompt, target), (f"Is it true? {prompt}", target)])
        for prompt, target in FACTS
    ]


def _start(llama: CausalLM, model: LaneModel) -> Tensor:
    keys = model.keys([f"{prompt} {target}" for prompt, target in FACTS])
    made: Tensor = model.prompts(keys, model.target_embeddings(llama, FACTS)).detach()
    return made


def _least(llama: CausalLM, model: LaneModel, prompt: Tensor, rows: list[TokenRow]) -> float:
    """The least probability of a target token after the prompt."""
    texts = Texts.of(llama, rows, model.shape.after)
    prompts = prompt.expand(len(rows), -1, -1, -1)
    with torch.no_grad():
        log_p = answer_logits(llama, texts, prompts, model.shape.deep).log_softmax(-1)
    return float(log_p.gather(-1, texts.labels[:, None]).min().exp())


def _levels(llama: CausalLM, model: LaneModel, prompts: Tensor) -> list[float]:
    return [
        _least(llama, model, prompt, rows)
        for prompt, rows in zip(prompts, _texts(llama), strict=True)
    ]


def test_an_edit_is_refined_until_every_token_of_every_text_is_certain(llama: CausalLM) -> None:
    model, texts = make_lane_model(llama), _texts(llama)
    start = _start(llama, model)
    before = _levels(llama, model, start)
    sure = 2 * max(before)
    stopped = refined(llama, start, texts, model, MANY, sure)
    assert min(_levels(llama, model, stopped)) >= sure * 0.999
    forced = refined(llama, start, texts, model, MANY, 2.0)
    for begin, near, far in zip(start, stopped, forced, strict=True):
        assert (near - begin).norm() < (far - begin).norm(), "it stops when it is certain"


def test_what_is_answered_keeps_its_bits(llama: CausalLM) -> None:
    model, texts = make_lane_model(llama), _texts(llama)
    start = _start(llama, model)
    sure = 2 * max(_levels(llama, model, start))
    made = refined(llama, start, texts, model, MANY, 1.1 * sure)
    mixed = made.clone()
    mixed[1] = start[1]
    again = refined(llama, mixed, texts, model, MANY, sure)
    assert torch.equal(again[0], made[0])
    assert torch.equal(again[2], made[2])
    assert not torch.equal(again[1], mixed[1])
    forced = refined(llama, made, texts, model, 2, sure=2.0)
    assert not any(torch.equal(a, b) for a, b in zip(forced, made, strict=True))
    assert torch.equal(refined(llama, mixed, texts, model, 0, sure), mixed)


def test_an_edit_takes_the_same_steps_in_any_batch(llama: CausalLM) -> None:
    model, texts = make_lane_model(llama), _texts(llama)
    start = _start(llama, model)
    together = refined(llama, start, texts, model, 5, sure=2.0)
    for number in range(len(FACTS)):
        alone = refined(llama, start[[number]], [texts[number]], model, 5, sure=2.0)
        torch.testing.assert_close(alone[0], together[number], rtol=1e-2, atol=1e-3)
        assert (together[number] - start[number]).abs().max() > 0.1


def test_a_pass_holds_a_limited_number_of_tokens(
    llama: CausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, texts = make_lane_model(llama), _texts(llama)
    start = _start(llama, model)
    sizes: list[int] = []
    answer = refine.answer_logits

    def counted(llm: CausalLM, given: Texts, *rest: Any) -> Tensor:
        sizes.append(given.ids.numel() + len(given.ids) * model.shape.num_prompt)
        return answer(llm, given, *rest)

    monkeypatch.setattr(refine, "answer_logits", counted)
    together = refined(llama, start, texts, model, 3, sure=2.0)
    assert len(sizes) == 4, "one check and three steps"
    two = sizes[0] - 1  # fits two edits, not three
    monkeypatch.setattr(refine, "_CHECKED_AT_ONCE", two)
    monkeypatch.setattr(refine, "REFINED_AT_ONCE", two)
    sizes.clear()
    parts = refined(llama, start, texts, model, 3, sure=2.0)
    assert len(sizes) == 8
    assert max(sizes) <= two
    torch.testing.assert_close(parts, together, rtol=1e-2, atol=1e-3)
    monkeypatch.setattr(refine, "REFINED_AT_ONCE", 1)
    sizes.clear()
    refined(llama, start, texts, model, 3, sure=2.0)
    assert len(sizes) == 2 + 3 * len(FACTS), "an edit that has more tokens is refined alone"


def test_a_lane_refines_the_edits_that_its_lane_model_cannot_answer(llama: CausalLM) -> None:
    model, edits = make_lane_model(llama), make_edits(*FACTS)
    made = {}
    for steps in (0, 8):
        lane = make_lane(llama, config=RecipeConfig(refine_steps=steps, num_rephrases=0))
        result = lane.fit(EditBatch(edits, seed=1))
        made[steps] = result.artifact.tensors["prompts"]
        assert ("refine" in result.seconds) == bool(steps)
    alone = [tokenise_all(llama, [fact]) for fact in FACTS]
    torch.testing.assert_close(made[8], refined(llama, made[0], alone, model, 8))
    for number, rows in enumerate(alone):
        before, after = (_least(llama, model, made[steps][number], rows) for steps in (0, 8))
        assert before < SURE, "otherwise this shows nothing"
        assert after > before
    encoded = lane.encode(model.to_artifact().to_bytes(), edits)
    assert encoded is not None
    assert torch.equal(encoded.tensors["prompts"], made[8]), "a new lane model refines as a fit"


def test_a_prompt_is_refined_on_other_wordings(llama: CausalLM) -> None:
    edits = make_edits(*FACTS)
    (own, worded) = (
        make_lane(llama, config=RecipeConfig(refine_steps=2, num_rephrases=number))
        .fit(EditBatch(edits, seed=1))
        .artifact.tensors["prompts"]
        for number in (0, 3)
    )
    assert all(not torch.equal(a, b) for a, b in zip(own, worded, strict=True))


def test_an_edit_that_fills_the_models_window_is_refined_on_what_fits(llama: CausalLM) -> None:
    model = make_lane_model(llama, max_tokens=llama.max_positions)
    used, with_one = (
        len(tokenise_all(llama, [(f"Lyon{' Lyon' * more} is in", "Pisa")])[0].ids)
        for more in (0, 1)
    )
    subject = "Lyon" + " Lyon" * ((llama.max_positions - used) // (with_one - used))
    edit = Edit("edits/2-0", f"{subject} is in", "Pisa", subject)
    lane = make_lane(llama, model, RecipeConfig(refine_steps=1, num_rephrases=4))
    made = lane.fit(EditBatch((edit,), seed=1)).artifact.tensors["prompts"]
    assert bool(torch.isfinite(made).all())
