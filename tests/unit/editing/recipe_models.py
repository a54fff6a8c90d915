"""Small RECIPE lane models with random weights, and lanes that hold one."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from torch import Tensor, nn

from errata.editing.artifact import Artifact
from errata.editing.edit import Edit, EditBatch
from errata.editing.lane.commits import Commit, LaneModelCommit
from errata.editing.lane.contract import Lane
from errata.editing.model.causal_lm import BaseLLM, CausalLM
from errata.editing.recipe.config import RecipeConfig
from errata.editing.recipe.lane import RecipeLane
from errata.editing.retriever.encoder import Encoder
from errata.editing.retriever.examples import Example
from errata.editing.retriever.heads import LaneModelShape
from errata.editing.retriever.lane_model import LaneModel
from errata.indices.faiss_indices import FaissIndices

D_R = 24
_TOWNS = ("Lyon", "Pisa", "Helsinki", "Bordeaux")


def make_lane_model(
    llm: CausalLM,
    *,
    seed: int = 0,
    after: int = 1,
    num_target: int = 2,
    by_token: bool = False,
    max_tokens: int = 32,
) -> LaneModel:
    """Equal arguments give equal weights; eval mode."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        encoder = Encoder.small(llm, max_tokens, width=32, depth=2)
        shape = LaneModelShape(
            d_r=D_R,
            num_prompt=3,
            deep=(1,),
            num_target=num_target,
            num_sentinel=4,
            after=after,
            d=llm.d,
            max_tokens=max_tokens,
            by_token=by_token,
        )
        return LaneModel(encoder, shape, llm.digest).eval().requires_grad_(False)


def logits_behind(
    llm: CausalLM, ids: tuple[int, ...], prompt: Tensor, after: int, deep: tuple[int, ...]
) -> Tensor:
    """Logits (l + T, V) of one text with a prompt (S, l, d), composed by hand."""
    embedded = llm.embeddings(torch.tensor(ids))
    embeddings, *added = prompt
    whole = torch.cat([embedded[:after], embeddings, embedded[after:]])
    place = slice(after, after + len(embeddings))
    handles = []
    for layer, more in zip(deep, added, strict=True):

        def deepen(_: nn.Module, args: tuple[Tensor, ...], more: Tensor = more) -> None:
            args[0][0, place] += more

        handles.append(llm.blocks[layer].register_forward_pre_hook(deepen))
    try:
        logits: Tensor = llm.model(inputs_embeds=whole[None]).logits[0]
    finally:
        for handle in handles:
            handle.remove()
    return logits


def bare_lane(llm: BaseLLM, config: RecipeConfig | None = None) -> RecipeLane:
    """A lane without edits and without a lane model; by default, its fits only encode."""
    config = config or RecipeConfig(refine_steps=0)
    return RecipeLane(llm, config, None, name="lanes/facts", indices=FaissIndices())


def make_lane(
    llm: CausalLM, lane_model: LaneModel | None = None, config: RecipeConfig | None = None
) -> RecipeLane:
    """A lane without edits that has its lane model and is ready to fit."""
    lane = bare_lane(llm, config)
    lane.prepare(model_commit(lane_model or make_lane_model(llm))).apply()
    lane.gather(NoText())
    return lane


class NoText:
    """Resources of lanes that read none."""

    cache_dir = Path()
    adapters = ()

    def text(self) -> list[str]:
        return []


def model_commit(
    lane_model: LaneModel,
    edits: tuple[str, ...] = (),
    repository: Artifact | None = None,
    seq: int = 1,
) -> LaneModelCommit:
    data = lane_model.to_artifact().to_bytes()
    digest = hashlib.sha256(data).hexdigest()
    return LaneModelCommit(seq, Artifact.from_bytes(data), digest, edits, repository)


def make_edits(*facts: tuple[str, str], seq: int = 2) -> tuple[Edit, ...]:
    return tuple(
        Edit(f"edits/{seq}-{index}", prompt, target, prompt.split()[0])
        for index, (prompt, target) in enumerate(facts)
    )


def commit_of(lane: Lane, *facts: tuple[str, str], seq: int = 2) -> Commit:
    """What the writer would commit of a lane of any method."""
    return fit(lane, make_edits(*facts, seq=seq), seq)


def fit(lane: Lane, edits: tuple[Edit, ...], seq: int = 2, attempt: int = 0) -> Commit:
    """What the writer would commit, read back from its bytes."""
    result = lane.fit(EditBatch(edits, seed=1, attempt=attempt))
    names = tuple(edit.name for edit in edits)
    return Commit(seq, names, Artifact.from_bytes(result.artifact.to_bytes()))


def commit(lane: RecipeLane, *facts: tuple[str, str], seq: int = 2) -> None:
    lane.prepare(fit(lane, make_edits(*facts, seq=seq), seq)).apply()


def examples_of_towns(number: int = 24) -> list[Example]:
    """Facts of one relation, each about another subject."""
    return [
        Example(
            prompt=f"Nokia{n} was founded in the town of",
            target=_TOWNS[n % 4],
            subject=f"Nokia{n}",
            rephrases=(f"Nokia{n} comes from", f"The home of Nokia{n} is"),
            locality=((f"Toyota{n} was founded in the town of", _TOWNS[(n + 1) % 4]),),
        )
        for n in range(number)
    ]
