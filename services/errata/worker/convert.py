"""Inference messages: domain → proto."""

from __future__ import annotations

from collections.abc import Sequence

from errata.editing.causal_lm import CausalLM
from errata.engine.sequence import Piece, ScoredContinuation, Version
from errata_client._gen.errata.v1 import inference_pb2

_FINISH_REASONS = {
    "": inference_pb2.FINISH_REASON_UNSPECIFIED,
    "stop": inference_pb2.FINISH_REASON_STOP,
    "length": inference_pb2.FINISH_REASON_LENGTH,
}


def provenance(version: Version, edits: Sequence[str], replica: str) -> inference_pb2.Provenance:
    """Under what an answer was computed."""
    return inference_pb2.Provenance(
        applied_seq=version.seq,
        chain_digest=version.chain_digest,
        state_digest=version.state_digest,
        replica=replica,
        edits=edits,
        num_edits_in_force=version.num_edits,
    )


def answer(pieces: Sequence[Piece], replica: str) -> inference_pb2.GenerateResponse:
    """A whole continuation."""
    last = pieces[-1]
    return inference_pb2.GenerateResponse(
        text="".join(piece.text for piece in pieces),
        finish_reason=_FINISH_REASONS[last.finish_reason],
        num_prompt_tokens=last.num_prompt_tokens,
        num_tokens=last.num_tokens,
        provenance=provenance(last.version, last.edits, replica),
    )


def chunk(piece: Piece, replica: str) -> inference_pb2.StreamGenerateResponse:
    """A part of a continuation."""
    return inference_pb2.StreamGenerateResponse(
        text=piece.text,
        finish_reason=_FINISH_REASONS[piece.finish_reason],
        num_tokens=piece.num_tokens,
        num_prompt_tokens=piece.num_prompt_tokens,
        provenance=provenance(piece.version, piece.edits, replica),
    )


def score(
    model: CausalLM, token_ids: Sequence[int], scored: ScoredContinuation, replica: str
) -> inference_pb2.ScoreResponse:
    """A scored continuation."""
    decode = model.tokenizer.decode
    return inference_pb2.ScoreResponse(
        tokens=[
            inference_pb2.TokenScore(
                token=decode([given]),
                token_id=given,
                log_probability=log_p,
                argmax_token=decode([own]),
                argmax_token_id=own,
            )
            for given, own, log_p in zip(
                token_ids, scored.argmax_ids, scored.log_probabilities, strict=True
            )
        ],
        provenance=provenance(scored.version, scored.edits, replica),
    )
