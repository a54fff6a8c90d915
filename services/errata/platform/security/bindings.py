"""Roles, lanes and namespaces of subjects, from a TOML file.

["alice@example.org"]
roles = ["editor"]
lanes = ["facts"]        # all lanes if absent
namespaces = ["team-a"]  # all namespaces if absent; "default" is the default one

["spiffe://errata/people/bob"]
roles = ["operator"]
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

from errata.errors import StartupError
from errata.platform.security.identity import ALL_LANES, ALL_NAMESPACES
from errata.platform.security.rules import SERVICES, Role

_DEFAULT_NAME = "default"


@dataclass(frozen=True, slots=True)
class Grant:
    """What a subject may do.

    Attributes:
        roles: of the subject.
        lanes: in which he has them.
        namespaces: in which he has them, `""` for the default one.
    """

    roles: frozenset[Role]
    lanes: frozenset[str]
    namespaces: frozenset[str] = frozenset({ALL_NAMESPACES})


def roles_of(names: object, where: str) -> frozenset[Role]:
    """Roles by name, without those that only certificates give.

    Raises:
        ValueError: an unknown role, or no list of names.
    """
    if not isinstance(names, list):
        raise ValueError(f"{where} must be a list of roles")
    known = {role.value for role in Role if role not in SERVICES}
    for name in names:
        if name not in known:
            raise ValueError(f"{where}: {name!r} is none of {', '.join(sorted(known))}")
    return frozenset(map(Role, names))


def lanes_of(names: object, where: str) -> frozenset[str]:
    """Lanes by name; all of them if None.

    Raises:
        ValueError: no list of names.
    """
    if names is None:
        return frozenset({ALL_LANES})
    return frozenset(name.removeprefix("lanes/") for name in _texts(names, where, "lanes"))


def namespaces_of(names: object, where: str) -> frozenset[str]:
    """Namespaces by name, `""` for the default one; all of them if None.

    Raises:
        ValueError: no list of names.
    """
    if names is None:
        return frozenset({ALL_NAMESPACES})
    texts = _texts(names, where, "namespaces")
    return frozenset("" if name == _DEFAULT_NAME else name for name in texts)


def _texts(names: object, where: str, what: str) -> list[str]:
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{where} must be a list of {what}")
    return names


def read_bindings(path: Path | None) -> dict[str, Grant]:
    """The file's grants, by subject.

    Raises:
        StartupError: the file cannot be read, or says something else.
    """
    if path is None:
        return {}
    try:
        return {
            subject: Grant(
                roles_of(values.get("roles"), f"{subject}.roles"),
                lanes_of(values.get("lanes"), f"{subject}.lanes"),
                namespaces_of(values.get("namespaces"), f"{subject}.namespaces"),
            )
            for subject, values in tomllib.loads(path.read_text()).items()
        }
    except (OSError, ValueError, AttributeError) as error:
        raise StartupError(
            f"security.bindings_file {path}: {error}. It has a table for each subject, with "
            "`roles`, `lanes` and `namespaces`."
        ) from error
