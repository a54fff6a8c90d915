"""Requests, their results, and the text of a row while it grows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

from errata.editing.canaries import NO_CANARIES, Canaries
from errata.editing.namespaces import DEFAULT_ONLY, Reading
from errata.engine.decoding import Decoding
from errata.engine.sampling import GREEDY, Sampling

_REPLACEMENT = "\ufffd"


@dataclass(frozen=True, slots=True)
class Version:
    """The version of the edited model that an answer is computed under, all of it (P6).

    Attributes:
        seq: last applied position of the log; 0 for the base model.
        chain_digest: H(seq), 32 bytes.
        state_digest: SHA-256, hex, of the state of the lanes.
        num_edits: active edits.
        canaries: the open ones.
    """

    seq: int
    chain_digest: bytes
    state_digest: str
    num_edits: int
    canaries: Canaries = NO_CANARIES


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """A request for the continuation of a prompt.

    Attributes:
        prompt_ids: at least one token id.
        max_tokens: at least 1; with the prompt no longer than the model's longest sequence.
        stop: texts before which the continuation ends.
        sampling: how tokens are chosen.
        num_alternatives: report the log-probabilities of each token and of this many most likely
            tokens; None reports none.
        streaming: send pieces as they are made, not the whole text at the end.
        ignore_eos: continue after the end-of-text token; for benchmarks.
        drops_blank: the prompt's text ends in a blank that is not in `prompt_ids`; the answer's
            text begins after it.
        prompt: decides which edits claim the request: the text of `prompt_ids`, or what the user
            says in them.
        said_at: where in `prompt_ids` the user's words begin, if other turns and markup surround
            them; None if `prompt_ids` are those of `prompt`.
        clip_max_tokens: make fewer tokens if the longest sequence leaves room for fewer.
        deadline: `time.monotonic()` after which no caller is waiting for the answer.
        reading: the namespaces whose edits can claim the request.
        canary_key: decides which open canaries the request is in.
    """

    prompt_ids: tuple[int, ...]
    max_tokens: int
    stop: tuple[str, ...] = ()
    sampling: Sampling = GREEDY
    num_alternatives: int | None = None
    streaming: bool = False
    ignore_eos: bool = False
    drops_blank: bool = False
    prompt: str = ""
    said_at: int | None = None
    clip_max_tokens: bool = False
    deadline: float = math.inf
    reading: Reading = DEFAULT_ONLY
    canary_key: str = ""

    def within(self, num_tokens: int) -> Self:
        """The request for a sequence of at most `num_tokens`, if it can be clipped to one."""
        room = num_tokens - len(self.prompt_ids)
        if not self.clip_max_tokens or not 0 < room < self.max_tokens:
            return self
        return replace(self, max_tokens=room)

    @property
    def num_prefill_tokens(self) -> int:
        """Tokens that are read before the first new one."""
        return len(self.prompt_ids)

    @property
    def num_new_tokens(self) -> int:
        """Maximum number of new tokens."""
        return self.max_tokens


@dataclass(frozen=True, slots=True)
class ScoringRequest:
    """A request for the log-probabilities of a given continuation.

    Attributes:
        prompt_ids: at least one token id.
        continuation_ids: at least one token id.
        prompt: decides which edits claim the request, as in a `GenerationRequest`.
        said_at: as there.
        deadline: `time.monotonic()` after which no caller is waiting for the answer.
        reading: as there.
        canary_key: as there.
    """

    prompt_ids: tuple[int, ...]
    continuation_ids: tuple[int, ...]
    prompt: str = ""
    said_at: int | None = None
    deadline: float = math.inf
    reading: Reading = DEFAULT_ONLY
    canary_key: str = ""

    def within(self, num_tokens: int) -> Self:
        """The request itself: a given continuation cannot be clipped."""
        return self

    @property
    def num_prefill_tokens(self) -> int:
        """Tokens that are read, the continuation included."""
        return len(self.prompt_ids) + len(self.continuation_ids)

    @property
    def num_new_tokens(self) -> int:
        """0: the continuation is given."""
        return 0


Request = GenerationRequest | ScoringRequest


@dataclass(frozen=True, slots=True)
class TokenChoice:
    """A token that was made, and the alternatives to it.

    Attributes:
        token_id: the token.
        log_probability: natural logarithm, before temperature, top-k and top-p.
        alternatives: the most likely tokens and their log-probabilities, in descending order.
    """

    token_id: int
    log_probability: float
    alternatives: tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a continuation.

    Attributes:
        text: new text; an incomplete character is held back.
        num_prompt_tokens: length of the prompt.
        num_tokens: new tokens so far.
        finish_reason: `stop` or `length` in the last piece, else empty.
        version: the whole continuation is computed under it.
        edits: edits that shaped it, newest first.
        prompt_cut: claims were decided on the end of the prompt only.
        choices: the tokens since the last piece, if the request asked for them.
    """

    text: str
    num_prompt_tokens: int
    num_tokens: int
    finish_reason: str
    version: Version
    edits: tuple[str, ...]
    prompt_cut: bool = False
    choices: tuple[TokenChoice, ...] = ()


