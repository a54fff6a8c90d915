"""Deprecated: import from `errata.editing.model.causal_lm`. The next release removes this path."""

from __future__ import annotations

import warnings

from errata.editing.artifact import tensor_bytes
from errata.editing.model.causal_lm import BaseLLM, CausalLM, KnownLLM, Widths
from errata.editing.model.chat_template import SpecialTokens

warnings.warn(
    "errata.editing.causal_lm is deprecated; import from errata.editing.model.causal_lm.",
    DeprecationWarning,
    stacklevel=2,
)

__all__ = ["BaseLLM", "CausalLM", "KnownLLM", "SpecialTokens", "Widths", "tensor_bytes"]
