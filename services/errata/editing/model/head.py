"""The language-model head, with what the model computes behind it: a scale, or a soft cap."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


class ScaledHead(nn.Module):
    """A head whose logits are scaled and capped: cap · tanh(scale · logits / divisor / cap)."""

    def __init__(
        self, inner: nn.Module, scale: float | None, divisor: float | None, cap: float | None
    ) -> None:
        """Wraps a head; None leaves a step out.

        Args:
            inner: hidden (…, d) → logits (…, vocabulary).
            scale: logits are multiplied by it (Cohere).
            divisor: logits are divided by it (Granite).
            cap: their largest absolute value (Gemma 2).
        """
        super().__init__()
        self.inner, self.scale, self.divisor, self.cap = inner, scale, divisor, cap

    def forward(self, hidden: Tensor) -> Tensor:
        """Logits (…, vocabulary) of hidden states (…, d); in the order of transformers' models."""
        logits: Tensor = self.inner(hidden)
        if self.scale is not None:
            logits = logits * self.scale
        if self.divisor is not None:
            logits = logits / self.divisor
        if self.cap is not None:
            logits = (logits / self.cap).tanh() * self.cap
        return logits


def head_of(model: nn.Module) -> nn.Module | None:
    """The head with what follows it, as the config states; None if the model has no head.

    `self_check.check_forward` verifies that this is what the model computes.
    """
    hf: Any = model
    inner: nn.Module | None = hf.get_output_embeddings()
    fields = ("logit_scale", "logits_scaling", "final_logit_softcapping")
    scale, divisor, cap = (getattr(hf.config, field, None) for field in fields)
    scale, divisor = (None if value == 1 else value for value in (scale, divisor))
    if inner is None or (scale, divisor, cap) == (None, None, None):
        return inner
    return ScaledHead(inner, scale, divisor, cap)
