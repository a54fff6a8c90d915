"""Names of edits and events that callers give, as ids."""

from __future__ import annotations

import re

from errata.catalog.database import INDEX_BITS, id_of
from errata.errors import InvalidRequestError

_NAME = re.compile(r"(\d{1,12})-(\d{1,7})", re.ASCII)


def edit_id(name: str) -> int:
    """The id of `edits/{seq}-{index}`.

    Raises:
        InvalidRequestError: the name has another form.
    """
    return _id(name, "edits", "edit")


def event_id(name: str) -> int:
    """The id of `events/{seq}-{index}`; raises as `edit_id`."""
    return _id(name, "events", "after")


def _id(name: str, collection: str, field: str) -> int:
    found = _NAME.fullmatch(name.removeprefix(f"{collection}/"))
    if found is None or not name.startswith(f"{collection}/") or int(found[2]) >> INDEX_BITS:
        raise InvalidRequestError(
            f"{field} is {name[:80]!r}; give a name such as {collection}/12-0.", field=field
        )
    return id_of(int(found[1]), int(found[2]))
