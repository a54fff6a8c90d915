"""OpenAI requests to protos, and the protos' answers to the parts of OpenAI responses."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from errata.gateway.http.openai_requests import ChatBody, CompletionBody, Message
from errata.platform.limits_convert import check_request
from errata_client._gen.errata.v1 import inference_pb2, types_pb2

Asked = inference_pb2.GenerateRequest
AskedStream = inference_pb2.StreamGenerateRequest
Answer = inference_pb2.GenerateResponse
Piece = inference_pb2.StreamGenerateResponse
Model = inference_pb2.GetModelResponse
Provenance = inference_pb2.Provenance
Tokens = Sequence[inference_pb2.TokenChoice]

_FINISH_REASONS = {
    inference_pb2.FINISH_REASON_STOP: "stop",
    inference_pb2.FINISH_REASON_LENGTH: "length",
}
_SEEDS = 2**64
_LEAST_LOG_PROBABILITY = -9999.0  # JSON has no -inf; the OpenAI API uses this number
_DAMAGED = "\ufffd"  # a token that is a part of a character


def model_request() -> inference_pb2.GetModelRequest:
    """Asks a worker for the served model."""
    return inference_pb2.GetModelRequest()


def chat_requests(
    body: ChatBody,
    model: Model,
    min_seq: int | None,
    namespaces: Sequence[str] = (),
    canary_key: str = "",
) -> list[Asked]:
    """One request for each choice of a chat completion.

    Args:
        body: as checked.
        model: whose limit holds if the body has none.
        min_seq: never answer from an older position.
        namespaces: that the answer reads.
        canary_key: of all choices.

    Raises:
        InvalidRequestError, LimitExceededError: as `check_request`.
    """
    wanted = body.wanted_tokens
    chat = types_pb2.Chat(
        messages=[_message(message) for message in body.messages],
        tools_json=(
            [tool.json_text for tool in body.tools or ()] if body.tool_choice != "none" else []
        ),
        add_generation_prompt=body.add_generation_prompt,
        continue_final_message=bool(body.continue_final_message),
    )
    shared = Asked(
        chat=chat,
        max_tokens=model.max_tokens if wanted is None else wanted,
        clip_max_tokens=wanted is None,
        min_seq=min_seq,
        stop=body.stop,
        num_alternatives=body.num_alternatives,
        namespaces=namespaces,
        canary_key=canary_key,
    )
    check_request(shared)
    return [_with_sampling(shared, body, index) for index in range(body.n or 1)]


def completion_requests(
    body: CompletionBody,
    min_seq: int | None,
    namespaces: Sequence[str] = (),
    canary_key: str = "",
) -> list[Asked]:
    """One request for each choice of a completion: those of the first prompt first.

    Raises:
        InvalidRequestError, LimitExceededError: as `check_request`.
    """
    made = []
    for prompt in body.prompt:
        shared = Asked(
            prompt=prompt,
            max_tokens=body.wanted_tokens,
            min_seq=min_seq,
            stop=body.stop,
            num_alternatives=body.num_alternatives,
            namespaces=namespaces,
            canary_key=canary_key,
        )
        check_request(shared)
        made += [_with_sampling(shared, body, index) for index in range(body.n or 1)]
    return made


def _message(message: Message) -> types_pb2.ChatMessage:
    return types_pb2.ChatMessage(
        # Templates know the instruction's role by its older name.
        role="system" if message.role == "developer" else message.role,
        content=message.content or "",
        name=message.name or "",
        tool_calls=[
            types_pb2.ToolCall(
                id=call.id, name=call.function.name, arguments_json=call.function.arguments
            )
            for call in message.tool_calls or ()
        ],
        tool_call_id=message.tool_call_id or "",
    )


def _with_sampling(shared: Asked, body: ChatBody | CompletionBody, index: int) -> Asked:
    made = Asked()
    made.CopyFrom(shared)
    made.sampling.CopyFrom(
        inference_pb2.Sampling(
            temperature=1.0 if body.temperature is None else body.temperature,
            top_p=body.top_p,
            top_k=0 if body.top_k in (None, -1) else body.top_k,
            seed=None if body.seed is None else (body.seed + index) % _SEEDS,
        )
    )
    return made


def as_stream(request: Asked) -> AskedStream:
    """The same request, streamed: both messages have the same fields."""
    return AskedStream.FromString(request.SerializeToString())


def from_position(request: Asked, min_seq: int) -> Asked:
    """The request, answered from `min_seq` or a newer position."""
    made = Asked()
    made.CopyFrom(request)
    made.min_seq = min_seq
    return made


def finish_reason(answer: Answer | Piece) -> str | None:
    """`stop` or `length`; None in a piece that is not the last."""
    return _FINISH_REASONS.get(answer.finish_reason)


def merged_provenance(found: Sequence[Provenance]) -> dict[str, Any]:
    """Position, state and edits of choices that are all of one state."""
    first = found[0]
    return {
        "applied_seq": first.applied_seq,
        "chain_digest": first.chain_digest.hex(),
        "state_digest": first.state_digest,
        "replica": ",".join(dict.fromkeys(one.replica for one in found)),
        "edits": list(dict.fromkeys(edit for one in found for edit in one.edits)),
        "num_edits_in_force": first.num_edits_in_force,
        "prompt_cut": any(one.prompt_cut for one in found),
        "canaries": sorted({canary for one in found for canary in one.canaries}),
        "canary_key": first.canary_key,
    }


def chat_log_probabilities(tokens: Tokens) -> dict[str, Any]:
    """The field `logprobs` of a chat choice."""
    content = [
        {
            **_token(choice),
            "top_logprobs": [_token(alternative) for alternative in choice.alternatives],
        }
        for choice in tokens
    ]
    return {"content": content, "refusal": None}


def _token(
    choice: inference_pb2.TokenChoice | inference_pb2.TokenChoice.Alternative,
) -> dict[str, Any]:
    whole = _DAMAGED not in choice.token
    return {
        "token": choice.token,
        "logprob": _finite(choice.log_probability),
        "bytes": list(choice.token.encode()) if whole else None,
    }


def completion_log_probabilities(tokens: Tokens, offset: int) -> dict[str, Any]:
    """The field `logprobs` of a completion's choice.

    Args:
        tokens: of the choice, or of a piece of it.
        offset: number of characters before them in the text.
    """
    offsets = []
    for choice in tokens:
        offsets.append(offset)
        offset += len(choice.token)
    return {
        "tokens": [choice.token for choice in tokens],
        "token_logprobs": [_finite(choice.log_probability) for choice in tokens],
        "top_logprobs": [_alternatives(choice) for choice in tokens],
        "text_offset": offsets,
    }


def _alternatives(choice: inference_pb2.TokenChoice) -> dict[str, float]:
    """The likeliest tokens and the chosen one; of tokens with one text, the likeliest counts."""
    found: dict[str, float] = {}
    for alternative in choice.alternatives:
        found.setdefault(alternative.token, _finite(alternative.log_probability))
    found.setdefault(choice.token, _finite(choice.log_probability))
    return found


def _finite(log_probability: float) -> float:
    return max(log_probability, _LEAST_LOG_PROBABILITY)


def usage(prompts: Iterable[Answer | Piece], answers: Iterable[Answer | Piece]) -> dict[str, int]:
    """Numbers of tokens.

    Args:
        prompts: one answer to each prompt.
        answers: all answers; of a stream, its last piece.
    """
    read = sum(answer.num_prompt_tokens for answer in prompts)
    made = sum(answer.num_tokens for answer in answers)
    return {"prompt_tokens": read, "completion_tokens": made, "total_tokens": read + made}
