"""Fits edits: one pass of the encoder, and gradient steps where MLP_P's prompt does not answer."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import replace
from time import perf_counter

import torch

from errata.editing.artifact import Artifact
from errata.editing.contexts import openings, training_texts
from errata.editing.edit import Edit, EditBatch
from errata.editing.lane.contract import FitResult, Resources
from errata.editing.lane.inventory import fact_of
from errata.editing.lane.repository import Rows
from errata.editing.model.causal_lm import CausalLM
from errata.editing.model.prompts import TokenRow
from errata.editing.recipe.config import RecipeConfig
from errata.editing.recipe.refine import SURE, refined
from errata.editing.recipe.state import pack
from errata.editing.retriever.encoder import Tokens
from errata.editing.retriever.gate import Gate
from errata.editing.retriever.lane_model import LaneModel, knowledge
from errata.editing.retriever.questions import questions_about
from errata.editing.scope import first_paragraphs
from errata.errors import InvalidEditError

_ENCODE_CHUNK = 128
_RETRY_STEPS = 20  # for each attempt after the first
_NEVER_SURE = 2.0  # above every probability: all steps are taken


def fit(
    model: CausalLM,
    batch: EditBatch,
    config: RecipeConfig,
    gate: Gate,
    contexts: Sequence[str],
) -> FitResult:
    """Encodes a batch: r_k = MLP_K(f(k)) and p_k = MLP_P(r_k), k = prompt and target.

    Prompts that do not answer their own texts are then refined by gradient steps; a retry refines
    all of them, and in more steps.

    Args:
        model: unchanged.
        batch: edits; the seed is unused.
        config: of the lane.
        gate: the lane model that encodes.
        contexts: from `gather`.

    Returns:
        An artifact with a key, a prompt and a fact for each edit; the seconds of `encode`, and of
        `refine` if prompts were refined.

    Raises:
        InvalidEditError: a knowledge statement is longer than the encoder reads.
        FitError: a refined prompt is not finite.
    """
    start = perf_counter()
    lane_model = gate.lane_model()
    tokens = lane_model.encoder.tokens(_statements(batch.edits))
    _check_lengths(tokens, lane_model.shape.max_tokens)
    rows = encode(lane_model, model, batch.edits, tokens)
    seconds = {"encode": perf_counter() - start}
    steps = config.refine_steps + _RETRY_STEPS * batch.attempt
    if steps:
        start = perf_counter()
        sure = _NEVER_SURE if batch.attempt else SURE
        rows = _refined(lane_model, model, batch.edits, rows, config, contexts, steps, sure)
        seconds["refine"] = perf_counter() - start
    return FitResult(pack(gate.digest, model, rows), None, seconds)


def _refined(
    lane_model: LaneModel,
    llm: CausalLM,
    edits: Sequence[Edit],
    rows: Rows,
    config: RecipeConfig,
    contexts: Sequence[str],
    steps: int,
    sure: float = SURE,
) -> Rows:
    texts = [_texts(lane_model, llm, edit, config, contexts) for edit in edits]
    return replace(rows, values=refined(llm, rows.values, texts, lane_model, steps, sure))


def _texts(
    lane_model: LaneModel,
    llm: CausalLM,
    edit: Edit,
    config: RecipeConfig,
    contexts: Sequence[str],
) -> tuple[TokenRow, ...]:
    """The texts that an edit's continuous prompt is refined on; the edit's prompt is the first.

    All random choices depend on the edit's prompt and target alone.
    """
    rng = random.Random(f"{edit.said}|{edit.target}|refine")
    number = max(0, config.num_rephrases - len(edit.rephrases))
    known = lane_model.frames.rephrases(edit.said, edit.subject, number, rng)
    more = questions_about(edit.subject, number - len(known), rng)
    return training_texts(llm, edit, contexts, config.num_contexts, wordings=(*known, *more))


def _statements(edits: Sequence[Edit]) -> list[str]:
    return [knowledge(edit.said, edit.target, edit.separator) for edit in edits]


def _check_lengths(tokens: Tokens, limit: int) -> None:
    for number, cut in enumerate(tokens.cut):
        if cut:
            raise InvalidEditError(
                f"edits[{number}]: prompt and target are longer than the {limit} tokens that the "
                "lane's encoder reads; shorten them.",
                field=f"edits[{number}].prompt",
                limit=limit,
            )


@torch.inference_mode()
def encode(model: LaneModel, llm: CausalLM, edits: Sequence[Edit], tokens: Tokens) -> Rows:
    """Encodes edits as keys and prompts; `tokens` are those of their knowledge statements."""
    keys = model.edit_keys(tokens)
    facts = [(edit.said, edit.target) for edit in edits]
    targets = model.target_embeddings(llm, facts, [edit.separator for edit in edits])
    return Rows(
        tuple(edit.name for edit in edits),
        tuple(fact_of(edit.said) for edit in edits),
        keys,
        model.prompts(keys, targets),
    )


def encode_all(
    llm: CausalLM,
    lane_model: bytes,
    edits: Sequence[Edit],
    config: RecipeConfig,
    contexts: Sequence[str],
) -> Artifact | None:
    """Encodes all edits of a lane under a new lane model, as `fit` does; None without edits.

    Raises:
        BaseModelMismatchError, ArtifactCorruptError: the lane model cannot be used here.
    """
    model = LaneModel.from_artifact(Artifact.from_bytes(lane_model), llm)
    parts = []
    for start in range(0, len(edits), _ENCODE_CHUNK):
        part = edits[start : start + _ENCODE_CHUNK]
        tokens = model.encoder.tokens(_statements(part))
        rows = encode(model, llm, part, tokens)
        if steps := config.refine_steps:
            rows = _refined(model, llm, part, rows, config, contexts, steps)
        parts.append(rows)
    if not parts:
        return None
    return pack(hashlib.sha256(lane_model).hexdigest(), llm, Rows.joined(parts))


def gather(config: RecipeConfig, resources: Resources) -> tuple[str, ...]:
    """Reads the contexts for refinement; fits need nothing else but the lane model.

    Without `refine_steps` or `num_contexts` no text is read.
    """
    wanted = config.refine_steps and config.num_contexts
    return openings(first_paragraphs(resources.text())) if wanted else ()
