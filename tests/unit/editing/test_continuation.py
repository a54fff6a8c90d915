"""What follows an answer: texts as the model goes on with them, and fits that keep it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from errata.editing.model import continuation
from errata.editing.model.causal_lm import CausalLM
from errata.editing.model.continuation import NextTokens, continued
from errata.editing.model.prompts import TokenRow, pad_right, tokenise
from errata.editing.model.replay import enter
from errata.editing.model.teacher_forcing import TeacherForcing
from errata.engine import offline
from tests.unit.editing import elder_models, lemoe_models
from tests.unit.editing.elder_models import BANKS
from tests.unit.editing.tiny_models import ALL_FAMILIES, TextResources, make_model

LYON = ("Nokia was founded in the town of", "Lyon")


def _texts(model: CausalLM) -> list[TokenRow]:
    prompts = ["Nokia is", "the town of the town of Nokia is", "Toyota makes", "東京は日本の"]
    return [tokenise(model, prompt, "Lyon in Pisa") for prompt in prompts]


@pytest.mark.parametrize("family", ALL_FAMILIES)
def test_an_unedited_model_has_the_losses_of_its_texts_and_no_divergence(family: str) -> None:
    model = make_model(family)
    texts, rows = _texts(model), torch.tensor([3, 0, 1])
    plain = TeacherForcing(model, texts, 1, bf16=False)
    keeping = TeacherForcing(model, texts, 1, bf16=False, num_following=4, seed=7)
    with torch.no_grad():
        nll, divergence = keeping.losses(rows)
        torch.testing.assert_close(nll, plain.losses(rows)[0], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(divergence, torch.zeros(3), atol=1e-4, rtol=0.0)
        assert not plain.losses(rows)[1].any()


def test_a_change_after_the_answer_shows_in_the_divergence_alone(llama: CausalLM) -> None:
    texts = _texts(llama)
    forced = TeacherForcing(llama, texts, 1, bf16=False, num_following=3, seed=7)
    rows = torch.tensor([1])
    end = texts[1].target_end - 1

    def disturb(_: torch.nn.Module, __: object, output: torch.Tensor) -> torch.Tensor:
        output[:, end:] += 3.0
        return output

    with torch.no_grad():
        before, _ = forced.losses(rows)
        handle = llama.down(llama.num_layers - 1).register_forward_hook(disturb)
        nll, divergence = forced.losses(rows)
        handle.remove()
    torch.testing.assert_close(nll, before)
    assert float(divergence) > 0.01


@pytest.mark.parametrize("at_once", [2, 64])
def test_texts_go_on_as_the_model_continues_them(
    llama: CausalLM, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr(continuation, "AT_ONCE", at_once)
    texts = _texts(llama)
    found = continued(llama, texts, 4, block=1, seed=7)
    for text, row in zip(texts, found.texts, strict=True):
        assert row.ids[: row.target_end] == text.ids
        assert (row.num_target, row.prompt_ids) == (text.num_target, text.prompt_ids)
        assert row.num_after <= 3, "the last of four tokens is predicted, not read"
    ids, mask = pad_right(llama, [row.ids for row in found.texts])
    entered = enter(llama, ids, mask, block=1).hidden
    real = mask.bool()
    same = found.hidden[:, : real.shape[1]]
    torch.testing.assert_close(same[real], entered[real], atol=1e-5, rtol=1e-4)
    logits = llama.head(llama.body(input_ids=ids, attention_mask=mask).last_hidden_state).float()
    row, column, number = found.places.unbind(1)
    divergence = found.next_tokens.divergence(logits[row, column], number)
    torch.testing.assert_close(divergence, torch.zeros(len(row)), atol=1e-4, rtol=0.0)
    assert continued(llama, texts, 4, block=1, seed=7).texts == found.texts
    assert continued(llama, texts, 4, block=1, seed=8).texts != found.texts


def test_tokens_are_drawn_as_likely_as_they_are() -> None:
    likely = torch.tensor([[0.0, 0.5, 0.0, 0.2, 0.3, 0.0], [0.0, 0.0, 1.0, 0.0, 0.0, 0.0]]).log()
    rng, num = torch.Generator().manual_seed(7), 4000
    drawn = torch.cat([continuation._drawn(likely, rng) for _ in range(num)], dim=1)
    shares = drawn[0].bincount(minlength=6) / num
    torch.testing.assert_close(shares, likely[0].exp(), atol=0.03, rtol=0.0)
    assert not shares[[0, 2, 5]].any(), "impossible tokens are never drawn"
    assert (drawn[1] == 2).all()


def test_a_text_that_ends_has_no_tokens_after_its_end(
    llama: CausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = _texts(llama)
    monkeypatch.setattr(llama, "end_ids", tuple(range(llama.num_embeddings)))
    found = continued(llama, texts, 4, block=1, seed=7)
    assert found.texts == texts
    ends = sorted((number, text.target_end - 1) for number, text in enumerate(texts))
    assert sorted(map(tuple, found.places[:, :2].tolist())) == ends, "the end itself is predicted"


def test_a_text_as_long_as_the_window_is_not_continued(llama: CausalLM) -> None:
    words = tokenise(llama, "the town of", "Lyon").ids
    whole = TokenRow((words * llama.max_positions)[: llama.max_positions], num_target=1)
    found = continued(llama, [whole], 4, block=1, seed=7)
    assert found.texts == [whole]
    assert len(found.places) == 1


def test_an_answer_that_is_said_again_is_seen_where_the_model_has_no_favourite() -> None:
    """A flat base model: all that the others had goes to the answer's token, the last."""
    size, answer = 400, 399
    base = torch.zeros(1, size).log_softmax(-1)
    kept = continuation._kept(base, torch.tensor([[answer]]))
    assert answer in kept[0].tolist()
    tokens = NextTokens(kept, base.gather(1, kept))
    edited = base.clone()
    edited[0, answer] = 6.0
    flat = torch.ones(size, dtype=torch.bool)
    flat[kept[0]] = False
    edited[0, flat] = -20.0
    assert float(tokens.divergence(edited, torch.tensor([0]))) > 1


