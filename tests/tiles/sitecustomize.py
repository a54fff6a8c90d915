"""Python imports this module at start if its folder is on the path: PyTorch then sees tile units.

On CPUs with tile units (AMX), fits compute their products in bf16. On other CPUs PyTorch can
compute in bf16, too, only more slowly; the digits are what matters here.
"""

from __future__ import annotations

import importlib.machinery
import sys
from collections.abc import Sequence
from types import ModuleType

_MODULE = "torch.cpu"


class _Finder:
    """Finds one module in the usual way, and changes it once it is loaded."""

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
