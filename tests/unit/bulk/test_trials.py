"""Edits of canaries in exports and comparisons."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from errata.bulk.difference import between_deployments, between_positions
from errata.bulk.trials import ends_of, in_open_canaries
from errata_client import Canary, CanaryState, Edit, EditSpec, EditState

_NOW = datetime(2031, 2, 3, tzinfo=UTC)
MAY, JULY = "canaries/may", "canaries/july"


def _edit(name: str, canary: str, commit_seq: int, revert_seq: int = 0) -> Edit:
    return Edit(
        name=name,
        state=EditState.REVERTED if revert_seq else EditState.COMMITTED,
        spec=EditSpec("The sky is", "green", canary=canary),
        lane="lanes/facts",
        author="ada",
        request_time=_NOW,
        commit_seq=commit_seq,
        revert_seq=revert_seq,
        figures=None,
        artifact_digest="",
        artifact_size=0,
        method="recipe",
        base_model_digest="",
        error="",
        superseded_by="",
    )


def _canary(name: str, state: CanaryState, ended_seq: int) -> Canary:
    empty: dict[str, Any] = {"readers": (), "rule": None, "comment": "", "author": "ada"}
    times = {"opened_seq": 1, "open_time": _NOW, "set_seq": 1, "set_time": _NOW}
    return Canary(name, state, "lanes/facts", "", 0.1, **empty, **times, ended_seq=ended_seq)


ENDS = ends_of([_canary(JULY, CanaryState.OPEN, 0), _canary(MAY, CanaryState.PROMOTED, 20)])


def test_only_an_open_canary_sets_an_edit_apart() -> None:
    edits = [_edit("edits/2-0", MAY, 5), _edit("edits/3-0", JULY, 6), _edit("edits/4-0", "", 7)]
    found = list(in_open_canaries(edits, lambda: ENDS))
    assert [edit.spec.canary for edit in found] == ["", JULY, ""]
    assert found[1:] == edits[1:]


def test_without_an_edit_of_a_canary_nobody_asks_for_canaries() -> None:
    def asked() -> Any:
        raise AssertionError("a system of an older version has no canaries")

    assert len(list(in_open_canaries([_edit("edits/4-0", "", 7)], asked))) == 1


def test_a_promotion_lets_all_read_what_the_canary_read() -> None:
    edit = _edit("edits/2-0", MAY, 5)

    def between(first: int, second: int) -> list[tuple[str, str]]:
        found = between_positions([edit], first, second, ENDS)
        return [(each.kind, each.canary) for each in found]

    assert between(4, 5) == [("added", MAY)]
    assert between(4, 20) == [("added", "")]
    assert between(5, 19) == []
    assert between(19, 20) == [("removed", MAY), ("added", "")]
    assert between(20, 19) == [("removed", ""), ("added", MAY)]


def test_a_roll_back_takes_from_the_canary_alone() -> None:
    edit = _edit("edits/2-0", JULY, 5, revert_seq=9)
    (found,) = between_positions([edit], 8, 9, {JULY: 9})
    assert (found.kind, found.canary) == ("removed", JULY)


def test_two_systems_differ_in_what_is_still_tried() -> None:
    promoted, tried, plain = (
        list(in_open_canaries([_edit("edits/2-0", canary, 5)], lambda: ENDS))
        for canary in (MAY, JULY, "")
    )
    assert between_deployments(promoted, plain) == []
    found = between_deployments(plain, tried)
    assert [(each.kind, each.canary) for each in found] == [("removed", ""), ("added", JULY)]
