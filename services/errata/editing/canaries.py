"""Canaries: edits that only a part of the requests reads, until they are promoted or rolled back.

While its canary is open, an edit lies in a place of its own (`namespaces.place_of`), and a request
that is in the canary reads this place besides the namespaces that it names. Who is in it follows
from the request's key and from what the log says, so every replica decides the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from errata.editing.namespaces import EVERY, Reading, place_of

WHOLE = 1_000_000
"""All requests, as a share in parts per million."""
_HASH_BYTES = 8


@dataclass(frozen=True, slots=True)
class OpenCanary:
    """A canary and who is in it.

    Attributes:
        name: `canaries/{canary}`.
        opened_seq: position of the entry that opened it.
        lane: of its edits.
        namespace: of its edits.
        share_ppm: share of the requests that read the namespace, in parts per million.
        readers: requests that read one of these namespaces as well are in it.
        rolling_back: whether nothing but its end can follow, and no edit arrives any more.
    """

    name: str
    opened_seq: int
    lane: str
    namespace: str
    share_ppm: int
    readers: tuple[str, ...] = ()
    rolling_back: bool = False

    @property
    def place(self) -> str:
        """Where its edits lie."""
        return place_of(self.namespace, self.name)

    def concerns(self, reading: Reading) -> bool:
        """Whether a request with this reading will read its edits once it is promoted."""
        return self.namespace in reading or EVERY in reading

    def takes(self, reading: Reading, key: str) -> bool:
        """Whether a request is in it; whoever is in it stays in it as the share grows.

        Args:
            reading: of the request.
            key: of the request.
        """
        if not self.concerns(reading):
            return False
        if self.readers and (EVERY in reading or not set(self.readers).isdisjoint(reading)):
            return True
        return self.share_ppm >= WHOLE or _draw(self.name, self.opened_seq, key) < (
            self.share_ppm * 256**_HASH_BYTES // WHOLE
        )


def _draw(name: str, opened_seq: int, key: str) -> int:
    """A number below 256^8, uniform over keys and independent between canaries."""
    seed = f"{opened_seq}|{name}|".encode()
    return int.from_bytes(hashlib.blake2b(seed + key.encode(), digest_size=_HASH_BYTES).digest())


@dataclass(frozen=True, eq=False, slots=True)
class Canaries:
    """The open canaries at one position of the log; never changed, only replaced.

    Attributes:
        open: by name, sorted.
        canary_of: active edits of open canaries → the name of theirs.
    """

    open: Mapping[str, OpenCanary] = field(default_factory=dict)
    canary_of: Mapping[str, str] = field(default_factory=dict)

    def reading(self, reading: Reading, key: str) -> Reading:
        """What a request reads: what it names, and the places of the canaries that it is in."""
        if not self.open:
            return reading
        places = [one.place for one in self.open.values() if one.takes(reading, key)]
        return tuple(sorted({*reading, *places})) if places else reading

    def arms(self, reading: Reading, key: str) -> dict[str, bool]:
        """The canaries that concern a request → whether it is in them."""
        return {
            name: one.takes(reading, key)
            for name, one in self.open.items()
            if one.concerns(reading)
        }


NO_CANARIES = Canaries()
"""None is open."""
