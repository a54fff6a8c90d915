"""The gate of an installed package, for lanes that name none.

A package brings a gate by an entry point of the group `errata.gates`: a function without arguments
that returns the path of the file.
"""

from __future__ import annotations

from importlib.metadata import entry_points
from pathlib import Path

from errata.errors import InvalidRequestError, ModelNotFoundError

_GROUP = "errata.gates"


def installed_gate() -> Path:
    """The file of the one installed gate.

    Raises:
        ModelNotFoundError: no package brings a gate, or its file is missing.
        InvalidRequestError: several packages do.
    """
    found = {point.name: point for point in entry_points(group=_GROUP)}
    if not found:
        raise ModelNotFoundError(
            "no gate is installed; install the package errata-gate, train one with `errata train "
            "gate`, or name a gate or lane model."
        )
    if len(found) > 1:
        raise InvalidRequestError(
            f"several gates are installed: {', '.join(sorted(found))}; name the path of one as the "
            "lane's model.",
            field="model",
        )
    (point,) = found.values()
    path: Path = point.load()()
    if not path.is_file():
        raise ModelNotFoundError(
            f"the package of gate {point.name!r} has no file at {path}; install it again."
        )
    return path
