"""The old import paths warn, name the new path, and give the same objects."""

from __future__ import annotations

import importlib
import inspect
import sys
from types import ModuleType

import pytest

from errata.editing import artifact
from errata.editing.model import causal_lm, chat_template, prompts

ALIASES = [("causal_lm", causal_lm), ("prompts", prompts)]


def _import_old(name: str) -> ModuleType:
    path = f"errata.editing.{name}"
    sys.modules.pop(path, None)
    with pytest.warns(DeprecationWarning, match=rf"import from errata\.editing\.model\.{name}\."):
        return importlib.import_module(path)


@pytest.mark.parametrize(("name", "new"), ALIASES)
def test_an_old_path_warns_and_gives_the_same_objects(name: str, new: ModuleType) -> None:
    old = _import_old(name)
    public = {
        key
        for key, value in vars(new).items()
        if not key.startswith("_") and inspect.getmodule(value) is new
    }
    assert public, "else this shows nothing"
    assert public <= set(old.__all__)
    for key in public:
        assert getattr(old, key) is getattr(new, key), key


def test_other_public_names_of_the_old_paths_stay() -> None:
    assert _import_old("causal_lm").tensor_bytes is artifact.tensor_bytes
    assert _import_old("causal_lm").SpecialTokens is chat_template.SpecialTokens
