"""Which lanes can have canaries, by their configuration alone."""

from __future__ import annotations

import json
from typing import Any

import pytest

from errata.errors import InvalidRequestError, UnknownLaneError
from errata.log.entries import LaneConfigured
from errata.writer.canary_lanes import check_able
from errata.writer.intake import check_known


def lanes(**methods: tuple[str, dict[str, Any]]) -> dict[str, LaneConfigured]:
    return {
        f"lanes/{name}": LaneConfigured(f"lanes/{name}", method, json.dumps(config), "c", "m")
        for name, (method, config) in methods.items()
    }


@pytest.mark.parametrize(
    ("method", "config", "why"),
    [
        ("recipe", {}, ""),
        ("lemoe", {}, ""),
        ("elder", {"bank_edits": 16}, ""),
        ("elder", {}, "takes edits of one namespace"),
        ("lemoe", {"routing": "literal"}, "takes edits of one namespace"),
        ("lemoe", {"scope": "off"}, "takes edits of one namespace"),
        ("adaple", {}, "in force for every request"),
        ("recipe", {"of_a_newer_release": 1}, "this version does not know"),
    ],
)
def test_a_lane_with_an_obstacle_is_refused_and_others_are_named(
    method: str, config: dict[str, Any], why: str
) -> None:
    known = lanes(
        mine=(method, config),
        newer=("unknown", {}),
        newest=("recipe", {"x": 1}),
        able=("recipe", {}),
    )
    if not why:
        check_able("lanes/mine", known)
        return
    with pytest.raises(InvalidRequestError, match=f"{why}.*; use lanes/able[.]$") as refused:
        check_able("lanes/mine", known)
    assert refused.value.field == "lane"
    del known["lanes/able"]
    with pytest.raises(InvalidRequestError, match="configure a lane that can"):
        check_able("lanes/mine", known)


def test_an_unknown_lane_is_refused() -> None:
    with pytest.raises(UnknownLaneError, match="choose one of lanes/a"):
        check_known("lanes/b", lanes(a=("recipe", {})))
