"""Attribution of forward passes. The hook only records inputs; it changes no output."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from errata.editing.adaple.attribution import attribute
from errata.editing.adaple.state import AdapleState
from errata.editing.lane.contract import Probe
from errata.errors import PreconditionError


class AdapleAttribution:
    """Names the edits that shaped a forward pass; costs nothing unless entered.

    While entered, it keeps the latest forward pass's input of the last edited layer's down
    projection, (B, T, d_ff). Enter it around the prefill, because subjects are in the prompt.
    """

    def __init__(self, state: AdapleState) -> None:
        """Attributes to the edits that `state` holds now; later changes of it have no effect."""
        self._state = state
        self._directions = state.directions()
        self._inputs: Tensor | None = None
        self._handle: RemovableHandle | None = None

    def probes(self) -> list[Probe]:
        """The directions in the last edited layer."""
        state, found = self._state, self._directions
        threshold = state.config.attribution_threshold
        return [Probe(state.layers[-1], found.names, found.exact, threshold)]

    def newest_first(self, names: Collection[str]) -> list[str]:
        """The names in the order of the directions."""
        return [name for name in self._directions.names if name in names]

    def __enter__(self) -> AdapleAttribution:
        """Starts to record."""
        model = self._state.model

        def record(_: nn.Module, args: tuple[Any, ...]) -> None:
            self._inputs = model.by_row(args[0]).detach()

        module = model.down(self._state.layers[-1])
        self._handle = module.register_forward_pre_hook(record)
        return self

    def __exit__(self, *exc: object) -> None:
        """Stops recording and drops the recorded input."""
        if self._handle is not None:
            self._handle.remove()
        self._handle = self._inputs = None

    def edits(self, attention_mask: Tensor) -> list[list[str]]:
        """For each row of the last forward, (B, T) mask, the edits that shaped it, newest first.

        Raises:
            PreconditionError: no forward pass was recorded.
        """
        if self._inputs is None:
            raise PreconditionError(
                "no forward pass was recorded; run the model inside the context."
            )
        threshold = self._state.config.attribution_threshold
        return attribute(self._inputs, attention_mask, self._directions, threshold)
