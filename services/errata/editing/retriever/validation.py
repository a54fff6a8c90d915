"""Evaluates a lane model on held-out facts; training keeps the best model by this score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from errata.editing.chat import in_alternating_forms
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
    """Figures over the validation facts, which are all stored at once; from 0 to 1.

    Attributes:
        reliability: token accuracy of the targets after the prompts, as served.
        generality: the same after rephrases.
        locality: share of answer tokens at locality prompts that do not change.
        claimed_right: share of prompts and rephrases that the right fact claims.
        claimed_wrongly: share of locality prompts that any fact claims.
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
        """Harmonic mean of the first three; 0 if one of them is 0."""
        return _harmonic(self.reliability, self.generality, self.locality)

    @property
    def retriever_score(self) -> float:
        """Harmonic mean of right claims and right deferrals: the score before MLP_P is trained."""
        return _harmonic(self.claimed_right, 1 - self.claimed_wrongly)

    def figures(self) -> dict[str, float]:
        """All figures by name, with the score."""
        return {**asdict(self), "score": self.score}


@torch.no_grad()
def validate(
    model: LaneModel, llm: CausalLM, examples: Sequence[Example], distractors: Tensor
) -> Validation:
    """Stores all examples' keys together with the distractors and evaluates every example.

    Args:
        model: put into eval mode, and back into its previous mode.
        llm: unedited.
        examples: the first rephrase and the first locality prompt of each are evaluated.
        distractors: (n, d_r), further keys, which compete with those of the examples.
    """
    training = model.training
    model.eval()
    facts = [(example.prompt, example.target) for example in examples]
    keys = model.keys([knowledge(*fact) for fact in facts])
    stored = torch.cat([keys, distractors])
    prompts = model.prompts(keys, model.target_embeddings(llm, facts))
    # A claim by a distractor is wrong, so any other fact's continuous prompt represents its own.
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
    """The factor on the sentinel's key that best balances right claims and right deferrals.

    Args:
        model: put into eval mode.
        examples: as in `validate`.
        distractors: as in `validate`.

    Returns:
        The one of `_FACTORS` with the highest harmonic mean of both; of equal ones, the one nearest
        to 1.
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
    """The LLM's most likely token at each target position, batch by batch."""

    parts: list[tuple[Texts, Tensor]]

    def accuracy(self) -> Tensor:
        """The share of each text's target tokens that are the most likely ones, (n,)."""
        return torch.cat([texts.per_text(ids == texts.labels) for texts, ids in self.parts])

    def agreement(self, other: _Answers) -> Tensor:
        """The share of each text's positions at which both agree on the most likely token, (n,)."""
        pairs = zip(self.parts, other.parts, strict=True)
        return torch.cat([texts.per_text(a == b) for (texts, a), (_, b) in pairs])


@dataclass(frozen=True, eq=False, slots=True)
class _Asked:
    """The results of n questions."""

    who: Tensor  # (n,) int64, index of the key with the highest score
    claimed: Tensor  # (n,) bool, whether that score is above the sentinel's
    plain: _Answers  # without a continuous prompt
    served: _Answers  # with the continuous prompt of `who`
    gold: _Answers  # with the continuous prompt of the right fact

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
        asked, answers = zip(*questions[part], strict=True)
        prompts_in = in_alternating_forms(asked, chats=llm.has_chat_template)
        rows = tokenise_all(llm, list(zip(prompts_in, answers, strict=True)))
        texts = Texts.of(llm, rows, shape.after)
        given = None if prompts is None else prompts[part]
        logits = answer_logits(llm, texts, given, shape.deep)
        parts.append((texts, logits.argmax(-1)))
    return _Answers(parts)


def _harmonic(*parts: float) -> float:
    return len(parts) / sum(1 / part for part in parts) if all(parts) else 0.0


def _mean(values: Tensor) -> float:
    return float(values.float().mean())
