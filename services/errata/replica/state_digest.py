"""The digest by which replicas compare their states."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

from errata.editing.canaries import Canaries
from errata.replica.open_lane import OpenLane


def state_digest(base_model: str, lanes: Mapping[str, OpenLane], canaries: Canaries) -> str:
    """SHA-256, hex, of the base model, of what lanes hold, and of who reads which canary.

    Args:
        base_model: its digest.
        lanes: by name.
        canaries: the open ones.
    """
    state = hashlib.sha256(base_model.encode())
    for name, lane in sorted(lanes.items()):
        state.update(f"|{name}|{lane.configured.config_digest}|{lane.lane.digest()}".encode())
    for one in canaries.open.values():  # named fields; a later one only where it is set
        says = {
            "name": one.name,
            "opened_seq": one.opened_seq,
            "lane": one.lane,
            "namespace": one.namespace,
            "share_ppm": one.share_ppm,
            "readers": list(one.readers),
            **({"rolling_back": True} if one.rolling_back else {}),
        }
        state.update(f"|{json.dumps(says, sort_keys=True)}".encode())
    return state.hexdigest()
