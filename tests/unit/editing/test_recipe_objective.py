"""The paper's loss, computed a second time, term by term, as its equations 10 to 16 say."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from errata.editing.model.causal_lm import CausalLM
from errata.editing.model.prompts import tokenise
from errata.editing.retriever.examples import Sample
from errata.editing.retriever.lane_model import LaneModel, knowledge
from errata.editing.retriever.losses import Texts, answer_logits
from errata.editing.retriever.objective import losses
from errata.editing.retriever.training_config import PRESETS, TrainingConfig
from tests.unit.editing.recipe_models import D_R, examples_of_towns, make_lane_model

PAPER = TrainingConfig.model_validate({**PRESETS["paper"], "d_r": D_R})
SCALE = torch.tensor(1.0)


@pytest.fixture
def samples() -> list[Sample]:
    """Facts whose targets have different numbers of tokens."""
    examples = examples_of_towns(4)
    return [Sample(e, e.rephrases[0], e.locality[0]) for e in examples]


def delta(query: Tensor, wanted: Tensor, candidates: list[Tensor]) -> Tensor:
    """Equation 16, τ = 1."""
    scores = torch.stack([(query @ other).exp() for other in candidates])
    return -((query @ wanted).exp() / scores.sum()).log()


def test_the_retriever_s_losses_are_equations_14_and_15(
    llama: CausalLM, samples: list[Sample]
) -> None:
    model = make_lane_model(llama).eval()
    found = losses(model, llama, samples, PAPER, SCALE, "retriever")
    keys = list(model.keys([knowledge(s.example.prompt, s.example.target) for s in samples]))
    sentinel = model.sentinel_key()
    everything = [*keys, sentinel]
    neighbour = outside = own = torch.zeros(())
    for i, sample in enumerate(samples):
        without = [key for j, key in enumerate(keys) if j != i] + [sentinel]
        for text in (sample.example.prompt, sample.rephrase):
            (query,) = model.queries([text])
            neighbour = neighbour + delta(query, keys[i], everything) / len(samples)
            own = own + delta(query, sentinel, without) / len(samples)
        (query,) = model.queries([sample.locality[0]])
        outside = outside + delta(query, sentinel, everything) / len(samples)
    torch.testing.assert_close(found["neighbour"], neighbour, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(
        found["sentinel"] + found["outside"], own + outside, rtol=1e-3, atol=1e-4
    )


def log_p(
    llm: CausalLM, model: LaneModel, prompt: str, target: str, made: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Log-probabilities (places, V) of one text alone, and the target's tokens."""
    texts = Texts.of(llm, [tokenise(llm, prompt, target)], model.shape.after)
    logits = answer_logits(llm, texts, made, model.shape.deep)
    return logits.log_softmax(-1), texts.labels


def test_the_answers_losses_are_equations_10_to_12(llama: CausalLM, samples: list[Sample]) -> None:
    model = make_lane_model(llama).eval()
    found = losses(model, llama, samples, PAPER, SCALE, "prompts")
    facts = [(s.example.prompt, s.example.target) for s in samples]
    keys = model.keys([knowledge(*fact) for fact in facts])
    prompts = model.prompts(keys, model.target_embeddings(llama, facts))
    wanted = dict.fromkeys(("reliability", "generality", "locality"), torch.zeros(()))
    lengths = set()
    for sample, made in zip(samples, prompts, strict=True):
        asked = {"reliability": sample.example.prompt, "generality": sample.rephrase}
        for name, prompt in asked.items():
            known, labels = log_p(llama, model, prompt, sample.example.target, made[None])
            lengths.add(len(labels))
            whole = -known.gather(1, labels[:, None]).sum()
            wanted[name] = wanted[name] + whole / len(samples)
        base, _ = log_p(llama, model, *sample.locality, None)
        now, _ = log_p(llama, model, *sample.locality, made[None])
        kl = (base.exp() * (base - now)).sum(-1).mean()
        wanted["locality"] = wanted["locality"] + kl / len(samples)
    assert len(lengths) > 1, "else a mean over tokens would be the same up to a factor"
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-4)


def test_ours_weighs_the_locality_prompt_as_much_as_both_others(
    llama: CausalLM, samples: list[Sample]
) -> None:
    model = make_lane_model(llama).eval()
    means = PAPER.model_copy(update={"terms": "means"})
    paper = losses(model, llama, samples, PAPER, SCALE, "retriever")
    ours = losses(model, llama, samples, means, SCALE, "retriever")
    torch.testing.assert_close(paper["neighbour"], 2 * ours["neighbour"])
    torch.testing.assert_close(paper["sentinel"], 2 * ours["sentinel"])
    torch.testing.assert_close(paper["outside"], ours["outside"])
    assert TrainingConfig().terms == "means"
    assert TrainingConfig.model_validate(PRESETS["code"]).terms == "means"
