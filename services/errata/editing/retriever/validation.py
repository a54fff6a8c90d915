"""Evaluates a lane model on held-out facts; training keeps the best model by this score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from errata.editing.chat import in_alternating_forms
from errata.editing.model.causal_lm import CausalLM
from errata.editing.model.prompts import tokenise_all
from errata.editing.retriever.examples import Example, Sample
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
        other_answers: the same after other questions and with other targets (`questions.Varier`).
    """

    reliability: float
    generality: float
    locality: float
    claimed_right: float
    claimed_wrongly: float
    with_own_prompt: float
    other_answers: float

    @property
    def score(self) -> float:
        """Harmonic mean of the first three and of `other_answers`; 0 if one of them is 0."""
        return _harmonic(self.reliability, self.generality, self.locality, self.other_answers)

    @property
    def retriever_score(self) -> float:
        """Harmonic mean of right claims and right deferrals: the score before MLP_P is trained."""
        return _harmonic(self.claimed_right, 1 - self.claimed_wrongly)

    def figures(self) -> dict[str, float]:
        """All figures by name, with the score."""
        return {**asdict(self), "score": self.score}


@torch.no_grad()
def validate(
    model: LaneModel,
    llm: CausalLM,
    examples: Sequence[Example],
    distractors: Tensor,
    varied: Sequence[Sample] = (),
) -> Validation:
    """Stores all examples' keys together with the distractors and evaluates every example.

    Args:
        model: put into eval mode, and back into its previous mode.
        llm: unedited.
        examples: the first rephrase and the first locality prompt of each are evaluated.
        distractors: (n, d_r), further keys, which compete with those of the examples.
        varied: other facts, for `other_answers`; without any, that is `with_own_prompt`.
    """
    training = model.training
    model.eval()
    facts = [(example.prompt, example.target) for example in examples]
    keys = model.keys([knowledge(*fact) for fact in facts])
    stored = torch.cat([keys, distractors])
    prompts = model.prompts(keys, model.target_embeddings(llm, facts))
    # A claim by a distractor is wrong, so any other fact's continuous prompt represents its own.
    wrong = prompts.roll(1, dims=0)[torch.arange(len(distractors)) % len(prompts)]
    serving = _Serving(model, llm, stored, torch.cat([prompts, wrong]))
    direct = serving.own(facts)
    rephrased = serving.own([(e.rephrases[0], e.target) for e in examples])
    stays, claimed_wrongly = serving.outside([e.locality[0] for e in examples])
    with_own = _mean(torch.cat([direct.gold, rephrased.gold]))
    others = _other_answers(model, llm, varied) if varied else with_own
    model.train(training)
    return Validation(
        reliability=_mean(direct.served),
        generality=_mean(rephrased.served),
        locality=stays,
        claimed_right=_mean(torch.cat([direct.right, rephrased.right])),
        claimed_wrongly=claimed_wrongly,
        with_own_prompt=with_own,
        other_answers=others,
    )


def _other_answers(model: LaneModel, llm: CausalLM, varied: Sequence[Sample]) -> float:
    facts = [(sample.example.prompt, sample.example.target) for sample in varied]
    keys = model.keys_for_prompts(facts)
    prompts = model.prompts(keys, model.target_embeddings(llm, facts))
    rephrased = [(sample.rephrase, sample.example.target) for sample in varied]
    asked = _answers(llm, [*facts, *rephrased], prompts.repeat(2, 1, 1, 1), model.shape)
    return _mean(asked.accuracy())


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
    """The results of n questions about the stored facts, each about another one; all (n,)."""

    right: Tensor  # bool, whether the right fact claims it
    gold: Tensor  # token accuracy with the continuous prompt of the right fact
    served: Tensor  # token accuracy as served


@dataclass(frozen=True, eq=False, slots=True)
class _Serving:
    """Answers as a lane with these keys and continuous prompts would."""

    model: LaneModel
    llm: CausalLM
    stored: Tensor  # (m, d_r)
    prompts: Tensor  # (m, S, l, d)

    def own(self, questions: Sequence[tuple[str, str]]) -> _Asked:
        """Questions about the first stored facts, in order."""
        who, claimed = self._decide(questions)
        own = torch.arange(len(questions), device=who.device)
        gold = self._ask(questions, own).accuracy()
        served = gold.clone()
        for rows, is_edited in ((claimed & (who != own), True), (~claimed, False)):
            if bool(rows.any()):
                chosen = [questions[n] for n in rows.nonzero()[:, 0].tolist()]
                answers = self._ask(chosen, who[rows] if is_edited else None)
                served[rows] = answers.accuracy()
        return _Asked(claimed & (who == own), gold, served)

    def outside(self, questions: Sequence[tuple[str, str]]) -> tuple[float, float]:
        """The share of answer tokens that stay, and the share of claimed questions."""
        who, claimed = self._decide(questions)
        stays = torch.ones(len(questions), device=who.device)
        if bool(claimed.any()):
            chosen = [questions[n] for n in claimed.nonzero()[:, 0].tolist()]
            edited, plain = self._ask(chosen, who[claimed]), self._ask(chosen, None)
            stays[claimed] = edited.agreement(plain)
        return _mean(stays), _mean(claimed)

    def _decide(self, questions: Sequence[tuple[str, str]]) -> tuple[Tensor, Tensor]:
        """The index of the key with the highest score, and whether it beats the sentinel's."""
        queries = self.model.queries([text for text, _ in questions])
        best, who = (queries @ self.stored.T).max(dim=1)
        return who, best > queries @ self.model.sentinel_key()

    def _ask(self, questions: Sequence[tuple[str, str]], who: Tensor | None) -> _Answers:
        prompts = None if who is None else self.prompts[who]
        return _answers(self.llm, questions, prompts, self.model.shape)


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
