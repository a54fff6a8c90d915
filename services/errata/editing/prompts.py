"""Deprecated: import from `errata.editing.model.prompts`. The next release removes this path."""

from __future__ import annotations

import warnings

from errata.editing.model.prompts import (
    TokenRow,
    join,
    pad_right,
    positions,
    subject_end,
    target_places,
    text_ids,
    tokenise,
    tokenise_all,
    tokenise_if_fits,
)

warnings.warn(
    "errata.editing.prompts is deprecated; import from errata.editing.model.prompts.",
    DeprecationWarning,
    stacklevel=2,
)

__all__ = [
    "TokenRow",
    "join",
    "pad_right",
    "positions",
    "subject_end",
    "target_places",
    "text_ids",
    "tokenise",
    "tokenise_all",
    "tokenise_if_fits",
]
