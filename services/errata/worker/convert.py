"""Inference messages: domain → proto."""

from __future__ import annotations

from collections.abc import Sequence

from errata.editing.model.causal_lm import CausalLM
from errata.engine.sequence import Piece, ScoredContinuation, TokenChoice
from errata_client._gen.errata.v1 import inference_pb2

_FINISH_REASONS = {
    "": inference_pb2.FINISH_REASON_UNSPECIFIED,
    "stop": inference_pb2.FINISH_REASON_STOP,
    "length": inference_pb2.FINISH_REASON_LENGTH,
}


def provenance(said: Piece | ScoredContinuation, replica: str) -> inference_pb2.Provenance:
    """Under what an answer was computed."""
    version = said.version
    return inference_pb2.Provenance(
        applied_seq=version.seq,
        chain_digest=version.chain_digest,
        state_digest=version.state_digest,
        replica=replica,
        edits=said.edits,
        num_edits_in_force=version.num_edits,
        prompt_cut=said.prompt_cut,
    )


def _choices(model: CausalLM, choices: Sequence[TokenChoice]) -> list[inference_pb2.TokenChoice]:
    def text(token_id: int) -> str:
        return str(model.tokenizer.decode([token_id]))

    return [
        inference_pb2.TokenChoice(
            token=text(choice.token_id),
            token_id=choice.token_id,
            log_probability=choice.log_probability,
            alternatives=[
                inference_pb2.TokenChoice.Alternative(
                    token=text(token_id), token_id=token_id, log_probability=log_probability
                )
                for token_id, log_probability in choice.alternatives
            ],
        )
        for choice in choices
    ]


def answer(model: CausalLM, piece: Piece, replica: str) -> inference_pb2.GenerateResponse:
    """A whole continuation."""
    return inference_pb2.GenerateResponse(
        text=piece.text,
        finish_reason=_FINISH_REASONS[piece.finish_reason],
        num_prompt_tokens=piece.num_prompt_tokens,
        num_tokens=piece.num_tokens,
        provenance=provenance(piece, replica),
        tokens=_choices(model, piece.choices),
    )


def chunk(model: CausalLM, piece: Piece, replica: str) -> inference_pb2.StreamGenerateResponse:
    """A part of a continuation."""
    return inference_pb2.StreamGenerateResponse(
        text=piece.text,
        finish_reason=_FINISH_REASONS[piece.finish_reason],
        num_tokens=piece.num_tokens,
        num_prompt_tokens=piece.num_prompt_tokens,
        provenance=provenance(piece, replica),
        tokens=_choices(model, piece.choices),
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
        provenance=provenance(scored, replica),
    )
