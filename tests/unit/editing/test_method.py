"""The registry of methods."""

from __future__ import annotations

import pytest

from errata.editing.registry import get_method, methods
from errata.errors import InvalidRequestError


def test_methods_are_found_by_name() -> None:
    assert get_method("adaple") is methods()["adaple"]
    capabilities = get_method("adaple").capabilities
    assert (capabilities.changes_weights, capabilities.defers) == (True, False)
    assert "rebuilt from the base" in capabilities.reversal


def test_unknown_method_is_refused_with_the_choices() -> None:
    with pytest.raises(InvalidRequestError, match="choose one of adaple"):
        get_method("rome")
