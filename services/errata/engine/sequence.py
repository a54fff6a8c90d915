"""Requests, what comes back for them, and the text of a row while it grows."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tokenizers.decoders import DecodeStream
from torch import Tensor, nn

from errata.editing.method import Attribution
from errata.editing.plan import RowPlan
from errata.engine.sampling import GREEDY, Sampling


@dataclass(frozen=True, slots=True)
class Version:
    """Under what an answer is computed, from its first to its last token (P6).

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
    """Asks for the continuation of a prompt.

    Attributes:
        prompt_ids: at least one token id.
        max_tokens: at least 1; with the prompt no longer than the model's longest sequence.
        stop: texts before which the continuation ends.
        sampling: how tokens are chosen.
        num_alternatives: report each token's log-probability and those of so many likeliest
            tokens; None reports none.
        streaming: pieces as they are made, not the whole at the end.
        ignore_eos: go on behind the end-of-text token; for benchmarks.
        prompt: the text of `prompt_ids`, by which edits claim the request.
        deadline: `time.monotonic()` after which nobody waits for the answer.
    """

    prompt_ids: tuple[int, ...]
    max_tokens: int
    stop: tuple[str, ...] = ()
    sampling: Sampling = GREEDY
    num_alternatives: int | None = None
    streaming: bool = False
    ignore_eos: bool = False
    prompt: str = ""
    deadline: float = math.inf


@dataclass(frozen=True, slots=True)
class ScoringRequest:
    """Asks for the log-probabilities of a given continuation.

    Attributes:
        prompt_ids: at least one token id.
        continuation_ids: at least one token id.
        prompt: the text of `prompt_ids`, by which edits claim the request.
        deadline: `time.monotonic()` after which nobody waits for the answer.
    """

    prompt_ids: tuple[int, ...]
    continuation_ids: tuple[int, ...]
    prompt: str = ""
    deadline: float = math.inf


Request = GenerationRequest | ScoringRequest
Route = Callable[[Sequence[Request]], Sequence[RowPlan]]
"""Requests of one admission batch → what each of them gets."""


@dataclass(frozen=True, eq=False, slots=True)
class LateRoute:
    """Routing that is completed in the middle of a prefill, where a hidden state decides.

    Attributes:
        module: of the model; its input at each prompt's last token decides.
        early: what the texts decide, before the pass.
        late: (requests, what `early` gave them, their states (n, …)) → what they get.
    """

    module: nn.Module
    early: Route
    late: Callable[[Sequence[Request], Sequence[RowPlan], Tensor], Sequence[RowPlan]]


@dataclass(frozen=True, eq=False, slots=True)
class Edition:
    """What requests are admitted under: a version, and what it does with a request.

    Attributes:
        version: of the log.
        attribution: names the edits that prompts answer to; None if no edit needs it.
        route: makes the plans of requests; None if no lane routes.
        late: does the same without a pass of its own, for prompts that one prefill reads whole and
            that no prefix precedes; None if texts alone decide.
    """

    version: Version
    attribution: Attribution | None = None
    route: Route | None = None
    late: LateRoute | None = None


Routed = tuple[RowPlan, LateRoute | None]
"""A plan, and what still decides on it in the middle of the prefill."""


@dataclass(frozen=True, slots=True)
class TokenChoice:
    """A token that was made, and what else the model thought of.

    Attributes:
        token_id: the token.
        log_probability: natural logarithm, before temperature, top-k and top-p.
        alternatives: the likeliest tokens with their log-probabilities, likeliest first.
    """

    token_id: int
    log_probability: float
    alternatives: tuple[tuple[int, float], ...]


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
        prompt_cut: claims were decided on the prompt's end alone.
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
    """For each token of the continuation, in order.

    Attributes:
        log_probabilities: natural logarithms.
        argmax_ids: what the model ranks first there.
        version: under what it is computed.
        edits: edits that shaped it, newest first.
        prompt_cut: claims were decided on the prompt's end alone.
    """

    log_probabilities: tuple[float, ...]
    argmax_ids: tuple[int, ...]
    version: Version
    edits: tuple[str, ...]
    prompt_cut: bool = False


def whole_text(tokenizer: Any, ids: Sequence[int]) -> str:
    """The text of a continuation, exactly as it streams: nothing is tidied up."""
    return str(tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))


@dataclass(slots=True)
class GrowingText:
    """Text of a row's new tokens, released as far as it can no longer change.

    Held back are an incomplete character (a byte-level token may carry half of one) and an end
    that a stop text may still swallow. The cost of a token does not grow with the text.
    """

    tokenizer: Any
    stop: Sequence[str]
    ids: list[int] = field(default_factory=list)
    stopped: bool = False
    _stream: Any = field(default_factory=lambda: DecodeStream(skip_special_tokens=True))
    _held: str = ""
    _num_released: int = 0

    def push(self, token_id: int) -> str:
        """Adds a token and returns the text that is now certain."""
        self.ids.append(token_id)
        text = self._held + (self._stream.step(self.tokenizer.backend_tokenizer, token_id) or "")
        found = [at for stop in self.stop if (at := text.find(stop)) >= 0]
        if found:
            self.stopped = True
            return text[: min(found)]
        certain = len(text) - self._held_back(text)
        self._held = text[certain:]
        self._num_released += certain
        return text[:certain]

    def finish(self) -> str:
        """Returns what was held back; nothing comes after."""
        if self.stopped:
            return ""
        return whole_text(self.tokenizer, self.ids)[self._num_released :]

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
