"""Limits on the work that the engine accepts at once."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """How much work the engine accepts at once.

    Attributes:
        max_rows: generations that run at once.
        max_queue: waiting requests beyond which new ones are refused.
        max_context: longest sequence, at most the model's; 0 takes the model's.
        prefill_tokens: padded prompt tokens that are read between two steps; bounds how long a
            new request delays the tokens of the others.
        weight_versions: how many versions of edited weights can serve rows at once. With 1, a
            change of weights waits until the running rows are done; with more, running rows keep
            the weights that they started with while new requests get the new ones.
        max_drain_seconds: how long a change waits until another version is possible. Then the
            oldest rows start again under the new weights, or fail if they are streams.
    """

    max_rows: int = 16
    max_queue: int = 256
    max_context: int = 0
    prefill_tokens: int = 512
    weight_versions: int = 2
    max_drain_seconds: float = 10.0

    def longest(self, max_positions: int) -> int:
        """The longest sequence that a model with `max_positions` may get."""
        return min(self.max_context or max_positions, max_positions)
