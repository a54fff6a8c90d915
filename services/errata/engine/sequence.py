"""Requests, what comes back for them, and the text of a row while it grows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

REPLACEMENT = "\ufffd"


@dataclass(frozen=True, slots=True)
class Version:
    """Under what the engine computes; changes only between batches (P6).

    Attributes:
        seq: last applied position of the log; 0 for the base model.
        chain_digest: H(seq), 32 bytes.
        state_digest: SHA-256, hex, of what the lanes hold.
        num_edits: edits in force.
    """

    seq: int
    chain_digest: bytes
    state_digest: str
    num_edits: int


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """Greedy continuation of a prompt.

    Attributes:
        prompt_ids: at least one token id.
        max_tokens: at least 1; with the prompt no longer than the model's longest sequence.
        stop: texts before which the continuation ends.
    """

    prompt_ids: tuple[int, ...]
    max_tokens: int
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ScoringRequest:
    """Log-probabilities of a given continuation.

    Attributes:
        prompt_ids: at least one token id.
        continuation_ids: at least one token id.
    """

    prompt_ids: tuple[int, ...]
    continuation_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a continuation.

    Attributes:
        text: new text; a character that is still incomplete is held back.
        num_prompt_tokens: length of the prompt.
        num_tokens: new tokens so far.
        finish_reason: `stop` or `length` in the last piece, else empty.
        version: under what all of it is computed.
        edits: edits that shaped it, newest first.
    """

    text: str
    num_prompt_tokens: int
    num_tokens: int
    finish_reason: str
    version: Version
    edits: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ScoredContinuation:
    """For each token of the continuation, in order.

    Attributes:
        log_probabilities: natural logarithms.
        argmax_ids: what the model ranks first there.
        version: under what it is computed.
        edits: edits that shaped it, newest first.
    """

    log_probabilities: tuple[float, ...]
    argmax_ids: tuple[int, ...]
    version: Version
    edits: tuple[str, ...]


@dataclass(slots=True)
class GrowingText:
    """Text of a row's new tokens, released as far as it can no longer change.

    Held back are an incomplete character (a byte-level token may carry half of one) and an end
    that a stop text may still swallow.
    """

    tokenizer: Any
    stop: Sequence[str]
    ids: list[int] = field(default_factory=list)
    released: int = 0
    stopped: bool = False

    def push(self, token_id: int) -> str:
        """Adds a token and returns the text that is now certain."""
        self.ids.append(token_id)
        text = self._decode()
        found = [text.find(stop) for stop in self.stop if stop in text]
        if found:
            self.stopped = True
            return self._release(text[: min(found)])
        return self._release(text[: len(text) - self._held_back(text)])

    def finish(self) -> str:
        """Returns what was held back; nothing comes after."""
        return "" if self.stopped else self._release(self._decode())

    def _decode(self) -> str:
        return str(self.tokenizer.decode(self.ids, skip_special_tokens=True))

    def _release(self, text: str) -> str:
        new = text[self.released :]
        self.released = max(self.released, len(text))
        return new

    def _held_back(self, text: str) -> int:
        certain = text.rstrip(REPLACEMENT)
        longest = max((len(stop) - 1 for stop in self.stop), default=0)
        starts_a_stop = (
            size
            for size in range(min(longest, len(certain)), 0, -1)
            if any(stop.startswith(certain[-size:]) for stop in self.stop)
        )
        return len(text) - len(certain) + next(starts_a_stop, 0)
