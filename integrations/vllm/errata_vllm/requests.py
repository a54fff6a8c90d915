"""Errata's requests as vLLM's, and vLLM's outputs as Errata's pieces."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vllm.sampling_params import RequestOutputKind, SamplingParams

from errata.editing.effects.plan import RowPlan
from errata.engine.sampling import LEAST_TEMPERATURE
from errata.engine.sequence import GenerationRequest, ScoredContinuation, TokenChoice
from errata_vllm.artifacts import RowArtifacts
from errata_vllm.decisions import Decided
from errata_vllm.probes import OpenEar
from errata_vllm.worker.wire import ARGUMENT

_SEEDS = 2**63  # vLLM's are signed


def token_ids(ids: Sequence[int], plan: RowPlan) -> list[int]:
    """The prompt's tokens, with a place for each position that the plan takes.

    The places hold the prompt's first token; the workers put embeddings there.
    """
    at = next((e.after for e in plan.effects if e.num_positions), 0)
    return [*ids[:at], *[ids[0]] * plan.num_positions, *ids[at:]]


def sampling_params(
    request: GenerationRequest,
    row: RowArtifacts,
    end_ids: Sequence[int],
    ear: OpenEar | None,
    *,
    in_parts: bool,
) -> SamplingParams:
    """The parameters of a generation.

    Args:
        request: what to generate.
        row: what the workers get for it.
        end_ids: tokens that end a text.
        ear: listens to the prompt.
        in_parts: yield new tokens as they are made, not all of them at the end.
    """
    sampling = request.sampling
    is_sampled = sampling.temperature >= LEAST_TEMPERATURE
    return SamplingParams(
        temperature=sampling.temperature if is_sampled else 0.0,
        top_k=sampling.top_k,
        top_p=sampling.top_p,
        seed=sampling.seed % _SEEDS if is_sampled else None,
        max_tokens=request.max_tokens,
        stop_token_ids=[] if request.ignore_eos else list(end_ids),
        ignore_eos=True,  # of vLLM's own end of text; `stop_token_ids` has all of them
        logprobs=request.num_alternatives,
        detokenize=False,
        output_kind=RequestOutputKind.DELTA if in_parts else RequestOutputKind.FINAL_ONLY,
        **_edited(row, ear),
    )


def scoring_params(row: RowArtifacts, ear: OpenEar | None) -> SamplingParams:
    """The parameters of a pass that rates each token of its prompt."""
    return SamplingParams(
        temperature=0.0,
        max_tokens=1,
        prompt_logprobs=1,
        detokenize=False,
        output_kind=RequestOutputKind.FINAL_ONLY,
        **_edited(row, ear),
    )


def _edited(row: RowArtifacts, ear: OpenEar | None) -> dict[str, Any]:
    wire = row.wire if ear is None else {**row.wire, "listen": ear.argument}
    return {
        "extra_args": {ARGUMENT: wire} if wire else None,
        # What is listened to must be computed, not read from the cache. Otherwise vLLM decides.
        "skip_reading_prefix_cache": None if ear is None else True,
        "skip_clone": True,
    }


def choices(
    ids: Sequence[int], found: Sequence[Mapping[int, Any]] | None, num_alternatives: int | None
) -> list[TokenChoice]:
    """New tokens with their log-probabilities, if the request asked for them."""
    if found is None or num_alternatives is None:
        return []
    made = []
    for token, ranked in zip(ids, found, strict=True):
        pairs = sorted(
            ((other, each.logprob) for other, each in ranked.items()), key=lambda pair: -pair[1]
        )
        made.append(TokenChoice(token, ranked[token].logprob, tuple(pairs[:num_alternatives])))
    return made


def scored(
    continuation_ids: Sequence[int],
    found: Sequence[Mapping[int, Any] | None],
    decided: Decided,
    edits: tuple[str, ...],
) -> ScoredContinuation:
    """The scores of a continuation, from those of all tokens of the prompt that it ends."""
    rated = found[len(found) - len(continuation_ids) :]
    log_probabilities, best = [], []
    for token, ranked in zip(continuation_ids, rated, strict=True):
        assert ranked is not None, "only the first token of a prompt has no score"
        log_probabilities.append(float(ranked[token].logprob))
        best.append(min(ranked, key=lambda other: ranked[other].rank))
    return ScoredContinuation(
        tuple(log_probabilities),
        tuple(best),
        decided.state.version,
        edits,
        decided.plan.cut,
    )
