"""What the rows of one step get: plans over vLLM's flat tokens, built once for each step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from errata.editing.effects.expert import Expert
from errata.editing.effects.mixture import Mixture, Place
from errata.editing.effects.prefix import Prefix
from errata_vllm.worker.listening import Ear, ListeningRows


@dataclass(frozen=True, eq=False, slots=True)
class RowEffects:
    """The effects on one request.

    Attributes:
        prefix: its continuous prompt, whose place the prompt's token ids hold free.
        after: how many of the prompt's tokens come before it.
        mixture: its mixture of LoRAs.
        gates: (places, N) of that mixture, on the model's device.
        experts: each with its weight.
        ears: probes that listen to its prompt.
        key: what their hits are kept under.
        prompt_end: number of entries of its prompt, places of a continuous prompt included.
    """

    prefix: Prefix | None = None
    after: int = 0
    mixture: Mixture | None = None
    gates: Tensor | None = None
    experts: tuple[tuple[Expert, float], ...] = ()
    ears: tuple[Ear, ...] = ()
    key: str = ""
    prompt_end: int = 0

    def acts_at(self, position: int) -> bool:
        """Whether a step from this position on has anything to do with it."""
        return self.mixture is not None or bool(self.experts) or self.reads_at(position)

    def reads_at(self, position: int) -> bool:
        """Whether a step from this position on reads a part of the prompt that matters."""
        if self.prefix is not None and position < self.after + self.prefix.num_positions:
            return True
        return bool(self.ears) and position < self.prompt_end


@dataclass(frozen=True, slots=True)
class Span:
    """One request's tokens in a step.

    Attributes:
        effects: on the request.
        start, end: its flat tokens.
        position: of the first of them in the request's sequence.
    """

    effects: RowEffects
    start: int
    end: int
    position: int


@dataclass(frozen=True, eq=False, slots=True)
class MixtureTokens:
    """The tokens that one mixture claims.

    Attributes:
        mixture: the one that claims them.
        tokens: (n,) int64.
        gates: (n, places, N).
    """

    mixture: Mixture
    tokens: Tensor
    gates: Tensor


@dataclass(frozen=True, eq=False, slots=True)
class ExpertTokens:
    """The tokens that go through experts of one layer, sorted by expert.

    Attributes:
        experts: those that occur.
        sizes: how many tokens each of them has.
        tokens: (n,) int64.
        weights: (n, 1).
    """

    experts: tuple[Expert, ...]
    sizes: tuple[int, ...]
    tokens: Tensor
    weights: Tensor


@dataclass(frozen=True, eq=False, slots=True)
class PrefixTokens:
    """The tokens that hold places of continuous prompts.

    Attributes:
        tokens: (n,) int64.
        embeddings: (n, d).
        deep: layer → (tokens, (n', d)), of the prompts that are deepened there.
    """

    tokens: Tensor
    embeddings: Tensor
    deep: Mapping[int, tuple[Tensor, Tensor]]


@dataclass(frozen=True, eq=False, slots=True)
class StepPlan:
    """The effects of one step.

    Attributes:
        mixtures: place → the mixtures that claim tokens there, each with the place's number.
        experts: layer → tokens.
        prefix: places of continuous prompts in this step; None without any.
        listening: prompts that probes listen to, by their ears.
    """

    mixtures: Mapping[Place, tuple[tuple[int, MixtureTokens], ...]]
    experts: Mapping[int, ExpertTokens]
    prefix: PrefixTokens | None
    listening: tuple[ListeningRows, ...]


def step_plan(spans: Sequence[Span], device: torch.device, dtype: torch.dtype) -> StepPlan:
    """The plan of a step, of the rows in it that have effects."""
    return StepPlan(
        _mixtures(spans, device),
        _experts(spans, device, dtype),
        _prefix(spans, device),
        _listening(spans, device),
    )


def _mixtures(
    spans: Sequence[Span], device: torch.device
) -> dict[Place, tuple[tuple[int, MixtureTokens], ...]]:
    groups: dict[int, list[Span]] = {}
    for span in spans:
        if span.effects.mixture is not None:
            groups.setdefault(id(span.effects.mixture), []).append(span)
    places: dict[Place, tuple[tuple[int, MixtureTokens], ...]] = {}
    for group in groups.values():
        mixture = group[0].effects.mixture
        assert mixture is not None
        counts = torch.tensor([span.end - span.start for span in group])
        gates = torch.stack([_gates(span.effects) for span in group])
        claimed = MixtureTokens(
            mixture, _tokens(group, device), gates.repeat_interleave(counts.to(device), dim=0)
        )
        for number, place in enumerate(mixture.banks):
            places[place] = (*places.get(place, ()), (number, claimed))
    return places


def _gates(effects: RowEffects) -> Tensor:
    assert effects.gates is not None
    return effects.gates


def _experts(
    spans: Sequence[Span], device: torch.device, dtype: torch.dtype
) -> dict[int, ExpertTokens]:
    groups: dict[int, dict[int, list[tuple[Expert, float, Span]]]] = {}
    for span in spans:
        for expert, weight in span.effects.experts:
            by_expert = groups.setdefault(expert.layer, {})
            by_expert.setdefault(id(expert), []).append((expert, weight, span))
    found = {}
    for layer, by_expert in groups.items():
        members = [member for group in by_expert.values() for member in group]
        counts = [span.end - span.start for _, _, span in members]
        weights = np.repeat(np.asarray([weight for _, weight, _ in members]), counts)
        found[layer] = ExpertTokens(
            tuple(group[0][0] for group in by_expert.values()),
            tuple(
                sum(span.end - span.start for _, _, span in group) for group in by_expert.values()
            ),
            _tokens([span for _, _, span in members], device),
            torch.from_numpy(weights).to(device, dtype)[:, None],
        )
    return found


def _prefix(spans: Sequence[Span], device: torch.device) -> PrefixTokens | None:
    tokens: list[NDArray[np.int64]] = []
    embeddings: list[Tensor] = []
    deep: dict[int, list[tuple[NDArray[np.int64], Tensor]]] = {}
    for span in spans:
        prefix = span.effects.prefix
        if prefix is None:
            continue
        first = max(span.position, span.effects.after)
        last = min(span.position + span.end - span.start, span.effects.after + prefix.num_positions)
        if first >= last:
            continue
        here = np.arange(first, last) - span.position + span.start
        inside = slice(first - span.effects.after, last - span.effects.after)
        tokens.append(here)
        embeddings.append(prefix.embeddings[inside])
        for layer, added in prefix.deep.items():
            deep.setdefault(layer, []).append((here, added[inside]))
    if not tokens:
        return None
    return PrefixTokens(
        torch.from_numpy(np.concatenate(tokens)).to(device),
        torch.cat(embeddings),
        {
            layer: (
                torch.from_numpy(np.concatenate([here for here, _ in parts])).to(device),
                torch.cat([added for _, added in parts]),
            )
            for layer, parts in deep.items()
        },
    )


def _listening(spans: Sequence[Span], device: torch.device) -> tuple[ListeningRows, ...]:
    groups: dict[int, list[tuple[Span, NDArray[np.int64]]]] = {}
    for span in spans:
        effects = span.effects
        last = min(span.position + span.end - span.start, effects.prompt_end)
        if not effects.ears or last <= span.position:
            continue
        positions = np.arange(span.position, last)
        if effects.prefix is not None:  # places of continuous prompts hold no tokens
            end = effects.after + effects.prefix.num_positions
            positions = positions[(positions < effects.after) | (positions >= end)]
        here = positions - span.position + span.start
        groups.setdefault(id(effects.ears), []).append((span, here))
    found = []
    for group in groups.values():
        row_of = np.repeat(np.arange(len(group)), [len(here) for _, here in group])
        found.append(
            ListeningRows(
                group[0][0].effects.ears,
                tuple(span.effects.key for span, _ in group),
                torch.from_numpy(np.concatenate([here for _, here in group])).to(device),
                torch.from_numpy(row_of).to(device),
            )
        )
    return tuple(found)


def _tokens(spans: Sequence[Span], device: torch.device) -> Tensor:
    ranges = [np.arange(span.start, span.end) for span in spans]
    return torch.from_numpy(np.concatenate(ranges)).to(device)
