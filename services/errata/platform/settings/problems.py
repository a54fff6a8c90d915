"""Describes problems of settings: unknown variables and keys, values not allowed."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import TYPE_CHECKING

from errata.platform.settings.masking import masked
from errata.platform.settings.root import Settings, sections

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails


def misnamed_variables(variables: Iterable[str]) -> list[str]:
    """Environment variables that look like a section's setting but name none, sorted.

    Other names without two underscores are ignored: Kubernetes derives some from service names.
    """
    return sorted(name for name in variables if _names_no_section(name))


def _names_no_section(variable: str) -> bool:
    prefix, _, rest = variable.lower().partition("_")
    if prefix != "errata" or rest in Settings.model_fields:
        return False
    section, inside, _ = rest.partition("__")
    if inside:
        return section not in sections()
    return any(
        rest == f"{name}_{key}" for name, kind in sections().items() for key in kind.model_fields
    )


def problem(item: ErrorDetails) -> str:
    """One line on one setting: its name, its variable, the value found and what is allowed."""
    *path, key = (str(part) for part in item["loc"])
    dotted = ".".join([*path, key])
    variable = "__".join(["ERRATA", *path, key]).upper().replace("ERRATA__", "ERRATA_", 1)
    if item["type"] == "extra_forbidden":
        section = sections()[path[0]] if path else Settings
        near = difflib.get_close_matches(key, section.model_fields, n=1)
        hint = f"; is it {'.'.join([*path, near[0]])}?" if near else ""
        return f"there is no setting {dotted} ({variable}){hint}"
    return f"{dotted} ({variable}): {item['msg']}, found {masked(repr(item['input']))}"
