"""The two steps of every change of a model: prepare beside it, then swap in."""

from __future__ import annotations

from collections.abc import Callable

Undo = Callable[[], None]
"""Takes a change back, bit for bit; valid until the next change."""

Swap = Callable[[], Undo]
"""Puts a prepared change in place."""
