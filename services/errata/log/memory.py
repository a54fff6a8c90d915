"""Redis' memory: what is kept free for reverts, epochs and the outcomes of accepted edits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RedisMemory:
    """What Redis uses of its limit.

    Attributes:
        used_bytes: what counts towards the limit.
        max_bytes: `maxmemory`; 0 is no limit.
        reserve_bytes: of the limit, what requested edits cannot use; as in append.lua.
    """

    used_bytes: int
    max_bytes: int
    reserve_bytes: int

    @classmethod
    def of(cls, info: Mapping[str, int], wanted_reserve: int) -> RedisMemory:
        """Reads the section `memory` of INFO.

        Args:
            info: of Redis.
            wanted_reserve: in bytes; at most a quarter of the limit is reserved.
        """
        used = info["used_memory"] - info.get("mem_not_counted_for_evict", 0)
        most = info.get("maxmemory", 0)
        return cls(used, most, min(wanted_reserve, most // 4))
