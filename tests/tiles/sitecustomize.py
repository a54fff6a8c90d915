"""Python imports this at its start if the folder is on its path: PyTorch then sees tile units.

On CPUs that have them (AMX) fits compute their products in bf16. PyTorch does so elsewhere, too, if
it is told to, only slowly; the digits are those that matter.
"""

from __future__ import annotations

import importlib.machinery
import sys
from collections.abc import Sequence
from types import ModuleType

_MODULE = "torch.cpu"


class _Finder:
    """Finds one module as everybody does, and changes it once it is loaded."""

    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != _MODULE:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        assert spec is not None
        assert spec.loader is not None
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            known = module.get_capabilities
            module.get_capabilities = lambda: {**known(), "amx_bf16": True}  # type: ignore[attr-defined]

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


sys.meta_path.insert(0, _Finder)  # type: ignore[arg-type]
