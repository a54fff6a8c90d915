"""A trained gate for Errata's LEMoE and ELDER lanes, on any LLM."""

from __future__ import annotations

from pathlib import Path

__all__ = ["path"]


def path() -> Path:
    """The gate's file; `errata train gate` makes one like it."""
    return Path(__file__).parent / "gate.safetensors"
