"""The text of one answer, from the tokens that vLLM makes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vllm.outputs import CompletionOutput

from errata.engine.sequence import GenerationRequest, GrowingText, Piece, TokenChoice
from errata.errors import UnavailableError
from errata_vllm.decisions import Decided
from errata_vllm.requests import choices


class Answer:
    """One answer while it grows.

    Text is decoded here, as the embedded engine decodes it, so that both engines give the same
    text for the same tokens.

    Attributes:
        in_parts: tokens have to be looked at as they are made.
        edits: names of the edits that shape it, newest first.
        reason: `stop` or `length` once the answer has ended, else empty.
    """

    def __init__(
        self,
        request: GenerationRequest,
        tokenizer: Any,
        end_ids: Sequence[int],
        decided: Decided,
    ) -> None:
        """Nothing is made yet."""
        self.in_parts = request.streaming or bool(request.stop)
        self.reason = ""
        self._request = request
        self._end_ids = () if request.ignore_eos else end_ids
        self.edits = decided.plan.edits
        self._decided = decided
        self._text = GrowingText(tokenizer, request.stop, request.drops_blank)
        self._unsent = ""
        self._choices: list[TokenChoice] = []

    @property
    def num_tokens(self) -> int:
        """New tokens so far."""
        return len(self._text.ids)

    def take(self, made: CompletionOutput) -> Piece | None:
        """Adds new tokens; returns what can be sent now."""
        ids = list(made.token_ids)
        found: Any = made.logprobs
        noted = choices(ids, found, self._request.num_alternatives)
        if made.finish_reason == "stop" and ids and ids[-1] in self._end_ids:
            ids.pop()  # the end of text is neither text nor a token of the answer
        for number, token in enumerate(ids):
            self._unsent += self._text.push(token)
            self._choices += noted[number : number + 1]
            if self._text.stopped:
                self.reason = "stop"
                break
        if made.finish_reason and not self.reason:
            if made.finish_reason not in ("stop", "length"):
                raise UnavailableError(f"vLLM ended the answer: {made.finish_reason}; try again.")
            self.reason = made.finish_reason
        if self.reason:
            self._unsent += self._text.finish()
            if self._text.stopped:  # perhaps by text that had been held back
                self.reason = "stop"
        elif not (self._request.streaming and self._unsent):
            return None
        return self._piece()

    def _piece(self) -> Piece:
        text, self._unsent = self._unsent, ""
        noted, self._choices = tuple(self._choices), []
        return Piece(
            text,
            len(self._request.prompt_ids),
            self.num_tokens,
            self.reason,
            self._decided.state.version,
            self.edits,
            self._decided.plan.cut,
            noted,
        )
