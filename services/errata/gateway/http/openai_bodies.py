"""Bodies of the OpenAI API's responses, whole and in chunks."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from errata.gateway.http.openai_convert import (
    Answer,
    Piece,
    chat_log_probabilities,
    completion_log_probabilities,
    finish_reason,
    merged_provenance,
    usage,
)

_MAX_HEADER_EDITS = 100  # servers and proxies limit headers, to 8 KiB in all


def headers_of(found: Mapping[str, Any]) -> dict[str, str]:
    """Position, state and edits of an answer; of very many edits, the newest."""
    return {
        "X-Errata-Applied-Seq": str(found["applied_seq"]),
        "X-Errata-State-Digest": found["state_digest"],
        "X-Errata-Replica": found["replica"],
        "X-Errata-Edits": ",".join(found["edits"][:_MAX_HEADER_EDITS]),
    }


@dataclass
class Bodies:
    """Bodies of one answer.

    Attributes:
        model: the name that the client asked for.
        chat: a chat completion, or a plain one.
        with_tokens: whether choices have log-probabilities.
        num_choices: for each prompt.
        streamed_usage: which chunks have the numbers of tokens.
        id: of the answer.
        created: when it was asked for, in seconds since 1970.
    """

    model: str
    chat: bool
    with_tokens: bool
    num_choices: int
    streamed_usage: Literal["never", "last", "always"] = "never"
    id: str = ""
    created: int = field(default_factory=lambda: int(time.time()))
    _offsets: dict[int, int] = field(default_factory=dict)
    _begun: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.id = f"{'chatcmpl' if self.chat else 'cmpl'}-{uuid.uuid4().hex}"

    def whole(self, answers: Sequence[Answer]) -> dict[str, Any]:
        """The body of a whole answer."""
        found = merged_provenance([answer.provenance for answer in answers])
        kind = "chat.completion" if self.chat else "text_completion"
        return {
            **self._head(kind, found),
            "choices": [self._choice(index, answer) for index, answer in enumerate(answers)],
            "usage": usage(answers[:: self.num_choices], answers),
            "errata": found,
        }

    def _choice(self, index: int, answer: Answer) -> dict[str, Any]:
        if self.chat:
            message = {"role": "assistant", "content": answer.text, "refusal": None}
            content: dict[str, Any] = {"message": message}
            tokens = chat_log_probabilities(answer.tokens) if self.with_tokens else None
        else:
            content = {"text": answer.text}
            tokens = completion_log_probabilities(answer.tokens, 0) if self.with_tokens else None
        return {
            "index": index,
            **content,
            "logprobs": tokens,
            "finish_reason": finish_reason(answer),
            "errata": merged_provenance([answer.provenance]),
        }

    def chunk(self, index: int, piece: Piece) -> dict[str, Any]:
        """The body of the next piece of a choice."""
        found = merged_provenance([piece.provenance])
        tokens: dict[str, Any] | None = None
        content: dict[str, Any]
        if self.chat:
            role = {} if index in self._begun else {"role": "assistant"}
            self._begun.add(index)
            content = {"delta": {**role, "content": piece.text}}
            if self.with_tokens:
                tokens = chat_log_probabilities(piece.tokens)
        else:
            content = {"text": piece.text}
            if self.with_tokens:
                offset = self._offsets.get(index, 0)
                tokens = completion_log_probabilities(piece.tokens, offset)
                self._offsets[index] = offset + sum(len(text) for text in tokens["tokens"])
        choice = {
            "index": index,
            **content,
            "logprobs": tokens,
            "finish_reason": finish_reason(piece),
        }
        return {
            **self._head(self._chunk_kind, found),
            "choices": [choice],
            **self._usage_of(piece),
            "errata": found,
        }

    def _usage_of(self, piece: Piece) -> dict[str, Any]:
        if self.streamed_usage == "never":
            return {}
        return {"usage": usage([piece], [piece]) if self.streamed_usage == "always" else None}

    def usage_chunk(self, last: Mapping[int, Piece]) -> dict[str, Any]:
        """The chunk at the end of a stream that asked for usage.

        Args:
            last: the last piece of each choice.
        """
        pieces = [last[index] for index in sorted(last)]
        found = merged_provenance([piece.provenance for piece in pieces])
        return {
            **self._head(self._chunk_kind, found),
            "choices": [],
            "usage": usage(pieces[:: self.num_choices], pieces),
            "errata": found,
        }

    @property
    def _chunk_kind(self) -> str:
        return "chat.completion.chunk" if self.chat else "text_completion"

    def _head(self, kind: str, found: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": f"fp_{found['state_digest'][:12]}",
        }