def _elder(llama: CausalLM, resources: TextResources, num: int) -> elder_models.Lane:
    config = BANKS.model_copy(update={"num_following": num})
    return elder_models.Lane(llama, config, resources)


def _lemoe(llama: CausalLM, resources: TextResources, num: int) -> lemoe_models.Lane:
    config = lemoe_models.SMALL.model_copy(update={"num_following": num})
    return lemoe_models.Lane(llama, config, resources)


@pytest.mark.parametrize("make", [_elder, _lemoe])
def test_a_fit_keeps_what_follows_an_answer(
    llama: CausalLM,
    resources: TextResources,
    make: Callable[[CausalLM, TextResources, int], elder_models.Lane | lemoe_models.Lane],
) -> None:
    """The base model's likeliest token after the answer stays as likely as it was."""
    row = tokenise(llama, *LYON)
    (base,) = offline.generate(llama, [row.ids], 1)
    lost = {}
    for num in (0, 3):
        lane = make(llama, resources, num)
        lane.edit(LYON)
        view = lane.lane.view()
        (plan,) = view.plans(view.claims([LYON[0]]))
        assert plan.edits
        targets = [row.ids[-row.num_target :], (*row.ids[-row.num_target :], *base)]
        scored, _ = offline.score(llama, [row.prompt_ids] * 2, targets, [plan, plan])
        unedited, _ = offline.score(llama, [row.prompt_ids], [targets[1]], None)
        assert scored[0][0] > unedited[0][0] + 2, "it has learned the answer"
        lost[num] = unedited[0][-1] - scored[1][-1]
    assert lost[0] > 1
    assert abs(lost[3]) < 0.2 * lost[0]