@dataclass(frozen=True, slots=True)
class ScoredContinuation:
    """The scores of a continuation.

    Attributes:
        log_probabilities: of each token in order; natural logarithms.
        argmax_ids: the most likely token at the position of each token.
        version: the scores are computed under it.
        edits: edits that shaped them, newest first.
        prompt_cut: claims were decided on the end of the prompt only.
    """

    log_probabilities: tuple[float, ...]
    argmax_ids: tuple[int, ...]
    version: Version
    edits: tuple[str, ...]
    prompt_cut: bool = False


def whole_text(tokenizer: Any, ids: Sequence[int]) -> str:
    """The text of a continuation, exactly as it streams: blanks are not cleaned up."""
    return str(tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))


def text_behind_blank(tokenizer: Any, ids: Sequence[int]) -> str:
    """The same without its first blank, which is part of the prompt; some decoders drop it."""
    text = whole_text(tokenizer, ids)
    return text if Decoding(tokenizer).strips_first else text.removeprefix(" ")


@dataclass(slots=True)
class GrowingText:
    """Text of a row's new tokens, released as far as it can no longer change.

    Three things are held back: an incomplete character (a byte-level token can carry half of one),
    a run of byte tokens, and an end that may turn out to be the start of a stop text. The released
    parts always add up to the decoded text of all tokens. The cost of a token does not grow with
    the text: only tokens from an anchor on are decoded. The anchor is a token that has text by
    itself and ends between two characters, so that later tokens decode after it as they would
    after the whole text.
    """

    tokenizer: Any
    stop: Sequence[str]
    drops_blank: bool = False  # the first character of the text, if it is a blank
    ids: list[int] = field(default_factory=list)
    stopped: bool = False
    _decoding: Decoding | None = None
    _in_bytes: bool = False  # within a run of byte tokens
    _anchor: int = 0
    _num_known: int = 0  # characters from the anchor on that are certain
    _held: str = ""
    _num_released: int = 0

    def push(self, token_id: int) -> str:
        """Adds a token and returns the text that is now certain."""
        self.ids.append(token_id)
        new, is_certain = self._grown()
        text = self._held + new
        if self._is_stopped(text):
            return text[: self._stop_at(text)]
        if not is_certain:
            return ""
        certain = len(text) - self._held_back(text)
        self._held = text[certain:]
        self._num_released += certain
        return text[:certain]

    def finish(self) -> str:
        """Returns the text that was held back, up to a stop text in it; the last call."""
        if self.stopped:
            return ""
        if self.drops_blank:  # nothing was certain before
            rest = text_behind_blank(self.tokenizer, self.ids)
        else:
            rest = whole_text(self.tokenizer, self.ids)[self._num_released :]
        return rest[: self._stop_at(rest)] if self._is_stopped(rest) else rest

    def _is_stopped(self, text: str) -> bool:
        self.stopped = any(stop in text for stop in self.stop)
        return self.stopped

    def _stop_at(self, text: str) -> int:
        return min(at for stop in self.stop if (at := text.find(stop)) >= 0)

    def _grown(self) -> tuple[str, bool]:
        """The text after the certain text, and whether it is certain now."""
        if self._decoding is None:
            self._decoding = Decoding(self.tokenizer)
        text = self._decoding.part(self.ids[self._anchor :])
        known = self._num_known
        if self.drops_blank and text:  # the first text
            known = int(text.startswith(" ") and not self._decoding.strips_first)
        if self.ids[-1] not in self._decoding.skipped_ids:
            self._in_bytes = self.ids[-1] in self._decoding.byte_ids
        if self._in_bytes or text.endswith(_REPLACEMENT) or not self._decoding.is_local:
            return text[known:], False
        if self.drops_blank and text:
            self.drops_blank, self._num_released = False, known
        self._move_anchor(self._decoding, len(text))
        return text[known:], True

    def _move_anchor(self, decoding: Decoding, num_known: int) -> None:
        """Moves the anchor to the newest token that can be one; if there is none, it stays."""
        self._num_known = num_known
        for at in range(len(self.ids) - 1, self._anchor, -1):
            if self.ids[at] in decoding.byte_ids or self.ids[at] in decoding.skipped_ids:
                continue  # can be part of a run of bytes, which is decoded as a whole
            text = decoding.part(self.ids[at:])
            if text and not text.endswith(_REPLACEMENT):
                self._anchor, self._num_known = at, len(text)
                return

    def _held_back(self, text: str) -> int:
        longest = max((len(stop) - 1 for stop in self.stop), default=0)
        return next(
            (
                size
                for size in range(min(longest, len(text)), 0, -1)
                if any(stop.startswith(text[-size:]) for stop in self.stop)
            ),
            0,
        )
