"""Edits name canaries that are open, and theirs; a canary has a limited number of edits."""

from __future__ import annotations

import asyncio

import pytest

from errata.editing.edit import Edit
from errata.editing.namespaces import place_of
from errata.errors import InvalidEditError, LimitExceededError, PreconditionError
from errata.log.canary_entries import CanarySet
from errata.platform.security.identity import Identity, enter
from errata.platform.security.rules import Role
from errata.writer.canary_book import CanaryBook
from errata.writer.canary_intake import MAX_EDITS, check_canaries, checked_name
from tests.unit.writer.test_ledger import _entry

TRIAL, LANE = "canaries/trial", "lanes/main"


def book(num_edits: int = 0) -> CanaryBook:
    opened = CanarySet(TRIAL, LANE, "acme", 1)
    found = CanaryBook()
    found.put(_entry(1, opened), opened)
    for number in range(num_edits):
        found.add(edit(f"edits/2-{number}"))
    return found


def edit(name: str = "", namespace: str = "acme", canary: str = TRIAL) -> Edit:
    return Edit(name, "p", "t", "s", namespace=place_of(namespace, canary), canary=canary)


def test_edits_without_a_canary_need_none() -> None:
    check_canaries([edit(canary="")], "lanes/other", CanaryBook())
    assert checked_name("", "edits[0].canary") == ""


def test_the_edit_that_is_wrong_is_named() -> None:
    check_canaries([edit()], LANE, book())
    with pytest.raises(InvalidEditError, match=r"^edits\[1\].canary: .*namespace acme") as refused:
        check_canaries([edit(), edit(namespace="other")], LANE, book())
    assert refused.value.field == "edits[1].canary"


def test_no_edit_arrives_in_a_canary_that_is_being_rolled_back() -> None:
    found = book()
    stopped = CanarySet(TRIAL, LANE, "acme", 0, rolls_back=True)
    found.put(_entry(2, stopped), stopped)
    with pytest.raises(PreconditionError, match=r"edits\[0\].canary: .* is being rolled back"):
        check_canaries([edit()], LANE, found)


def test_a_canary_has_a_limited_number_of_edits() -> None:
    check_canaries([edit()] * 2, LANE, book(MAX_EDITS - 2))
    with pytest.raises(LimitExceededError, match="10,001 edits; the limit is 10,000"):
        check_canaries([edit()] * 2, LANE, book(MAX_EDITS - 1))


async def test_a_canary_that_a_caller_may_not_see_is_one_that_does_not_exist() -> None:
    async def message(name: str) -> str:
        enter(Identity("alice", frozenset({Role.EDITOR}), namespaces=frozenset({"other"})))
        with pytest.raises(PreconditionError) as refused:
            check_canaries([edit(namespace="other", canary=name)], LANE, book())
        return refused.value.message.replace(name, "…")

    hidden = await asyncio.create_task(message(TRIAL))
    assert hidden == await asyncio.create_task(message("canaries/nothing"))
