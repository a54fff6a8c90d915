"""Fast paths (cached prefixes, replayed blocks, batches) equal plain forward passes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from errata.editing.adaple.config import AdapleConfig
from errata.editing.adaple.keys import KeyProbes, Probe
from errata.editing.adaple.targets import TargetProblem, optimise_targets
from errata.editing.edit import Edit
from errata.editing.model.causal_lm import CausalLM
from errata.editing.model.prompts import pad_right, tokenise
from tests.unit.editing.tiny_models import FAMILIES, make_batch, make_model

CONTEXTS = ("{}", "I was told that it rains. {}", "Q: {} A:")
LAYER = 2
CONFIG = AdapleConfig(layers=(1, LAYER), num_prefixes=0)
EDITS = (*make_batch().edits, Edit("edits/1-9", "Lyon", "Zürich liegt", "Lyon"))


def _add_at(column: int, delta: Tensor):  # type: ignore[no-untyped-def]
    def hook(_: nn.Module, args: object, output):  # type: ignore[no-untyped-def]
        tensor = output[0] if isinstance(output, tuple) else output
        new = tensor.clone()
        new[:, column] += delta
        return (new, *output[1:]) if isinstance(output, tuple) else new

    return hook


def _naive_log_probs(
    model: CausalLM, text: tuple[str, str], edit: Edit, attention: Tensor, ffn: Tensor
) -> tuple[Tensor, tuple[int, ...], int]:
    """One unpadded text through the whole model, with both vectors added at the subject."""
    row = tokenise(model, *text, subject=edit.subject)
    handles = [
        model.attention(LAYER).register_forward_hook(_add_at(row.subject_index, attention)),
        model.ffn(LAYER).register_forward_hook(_add_at(row.subject_index, ffn)),
    ]
    logits = model.model(torch.tensor([row.ids])).logits[0]
    for handle in handles:
        handle.remove()
    return logits.log_softmax(-1), row.ids, row.num_target


@torch.no_grad()
def _naive_loss(model: CausalLM, edit: Edit, attention: Tensor, ffn: Tensor) -> tuple[float, float]:
    losses = []
    for context in CONTEXTS:
        text = (context.format(edit.prompt), edit.target)
        scores, ids, size = _naive_log_probs(model, text, edit, attention, ffn)
        positions = range(len(ids) - size, len(ids))
        losses.append(-sum(float(scores[i - 1, ids[i]]) for i in positions) / size)
    about = (f"{edit.subject} is a", "")
    zero = torch.zeros_like(ffn)
    base = _naive_log_probs(model, about, edit, zero, zero)[0][-1]
    now = _naive_log_probs(model, about, edit, attention, ffn)[0][-1]
    return sum(losses) / len(losses), float((now.exp() * (now - base)).sum())


@pytest.mark.parametrize("bos", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_batched_loss_equals_plain_forward_passes(family: str, bos: bool) -> None:
    model = make_model(family, bos=bos)  # without BOS, one prefix is empty
    generator = torch.Generator().manual_seed(0)
    attention = 5 * torch.randn(len(EDITS), model.d, generator=generator)
    ffn = 5 * torch.randn(len(EDITS), model.d, generator=generator)
    problem = TargetProblem(model, EDITS, CONTEXTS, CONFIG, LAYER)
    nll, divergence = problem.loss(attention, ffn)
    plain = [_naive_loss(model, e, attention[i], ffn[i]) for i, e in enumerate(EDITS)]
    torch.testing.assert_close(nll, torch.tensor([a for a, _ in plain]), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(
        divergence, torch.tensor([b for _, b in plain]), rtol=1e-3, atol=1e-4
    )
    # controls: each vector has an effect, and KL is zero without them
    assert not torch.allclose(nll, problem.loss(None, ffn)[0], rtol=1e-3)
    assert not torch.allclose(nll, problem.loss(attention, 0 * ffn)[0], rtol=1e-3)
    assert problem.loss(None, 0 * ffn)[1].abs().max() < 1e-5


def test_gradient_reaches_both_vectors_and_no_weight(llama: CausalLM) -> None:
    problem = TargetProblem(llama, EDITS, CONTEXTS, CONFIG, LAYER)
    x = torch.zeros(2, len(EDITS), llama.d, requires_grad=True)
    (gradient,) = torch.autograd.grad(problem.loss(x[0], x[1])[0].sum(), x)
    assert (gradient.abs().amax(-1) > 0).all()
    step = 1e-2 * gradient / gradient.norm()
    before = problem.loss(x[0], x[1])[0].sum().detach()
    moved = (x - step).detach()
    after = problem.loss(moved[0], moved[1])[0].sum()
    assert float(before - after) == pytest.approx(float(1e-2 * gradient.norm()), rel=0.1)
    assert all(parameter.grad is None for parameter in llama.model.parameters())


def _optimise(model: CausalLM, edits: tuple[Edit, ...], config: AdapleConfig):  # type: ignore[no-untyped-def]
    probes = KeyProbes(model, edits, CONTEXTS, config, config.layers)
    ffn, hidden = probes.values()
    reference = hidden.norm(dim=-1)
    targets = optimise_targets(model, edits, CONTEXTS, config, LAYER, ffn, reference)
    return targets, ffn, reference


def test_optimising_a_batch_equals_optimising_each_edit(llama: CausalLM) -> None:
    # edits stop at different steps, so rows are dropped and the suffixes gathered again
    config = CONFIG.model_copy(update={"steps": 30, "stop_loss": 6.0, "clamp": 3.0})
    targets, ffn, _ = _optimise(llama, EDITS, config)
    singles = [_optimise(llama, (edit,), config)[0] for edit in EDITS]
    assert len({single.steps for single in singles}) > 1
    assert targets.steps == max(single.steps for single in singles)
    torch.testing.assert_close(
        targets.values, torch.cat([single.values for single in singles]), rtol=1e-3, atol=1e-3
    )
    assert not torch.allclose(targets.values, ffn, atol=1e-2)


def test_radius_bounds_the_step_from_the_old_value(llama: CausalLM) -> None:
    config = CONFIG.model_copy(update={"steps": 30, "clamp": 0.1, "stop_loss": 0.0})
    targets, ffn, reference = _optimise(llama, EDITS, config)
    share = (targets.values - ffn).norm(dim=-1) / reference
    torch.testing.assert_close(share, torch.full_like(share, 0.1), rtol=1e-3, atol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_probes_follow_an_edit_below_like_a_full_forward(family: str) -> None:
    model = make_model(family)
    rows = [tokenise(model, text).ids for text in ("Lyon", "The mother tongue of Danielle")]
    probe = Probe(model, rows, (1, 3))
    before = probe.values()[0]
    model.set_down_weight(1, 2 * model.down_weight(1))
    probe.advance(3)
    keys, (ffn, hidden) = probe.keys(), probe.values()
    seen: dict[str, Tensor] = {}
    model.down(3).register_forward_pre_hook(lambda _, args: seen.update(keys=args[0]))
    model.ffn(3).register_forward_hook(lambda _, __, out: seen.update(ffn=out))
    model.blocks[3].register_forward_hook(
        lambda _, __, out: seen.update(hidden=out[0] if isinstance(out, tuple) else out)
    )
    ids, mask = pad_right(model, rows)
    model.model(ids, attention_mask=mask)
    last = (torch.arange(2), mask.sum(-1) - 1)
    torch.testing.assert_close(keys, seen["keys"][last], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ffn, seen["ffn"][last], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(hidden, seen["hidden"][last], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(ffn, before, atol=1e-3)


def test_key_means_weigh_the_bare_prompt(llama: CausalLM) -> None:
    def keys(contexts: tuple[str, ...], **values: object) -> Tensor:
        config = CONFIG.model_copy(update={"subject_keys": False, **values})
        return KeyProbes(llama, EDITS, contexts, config, CONFIG.layers).keys()

    single = [keys((text,)) for text in CONTEXTS]
    others = (single[1] + single[2]) / 2
    torch.testing.assert_close(
        keys(CONTEXTS, prompt_weight="half"), (single[0] + others) / 2, rtol=1e-4, atol=1e-5
    )
    uniform = keys(CONTEXTS, prompt_weight="uniform")
    torch.testing.assert_close(uniform, sum(single) / 3, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(uniform, single[0], atol=1e-3)
