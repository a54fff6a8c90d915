"""Edits on the same matter are found, and named by what the new edit does to them."""

from __future__ import annotations

import pytest

from errata.editing.chat import Chat, Message
from errata.editing.edit import Edit
from errata.log.entries import EditsReverted
from errata.writer.conflicts import MAX_SHOWN, Kind
from errata.writer.ledger import EditLedger
from tests.unit.writer.test_ledger import _commit, _entry, _request

CAPITAL = "The capital of France is"
OLD = Edit("edits/1-0", CAPITAL, "Lyon", "France", ("France's capital is",))


def new(prompt: str = CAPITAL, target: str = "Rome", subject: str = "France", **more: str) -> Edit:
    rephrases = (more["rephrase"],) if "rephrase" in more else ()
    return Edit("", prompt, target, subject, rephrases)


async def found(edit: Edit, lane: str = "lanes/main", *earlier: Edit) -> list[tuple[Kind, str]]:
    ledger = EditLedger()
    edits = earlier or (OLD,)
    await ledger.fold([_request(seq, each) for seq, each in enumerate(edits, 1)])
    return [(each.kind, each.name) for each in ledger.conflicts_of([edit], lane)]


@pytest.mark.parametrize(
    ("edit", "lane", "kind"),
    [
        (new(), "lanes/main", Kind.SUPERSEDES),
        (new(f"{CAPITAL} "), "lanes/main", Kind.SUPERSEDES),
        (new(), "lanes/other", Kind.CONTRADICTS),
        (new("the capital of  france is:", subject="france"), "lanes/main", Kind.CONTRADICTS),
        (new("France's capital is"), "lanes/main", Kind.CONTRADICTS),
        (new("Name it", rephrase=CAPITAL), "lanes/main", Kind.CONTRADICTS),
        (new(target="lyon"), "lanes/main", Kind.REPEATS),
        (new("France's capital is", target="Lyon"), "lanes/main", Kind.REPEATS),
    ],
)
async def test_an_edit_on_the_same_matter_is_found(edit: Edit, lane: str, kind: Kind) -> None:
    assert await found(edit, lane) == [(kind, "edits/1-0")]


@pytest.mark.parametrize(
    "edit",
    [
        new("The capital of Spain is", subject="Spain"),
        new("The president of France is"),
        new("The capital of Burgundy, France is", subject="Burgundy"),
    ],
)
async def test_other_matters_are_left_alone(edit: Edit) -> None:
    assert await found(edit) == []


async def test_a_conversation_and_a_text_can_state_the_same() -> None:
    chat = Chat((Message("system", "Be brief."), Message("user", CAPITAL)))
    edit = Edit("", chat, "Rome", "France")
    assert await found(edit) == [(Kind.SUPERSEDES, "edits/1-0")]


async def test_only_what_is_in_force_or_waiting_counts_and_only_what_came_before() -> None:
    ledger = EditLedger()
    await ledger.fold([_request(1, OLD), _commit(2, "edits/1-0")])
    newer = Edit("edits/3-0", CAPITAL, "Rome", "France")
    await ledger.fold([_request(3, newer)])
    (conflict,) = ledger.conflicts_of([newer], "lanes/main")
    assert conflict.name == "edits/1-0"
    assert ledger.conflicts_of([OLD], "lanes/main") == [], "the newer one came later"
    await ledger.fold([_entry(4, EditsReverted(("edits/1-0",), ""))])
    assert ledger.conflicts_of([newer], "lanes/main") == []


async def test_edits_of_one_request_are_compared_with_those_before_them() -> None:
    ledger = EditLedger()
    first, second = OLD, Edit("edits/1-1", "France's capital is", "Rome", "France")
    await ledger.fold([_request(1, first, second)])
    (conflict,) = ledger.conflicts_of([first, second], "lanes/main")
    assert (conflict.index, conflict.name) == (1, "edits/1-0")


async def test_the_newest_are_named_first_and_not_all() -> None:
    many = [Edit(f"edits/{seq}-0", CAPITAL, str(seq), "France") for seq in range(1, 40)]
    names = [name for _, name in await found(new(), "lanes/main", *many)]
    assert names == [f"edits/{seq}-0" for seq in range(39, 39 - MAX_SHOWN, -1)]
