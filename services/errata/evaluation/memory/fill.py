"""Lanes filled with random edits, with the memory that a writer would have of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from errata.editing.adaple.memory import key_name
from errata.editing.artifact import Artifact
from errata.editing.edit import Edit
from errata.editing.elder.allocation import allocate
from errata.editing.elder.experts import Shape
from errata.editing.elder.memory import EditTexts, answer_of, pack_texts
from errata.editing.elder.needs import num_texts
from errata.editing.lane.commits import Commit
from errata.editing.lane.contract import Lane, LaneConfig, Resources
from errata.editing.lane.inventory import fact_of
from errata.editing.lane.method import Method
from errata.editing.lane.needs import EditLoad
from errata.editing.model.causal_lm import CausalLM
from errata.editing.model.prompts import tokenise
from errata.editing.model.weights import EditedWeights
from errata.editing.retriever.gate import Gate
from errata.evaluation.serve.routed import MAKERS, SyntheticLane, learn
from errata.evaluation.serve.synthetic import random_commit
from errata.indices.faiss_indices import FaissIndices

_LANE = "lanes/measured"
_WORDS = ("one", "two", "three", "four", "five", "six", "seven", "eight")


@dataclass(frozen=True, slots=True)
class Filling:
    """What a lane is filled with.

    Attributes:
        method: of the lane.
        config: of the lane.
        lane_model: folder of its lane model; None if it needs none.
        num_edits: N.
        batch: edits of a commit.
        text_tokens: T, tokens of an edit's prompt and target.
    """

    method: Method
    config: LaneConfig
    lane_model: Path | None
    num_edits: int
    batch: int
    text_tokens: int


def filled_lane(model: CausalLM, filling: Filling, resources: Resources | None = None) -> Lane:
    """Opens a lane and applies N random edits to it.

    Args:
        model: holds its base weights; a lane that changes weights changes them.
        filling: of the lane.
        resources: for the lane's fits, which also need its memory; None in a worker.
    """
    lane = filling.method.open(
        model, filling.config, EditedWeights(model), name=_LANE, indices=FaissIndices()
    )
    gate = learn(lane, model, filling.lane_model)
    if resources is not None:
        lane.gather(resources)
    rng = torch.Generator().manual_seed(0)
    source = _SOURCES[filling.method.name]
    for seq, start in enumerate(range(0, filling.num_edits, filling.batch), start=2):
        size = min(filling.batch, filling.num_edits - start)
        names = tuple(f"edits/{seq}-{number}" for number in range(size))
        artifact = random_artifact(model, filling, gate, names, rng)
        memory = None if resources is None else source.memory(model, filling, artifact, names)
        lane.prepare(Commit(seq, names, artifact, memory)).apply()
    return lane


def random_artifact(
    model: CausalLM,
    filling: Filling,
    gate: Gate | None,
    names: Sequence[str],
    rng: torch.Generator,
) -> Artifact:
    """The artifact of a commit of random edits, in the shapes of a real one.

    Args:
        model: of the lane.
        filling: of the lane; `num_edits` and `batch` do not matter.
        gate: what decides the lane's claims; None for a lane without a lane model.
        names: of the edits.
        rng: the source of all numbers.
    """
    values = filling.config.model_dump(exclude_defaults=True)
    own = SyntheticLane(filling.method.name, values, filling.lane_model, len(names), num_experts=1)
    source = _SOURCES[filling.method.name]
    return source.artifact(model, filling.config, gate, tuple(names), own, rng)


def new_edits(model: CausalLM, number: int, text_tokens: int) -> tuple[Edit, ...]:
    """Edits whose prompt and target have about T tokens, with two rephrases each."""
    edits = []
    for index in range(number):
        subject = f"Subject {index}"
        words: list[str] = []
        prompt = ""
        while len(tokenise(model, prompt or "a").ids) < text_tokens - 4:
            words.append(_WORDS[(index + len(words)) % len(_WORDS)])
            prompt = f"{' '.join(words)} of {subject} is"
        rephrases = (f"{' '.join(reversed(words))} of {subject} is", f"So {prompt}")
        edits.append(Edit(f"edits/0-{index}", prompt, "five six", subject, rephrases))
    return tuple(edits)


def _random_factors(
    model: CausalLM,
    config: Any,
    gate: object,
    names: Sequence[str],
    lane: SyntheticLane,
    rng: torch.Generator,
) -> Artifact:
    layers = config.resolve_layers(model.num_layers)
    return random_commit(model, config, layers, [fact_of(name) for name in names], rng)


def _keys(
    model: CausalLM, filling: Filling, artifact: Artifact, names: Sequence[str]
) -> Artifact | None:
    """Keys of AdaPLE's size: one vector of d_ff per layer and edit."""
    found = {}
    for name, tensor in artifact.tensors.items():
        prefix, layer, part = (*name.split("."), "", "")[:3]
        if (prefix, part) == ("layer", "right"):
            found[key_name(int(layer))] = tensor.clone()
    return Artifact(found)


def _texts(
    model: CausalLM, filling: Filling, artifact: Artifact, names: Sequence[str]
) -> Artifact | None:
    """Texts of ELDER's size, with an allocation for every fact."""
    config: Any = filling.config
    shape = Shape.of(model, config)
    (edit,) = new_edits(model, 1, filling.text_tokens)
    row = tokenise(model, edit.prompt, edit.target)
    texts = [
        EditTexts(
            name,
            fact_of(name),
            answer_of(name, ""),
            allocate(fact_of(name), (), len(shape.layers), shape.num_experts, shape.top_k),
            (row,) * num_texts(config, EditLoad(filling.num_edits, filling.batch)),
        )
        for name in names
    ]
    return pack_texts(texts)


def _nothing(
    model: CausalLM, filling: Filling, artifact: Artifact, names: Sequence[str]
) -> Artifact | None:
    return None


@dataclass(frozen=True, slots=True)
class _Source:
    """Where a method's random commits come from.

    Attributes:
        artifact: makes a commit's artifact.
        memory: makes its memory.
        quick: configuration with which a fit takes as much memory, but less time.
    """

    artifact: Callable[..., Artifact]
    memory: Callable[..., Artifact | None] = _nothing
    quick: Mapping[str, Any] = field(default_factory=dict)


_SOURCES: Mapping[str, _Source] = {
    "adaple": _Source(_random_factors, _keys, {"steps": 2, "covariance_samples": 1}),
    "recipe": _Source(MAKERS["recipe"]),
    "elder": _Source(MAKERS["elder"], _texts, {"steps": 2}),
    "lemoe": _Source(MAKERS["lemoe"], quick={"steps": 2}),
}


def quick_config(method: Method, config: LaneConfig) -> LaneConfig:
    """The configuration with fewer steps and less text for statistics; sizes are the same."""
    return config.model_copy(update=dict(_SOURCES[method.name].quick))
