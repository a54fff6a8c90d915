"""Inference messages: proto ↔ domain."""

from __future__ import annotations

from collections.abc import Sequence

from errata.editing.canaries import NO_CANARIES, Canaries
from errata.editing.model.causal_lm import CausalLM
from errata.editing.namespaces import reading_of
from errata.engine.sequence import Piece, ScoredContinuation, TokenChoice
from errata.errors import ErrataError
from errata.log.chat_convert import chat_of
from errata.platform.limits_convert import check_request
from errata.platform.settings import WorkerSettings
from errata.platform.status_convert import to_status
from errata.worker.admission import GenerationInput, SamplingInput, ScoringInput
from errata_client._gen.errata.v1 import inference_pb2

_FINISH_REASONS = {
    "": inference_pb2.FINISH_REASON_UNSPECIFIED,
    "stop": inference_pb2.FINISH_REASON_STOP,
    "length": inference_pb2.FINISH_REASON_LENGTH,
}


def generation_input(
    message: inference_pb2.GenerateRequest | inference_pb2.StreamGenerateRequest,
) -> GenerationInput:
    """A request for a continuation, unary or streamed; only its sizes are checked.

    Raises:
        InvalidRequestError, LimitExceededError: as `check_request`.
    """
    check_request(message)
    given = message.HasField
    return GenerationInput(
        message.prompt,
        message.max_tokens if given("max_tokens") else None,
        tuple(message.stop),
        _sampling_input(message.sampling) if given("sampling") else None,
        message.num_alternatives if given("num_alternatives") else None,
        message.min_seq if given("min_seq") else None,
        chat_of(message.chat) if given("chat") else None,
        message.clip_max_tokens,
        tuple(message.namespaces),
        message.canary_key,
    )


def _sampling_input(message: inference_pb2.Sampling) -> SamplingInput:
    return SamplingInput(
        message.temperature,
        message.top_k,
        message.top_p if message.HasField("top_p") else None,
        message.seed if message.HasField("seed") else None,
    )


def scoring_input(message: inference_pb2.ScoreRequest) -> ScoringInput:
    """A scoring request; only its sizes are checked.

    Raises:
        InvalidRequestError, LimitExceededError: as `check_request`.
    """
    check_request(message)
    return ScoringInput(
        message.prompt,
        message.continuation,
        message.separator if message.HasField("separator") else None,
        message.min_seq if message.HasField("min_seq") else None,
        chat_of(message.chat) if message.HasField("chat") else None,
        tuple(message.namespaces),
        message.canary_key,
    )


def model_message(
    model: CausalLM, name: str, settings: WorkerSettings
) -> inference_pb2.GetModelResponse:
    """The model that a worker serves, and the limits of its requests."""
    longest = min(settings.max_context or model.max_positions, model.max_positions)
    return inference_pb2.GetModelResponse(
        name=name,
        base_model_digest=model.digest,
        max_positions=longest,
        max_tokens=settings.max_new_tokens,
        has_chat_template=model.has_chat_template,
    )


class Asker:
    """Where answers come from, and which canaries their request was in.

    Attributes:
        replica: name of the replica that answers.
        canary_key: of the request.
    """

    def __init__(self, replica: str, asked: GenerationInput | ScoringInput) -> None:
        """Of one request."""
        self.replica, self.canary_key = replica, asked.canary_key
        self._namespaces = asked.namespaces
        self._known: tuple[Canaries, dict[str, bool]] = NO_CANARIES, {}

    def arms(self, canaries: Canaries) -> dict[str, bool]:
        """As `Canaries.arms`, once for all messages of a stream."""
        if canaries is not self._known[0] and canaries.open:
            reading = reading_of(self._namespaces)
            self._known = canaries, canaries.arms(reading, self.canary_key)
        return self._known[1]


def provenance(result: Piece | ScoredContinuation, asker: Asker) -> inference_pb2.Provenance:
    """The state that an answer was computed under, and the canaries that its request was in."""
    version = result.version
    arms = asker.arms(version.canaries)
    return inference_pb2.Provenance(
        applied_seq=version.seq,
        chain_digest=version.chain_digest,
        state_digest=version.state_digest,
        replica=asker.replica,
        edits=result.edits,
        num_edits_in_force=version.num_edits,
        prompt_cut=result.prompt_cut,
        canaries=[name for name, is_in in arms.items() if is_in],
        canary_key=asker.canary_key if arms else "",
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


def answer(model: CausalLM, piece: Piece, asker: Asker) -> inference_pb2.GenerateResponse:
    """A whole continuation."""
    return inference_pb2.GenerateResponse(
        text=piece.text,
        finish_reason=_FINISH_REASONS[piece.finish_reason],
        num_prompt_tokens=piece.num_prompt_tokens,
        num_tokens=piece.num_tokens,
        provenance=provenance(piece, asker),
        tokens=_choices(model, piece.choices),
    )


def replica_answer(
    replica: str, result: inference_pb2.GenerateResponse | ErrataError
) -> inference_pb2.ReplicaAnswer:
    """An answer or an error, with the name of the replica that gave it."""
    if isinstance(result, ErrataError):
        return inference_pb2.ReplicaAnswer(replica=replica, error=to_status(result))
    return inference_pb2.ReplicaAnswer(replica=replica, response=result)


def chunk(model: CausalLM, piece: Piece, asker: Asker) -> inference_pb2.StreamGenerateResponse:
    """A part of a continuation."""
    return inference_pb2.StreamGenerateResponse(
        text=piece.text,
        finish_reason=_FINISH_REASONS[piece.finish_reason],
        num_tokens=piece.num_tokens,
        num_prompt_tokens=piece.num_prompt_tokens,
        provenance=provenance(piece, asker),
        tokens=_choices(model, piece.choices),
    )


def score(
    model: CausalLM,
    token_ids: Sequence[int],
    scored: ScoredContinuation,
    asker: Asker,
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
        provenance=provenance(scored, asker),
    )
