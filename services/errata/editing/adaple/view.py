"""How AdaPLE changes a forward pass: not at all. The hook only listens, for provenance."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from errata.editing.adaple.attribution import attribute
from errata.editing.adaple.state import AdapleState
from errata.errors import PreconditionError


class AdapleAttribution:
    """Names the edits that a forward pass answers to; costs nothing unless entered.

    While entered, it keeps the input of the last edited layer's down projection, (B, T, d_ff), of
    the latest forward pass. Enter it around prefill: subjects are in the prompt.
    """

    def __init__(self, state: AdapleState) -> None:
        """Prepares to name the edits that `state` holds now, whatever it holds later."""
        self._state = state
        self._directions = state.directions()
        self._inputs: Tensor | None = None
        self._handle: RemovableHandle | None = None

    def __enter__(self) -> AdapleAttribution:
        """Starts to listen."""

        def note(_: nn.Module, args: tuple[Any, ...]) -> None:
            self._inputs = args[0].detach()

        module = self._state.model.down(self._state.layers[-1])
        self._handle = module.register_forward_pre_hook(note)
        return self

    def __exit__(self, *exc: object) -> None:
        """Stops to listen and forgets what was heard."""
        if self._handle is not None:
            self._handle.remove()
        self._handle = self._inputs = None

    def edits(self, attention_mask: Tensor) -> list[list[str]]:
        """For each row of the last forward, (B, T) mask, the edits that shaped it, newest first.

        Raises:
            PreconditionError: no forward pass was heard.
        """
        if self._inputs is None:
            raise PreconditionError("no forward pass was heard; run the model inside the context.")
        threshold = self._state.config.attribution_threshold
        return attribute(self._inputs, attention_mask, self._directions, threshold)
