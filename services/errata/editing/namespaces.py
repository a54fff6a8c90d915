"""Namespaces: an edit belongs to exactly one, and a prompt reads the edits of some.

The default namespace has the empty name; in lists of names it is called `default`.

Edits of an open canary lie in a place of their own, `{namespace}~{canary}`: a namespace in all but
its name, which no caller can write. `edit.namespace` is that place until the canary ends.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

from errata.errors import InvalidRequestError, LimitExceededError

DEFAULT = ""
"""The namespace of edits that name none."""
DEFAULT_NAME = "default"
"""How the default namespace is called where an empty name would be overlooked."""
EVERY = "*"
"""Stands for all namespaces in a reading."""
MAX_READ = 16
"""Most namespaces that a request can name."""

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_MAX_SHOWN = 80  # characters of a foreign name in a message
_CANARY_MARK = "~"
_CANARY_PREFIX = "canaries/"
CANARY_NAME = re.compile(r"canaries/[a-z][a-z0-9-]{0,62}")
"""A canary's name."""

Reading = tuple[str, ...]
"""The namespaces whose edits a prompt reads: names, sorted, each once; or `ALL`; and the places of
the canaries that it is in."""
DEFAULT_ONLY: Reading = (DEFAULT,)
"""The reading of a request that names no namespace."""
ALL: Reading = (EVERY,)
"""The reading of all namespaces."""
Readings = Sequence[Reading] | None
"""One reading for each prompt of a batch; None if all are `DEFAULT_ONLY`."""


def is_namespace(name: str) -> bool:
    """Whether a namespace of the log can have this name."""
    return name == DEFAULT or (name != DEFAULT_NAME and NAME.fullmatch(name) is not None)


def place_of(namespace: str, canary: str) -> str:
    """Where an edit lies: in its namespace, or in the place of its open canary.

    Args:
        namespace: that the edit belongs to.
        canary: `canaries/{canary}`; empty if it is of none, or of one that has ended.
    """
    if not canary:
        return namespace
    return f"{namespace}{_CANARY_MARK}{canary.removeprefix(_CANARY_PREFIX)}"


def own_namespace(place: str) -> str:
    """The namespace of edits that lie in a place."""
    return place.partition(_CANARY_MARK)[0]


def is_canary_place(place: str) -> bool:
    """Whether only requests in a canary read the place."""
    return _CANARY_MARK in place


def can_be_canary_place(place: str) -> bool:
    """Whether the edits of some canary could lie in this place."""
    namespace, mark, canary = place.partition(_CANARY_MARK)
    is_named = CANARY_NAME.fullmatch(_CANARY_PREFIX + canary) is not None
    return bool(mark) and is_namespace(namespace) and is_named


def reading_for(place: str) -> Reading:
    """What a request reads that an edit in this place must claim."""
    return tuple(sorted({own_namespace(place), place}))


def namespace_of(name: str, field: str) -> str:
    """The namespace that a caller names.

    Args:
        name: as he wrote it; `default` and the empty text are the default namespace.
        field: of the request, for the message.

    Raises:
        InvalidRequestError: no namespace can have this name.
    """
    if name in (DEFAULT, DEFAULT_NAME):
        return DEFAULT
    if not NAME.fullmatch(name):
        raise InvalidRequestError(
            f"{field}: {name[:_MAX_SHOWN]!r} is no name of a namespace; use at most 63 characters "
            "of a-z, 0-9, ., _ and -, starting with a letter or a digit.",
            field=field,
        )
    return name


def reading_of(names: Collection[str], field: str = "namespaces") -> Reading:
    """The reading that a caller asks for; `DEFAULT_ONLY` if he names nothing.

    Args:
        names: as he wrote them.
        field: of the request, for the message.

    Raises:
        InvalidRequestError: a name is impossible, or `*` is not alone.
        LimitExceededError: more than `MAX_READ` names.
    """
    if not names:
        return DEFAULT_ONLY
    if len(names) > MAX_READ:
        raise LimitExceededError(
            f"{field} has {len(names):,} names; the limit is {MAX_READ}. Name fewer, or read all "
            f"with {EVERY}.",
            field=field,
            limit=MAX_READ,
        )
    if EVERY in names:
        if len(names) > 1:
            raise InvalidRequestError(
                f"{field}: {EVERY} reads all namespaces; leave the other names out.", field=field
            )
        return ALL
    return tuple(sorted({namespace_of(name, field) for name in names}))


def shown(place: str) -> str:
    """A namespace as messages call it; of a canary's place, the namespace."""
    return own_namespace(place) or DEFAULT_NAME
