"""Canaries of a real log in a catalog, over gRPC and after a restart."""

from __future__ import annotations

from errata.log.canary_entries import CanaryEnded, CanarySet, Outcome
from errata.log.entries import EditsRequested
from errata_client._gen.errata.v1 import catalog_pb2
from tests.integration.catalog.rig import Rig, edit, state
from tests.integration.log import entries

KIND = catalog_pb2.Event.Kind
ROUTED, TRIAL = "lanes/routed", "canaries/trial"


async def requested(rig: Rig, target: str, canary: str = "") -> str:
    """The name of an edit of one prompt, which is in force."""
    place = "acme~trial" if canary else "acme"
    asked = edit("The capital of Freedonia is", target, namespace=place, canary=canary)
    seq = await rig.append(EditsRequested(ROUTED, (asked,), ("",), (False,)))
    name = f"edits/{seq}-0"
    await rig.append(entries.commit(name, name=ROUTED))
    return name


async def test_a_canary_is_followed_from_its_opening_to_its_end(rig: Rig) -> None:
    await rig.append(entries.lane(ROUTED, method="recipe"))
    opened = await rig.append(CanarySet(TRIAL, ROUTED, "acme", 1, comment="first"))
    old, new = await requested(rig, "Pisa"), await requested(rig, "Rome", TRIAL)
    async with rig.serving() as served:
        found = {each.edit.name: each.edit for each in (await served.find()).edits}
        assert (found[old].superseded_by, found[new].superseded_by) == ("", "")
        assert (found[new].spec.namespace, found[new].spec.canary) == ("acme", TRIAL)
    changed = await rig.append(CanarySet(TRIAL, ROUTED, "acme", 2))
    promoted = await rig.append(CanaryEnded(TRIAL, Outcome.PROMOTED, (new,), "fine"))
    second = "canaries/second"
    await rig.append(CanarySet(second, ROUTED, "acme", 1))
    undone = await rig.append(CanaryEnded(second, Outcome.ROLLED_BACK, ()))
    async with rig.serving() as served:  # the same database, and its fold of the log
        found = {each.edit.name: each.edit for each in (await served.find()).edits}
        assert (found[old].superseded_by, found[new].superseded_by) == (new, "")
        assert found[new].state == state("committed")
        events = await served.events(from_seq=1)
    told = [(each.kind, each.seq, each.canary) for each in events if each.canary]
    assert told == [
        (KIND.KIND_CANARY_OPENED, opened, TRIAL),
        (KIND.KIND_CANARY_CHANGED, changed, TRIAL),
        (KIND.KIND_CANARY_PROMOTED, promoted, TRIAL),
        (KIND.KIND_CANARY_OPENED, undone - 1, second),
        (KIND.KIND_CANARY_ROLLED_BACK, undone, second),
    ]
    first = next(each for each in events if each.canary)
    assert (first.lane, first.namespace, first.comment) == (ROUTED, "acme", "first")
    assert first.id.endswith(f"/{opened}/{TRIAL}")
