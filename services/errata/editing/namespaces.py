"""Namespaces: an edit belongs to exactly one, and a prompt reads the edits of some.

The default namespace has the empty name; in lists of names it is called `default`.
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

Reading = tuple[str, ...]
"""The namespaces whose edits a prompt reads: names, sorted, each once; or `ALL`."""
DEFAULT_ONLY: Reading = (DEFAULT,)
"""The reading of a request that names no namespace."""
ALL: Reading = (EVERY,)
"""The reading of all namespaces."""
Readings = Sequence[Reading] | None
"""One reading for each prompt of a batch; None if all are `DEFAULT_ONLY`."""


def is_namespace(name: str) -> bool:
    """Whether a namespace of the log can have this name."""
    return name == DEFAULT or (name != DEFAULT_NAME and NAME.fullmatch(name) is not None)


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


def shown(name: str) -> str:
    """A namespace as messages call it."""
    return name or DEFAULT_NAME
