"""The catalog follows a real log."""

from __future__ import annotations

from tests.integration.catalog.rig import Rig, edit, state
from tests.integration.log import entries


async def test_what_is_committed_is_found_from_its_position_on(rig: Rig) -> None:
    async with rig.serving() as served:
        (name,) = await rig.request(edit("The capital of Freedonia is", "Lisbon"), source="T-1")
        commit = await rig.append(entries.commit(name))
        found = await served.find("freedonia capital", min_seq=commit)
        (one,) = found.edits
        assert found.seq >= commit
        assert (one.edit.name, one.edit.commit_seq) == (name, commit)
        assert one.edit.state == state("committed")
        assert one.edit.spec.prompt == "The capital of Freedonia is"
        assert one.edit.method == "adaple"
        assert one.edit.figures.reliability == 1.0
        assert one.score > 0
        assert await served.names("T-1") == [name]
        assert await served.names("lisbon") == [name]
        assert await served.names("freedonia madrid") == []


async def test_a_restart_goes_on_where_it_was(rig: Rig) -> None:
    (first,) = await rig.request(edit("The capital of Freedonia is"))
    async with rig.serving() as served:
        assert await served.names("Freedonia") == [first]
        before = served.catalog.seq
    (second,) = await rig.request(edit("The river of Freedonia is"))
    await rig.append(entries.commit(first))
    async with rig.serving() as served:
        assert served.catalog.seq == before + 2
        assert sorted(await served.names("Freedonia")) == sorted([first, second])
        assert await served.names("Freedonia", states=[state("committed")]) == [first]
        events = await served.events(from_seq=1)
        assert [event.edit for event in events] == [first, second, first]
