"""Checks of entries about policy: probe sets."""

from __future__ import annotations

from errata.editing.chat import said
from errata.errors import InvalidRequestError
from errata.log.entries import ProbesSet


def check_probes(payload: ProbesSet) -> None:
    """Returns if a probe set can be this one; it may be empty.

    Raises:
        InvalidRequestError: a prompt has no text.
    """
    for index, prompt in enumerate(payload.prompts):
        if not said(prompt).strip():
            raise InvalidRequestError(
                f"prompts[{index}] is empty; fill it in, or leave it out.",
                field=f"prompts[{index}]",
            )
