"""How good a lane model is on facts that it did not learn from; checkpoints are chosen by it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from errata.editing.model.causal_lm import CausalLM
from errata.editing.model.prompts import tokenise_all
from errata.editing.retriever.examples import Example
from errata.editing.retriever.heads import LaneModelShape
from errata.editing.retriever.lane_model import LaneModel, knowledge
from errata.editing.retriever.losses import Texts, answer_logits

_AT_ONCE = 128
_FACTORS = tuple(n / 40 for n in range(20, 61))  # 0.5 to 1.5


@dataclass(frozen=True, slots=True)
class Validation:
    """Shares of the validation facts, all stored at once; each question is routed by itself.

    Attributes:
        reliability: token accuracy of the targets after the prompts, as served.
        generality: the same after rephrases.
        locality: share of answer tokens at locality prompts that stay as they were.
        claimed_right: prompts and rephrases that their own fact claims.
        claimed_wrongly: locality prompts that any fact claims.
        with_own_prompt: token accuracy after prompts and rephrases if every claim were right.
    """

    reliability: float
    generality: float
    locality: float
    claimed_right: float
    claimed_wrongly: float
    with_own_prompt: float

    @property
    def score(self) -> float:
        """Harmonic mean of the first three; 0 if one of them is."""
        return _harmonic(self.reliability, self.generality, self.locality)

    @property
    def retriever_score(self) -> float:
        """Harmonic mean of right claims and right deferrals: what counts before MLP_P learns."""
        return _harmonic(self.claimed_right, 1 - self.claimed_wrongly)

    def figures(self) -> dict[str, float]:
        """All of it by name."""
        return {**asdict(self), "score": self.score}


@torch.no_grad()
def validate(
    model: LaneModel, llm: CausalLM, examples: Sequence[Example], distractors: Tensor
) -> Validation:
    """Stores all examples' keys beside the distractors and asks about each of them.

    Args:
        model: is put into eval mode and back.
        llm: unedited.
        examples: with at least one rephrase and locality prompt each; the first is asked.
        distractors: (n, d_r), further keys that may win wrongly.
    """
    training = model.training
    model.eval()
    facts = [(example.prompt, example.target) for example in examples]
    keys = model.keys([knowledge(*fact) for fact in facts])
    stored = torch.cat([keys, distractors])
    prompts = model.prompts(keys, model.target_embeddings(llm, facts))
    # A distractor claims what it should not, whatever its own prompt would say.
    wrong = prompts.roll(1, dims=0)[torch.arange(len(distractors)) % len(prompts)]
    prompts = torch.cat([prompts, wrong])
    sentinel = model.sentinel_key()
    own = torch.arange(len(examples), device=keys.device)

    def ask(questions: Sequence[tuple[str, str]]) -> _Asked:
        queries = model.queries([text for text, _ in questions])
        best, who = (queries @ stored.T).max(dim=1)
        claimed = best > queries @ sentinel
        plain = _answers(llm, questions, None, model.shape)
        served = _answers(llm, questions, prompts[who], model.shape)
        gold = _answers(llm, questions, prompts[own], model.shape)
        return _Asked(who, claimed, plain, served, gold)

    direct = ask(facts)
    rephrased = ask([(e.rephrases[0], e.target) for e in examples])
    outside = ask([e.locality[0] for e in examples])
    model.train(training)
    right = [(a.who == own) & a.claimed for a in (direct, rephrased)]
    with_own = [a.gold.accuracy() for a in (direct, rephrased)]
    stays = outside.served.agreement(outside.plain)
    return Validation(
        reliability=_mean(direct.accuracy_as_served()),
        generality=_mean(rephrased.accuracy_as_served()),
        locality=_mean(torch.where(outside.claimed, stays, torch.ones_like(stays))),
        claimed_right=_mean(torch.cat(right)),
        claimed_wrongly=_mean(outside.claimed),
        with_own_prompt=_mean(torch.cat(with_own)),
    )


@torch.no_grad()
def calibrated(model: LaneModel, examples: Sequence[Example], distractors: Tensor) -> float:
    """The factor on the sentinel's key that balances right claims and right deferrals best.

    Args:
        model: is put into eval mode.
        examples: as in `validate`.
        distractors: as in `validate`.

    Returns:
        Of `_FACTORS` the one with the highest harmonic mean of both; of equal ones that nearest 1.
    """
    model.eval()
    keys = model.keys([knowledge(e.prompt, e.target) for e in examples])
    stored, sentinel = torch.cat([keys, distractors]), model.sentinel_key()
    own = torch.arange(len(examples), device=keys.device)
    inside = [e.prompt for e in examples] + [e.rephrases[0] for e in examples]
    queries = model.queries([*inside, *(e.locality[0][0] for e in examples)])
    best, who = (queries @ stored.T).max(dim=1)
    limits, found = queries @ sentinel, who[: len(inside)] == own.repeat(2)

    def balance(factor: float) -> float:
        claimed = best > factor * limits
        right = _mean(claimed[: len(inside)] & found)
        return _harmonic(right, 1 - _mean(claimed[len(inside) :]))

    return max(_FACTORS, key=lambda factor: (balance(factor), -abs(factor - 1)))


@dataclass(frozen=True, eq=False, slots=True)
class _Answers:
    """What the LLM ranks first at the answers' places, batch by batch."""

    parts: list[tuple[Texts, Tensor]]

    def accuracy(self) -> Tensor:
        """Share (n,) of each text's answer tokens that are ranked first."""
        return torch.cat([texts.per_text(ids == texts.labels) for texts, ids in self.parts])

    def agreement(self, other: _Answers) -> Tensor:
        """Share (n,) of each text's places at which both rank the same first."""
        pairs = zip(self.parts, other.parts, strict=True)
        return torch.cat([texts.per_text(a == b) for (texts, a), (_, b) in pairs])


@dataclass(frozen=True, eq=False, slots=True)
class _Asked:
    """What came of n questions."""

    who: Tensor  # (n,) int64, the key with the highest score
    claimed: Tensor  # (n,) bool, whether it is above the sentinel's
    plain: _Answers  # without a prompt
    served: _Answers  # with the prompt of `who`
    gold: _Answers  # with the fact's own

    def accuracy_as_served(self) -> Tensor:
        return torch.where(self.claimed, self.served.accuracy(), self.plain.accuracy())


def _answers(
    llm: CausalLM,
    questions: Sequence[tuple[str, str]],
    prompts: Tensor | None,
    shape: LaneModelShape,
) -> _Answers:
    parts = []
    for start in range(0, len(questions), _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        texts = Texts.of(llm, tokenise_all(llm, questions[part]))
        given = None if prompts is None else prompts[part]
        logits = answer_logits(llm, texts, given, shape.after, shape.deep)
        parts.append((texts, logits.argmax(-1)))
    return _Answers(parts)


def _harmonic(*parts: float) -> float:
    return len(parts) / sum(1 / part for part in parts) if all(parts) else 0.0


def _mean(values: Tensor) -> float:
    return float(values.float().mean())
