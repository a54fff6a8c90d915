"""Which lanes can have canaries."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import ValidationError

from errata.editing.registry import get_method, methods
from errata.errors import InvalidRequestError
from errata.log.entries import LaneConfigured


def check_able(lane: str, lanes: Mapping[str, LaneConfigured]) -> None:
    """Returns if a canary can be opened in a lane: if its edits can lie beside others.

    Args:
        lane: one of `lanes`.
        lanes: all that are configured, by name.

    Raises:
        InvalidRequestError: it cannot; the message names the lanes that can.
    """
    why = _obstacle(lanes[lane])
    if not why:
        return
    able = [
        name
        for name, each in sorted(lanes.items())
        if each.method in methods() and not _obstacle(each)
    ]
    others = f"use {' or '.join(able)}" if able else "configure a lane that can"
    raise InvalidRequestError(
        f"{lane} {why}, so it cannot have a canary; {others}.", field="lane", lane=lane
    )


def _obstacle(lane: LaneConfigured) -> str:
    """Why a lane cannot have a canary; empty if it can."""
    method = get_method(lane.method)
    if method.capabilities.changes_weights:
        return f"uses {lane.method}, whose edits are in force for every request"
    try:
        config = method.config.model_validate_json(lane.config_json)
    except ValidationError:
        return "has a configuration that this version does not know"
    if config.takes_one_namespace:
        return "takes edits of one namespace, since all of them share what answers"
    return ""
