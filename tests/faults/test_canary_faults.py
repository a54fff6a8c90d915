"""Writers that die while a canary ends: the next one finishes, and a retry gets its answer."""

from __future__ import annotations

import uuid
from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest

from errata.demo import Corpus
from errata.launch.box import Box
from errata_client import (
    Canary,
    CanaryState,
    Client,
    DeadlineExceededError,
    EditSpec,
    EditState,
    UnavailableError,
)
from tests.waiting import PATIENCE, wait

LANE = "lanes/facts"
STOPPED, REJECTED, ENDED = "canary_set", "edits_rejected", "canary_ended"
PROMOTIONS: dict[str, tuple[str, ...]] = {
    "writer.canary.before_append=kill@1": (),
    "writer.canary.after_append=kill@1": (ENDED,),
}
ROLL_BACKS: dict[str, tuple[str, ...]] = {
    "writer.canary.before_reject=kill@1": (STOPPED,),
    "writer.canary.before_append=kill@2": (STOPPED, REJECTED),
    "writer.canary.after_append=kill@2": (STOPPED, REJECTED, ENDED),
}
"""Where the writer dies → the entries about the end that are in the log then."""


class Trial:
    """A canary of the running system, with an edit that is in force, and one that waits."""

    def __init__(self, box: Box, corpus: Corpus, number: int, state: CanaryState) -> None:
        self.box, self.name, self.state = box, f"canaries/trial-{number}", state
        self.request_id = str(uuid.uuid4())
        edit = corpus.demo_edits()[0]
        later = (datetime.now(UTC) + timedelta(days=1)).replace(microsecond=0)
        specs = [
            EditSpec(edit.prompt, edit.target, edit.subject, canary=self.name, effective_from=when)
            for when in (None, later)
        ]
        with self.client() as client:
            client.set_canary(self.name, 0.5, lane=LANE, namespace=f"team-{number}")
            self.active, self.waiting = (client.submit_edits([one])[0].name for one in specs)
            (found,) = client.wait_edits([self.active])
            assert found.state is EditState.COMMITTED, found.error
        self._begun = len(self.entries())

    def client(self, timeout: float = PATIENCE) -> Client:
        return Client(self.box.settings.writer.address, timeout=timeout)

    def restart(self, failpoints: str) -> None:
        self.box.processes.pop("writer").stop(10)
        self.box.settings = self.box.settings.model_copy(update={"failpoints": failpoints})
        self.box.start_service("writer", self.box.settings.writer.address)

    def end(self, client: Client) -> Canary:
        promote = self.state is CanaryState.PROMOTED
        ask = client.promote_canary if promote else client.roll_back_canary
        return ask(self.name, comment="why", author="eve", request_id=self.request_id)

    def dies(self) -> None:
        """Asks for the end, and waits until that has killed the writer."""
        with self.client(timeout=10.0) as client:
            with pytest.raises((UnavailableError, DeadlineExceededError)):
                self.end(client)
        wait(lambda: not self.box.processes["writer"].running, "the writer is dead")

    def now(self) -> Canary:
        with self.client() as client:
            return client.get_canary(self.name)

    def wait_until_finished(self) -> None:
        """By the next writer, whom nobody asks."""
        wait(lambda: self.now().state is self.state, "the canary has ended")

    def entries(self) -> list[str]:
        with Client(self.box.settings.log.address) as log:
            return [each.kind for each in log.entries() if each.kind in (STOPPED, REJECTED, ENDED)]

    def told(self) -> tuple[str, ...]:
        """The entries about the end."""
        return tuple(self.entries()[self._begun :])


@pytest.mark.promise("P2", "P3")
@pytest.mark.parametrize("state", [CanaryState.PROMOTED, CanaryState.ROLLED_BACK])
def test_the_end_of_a_canary_survives_the_death_of_its_writer(
    box: Box, corpus: Corpus, state: CanaryState
) -> None:
    promote = state is CanaryState.PROMOTED
    for number, (failpoint, before) in enumerate((PROMOTIONS if promote else ROLL_BACKS).items()):
        trial = Trial(box, corpus, number, state)
        trial.restart(failpoint)
        trial.dies()
        assert trial.told() == before, failpoint
        trial.restart("")
        if before:
            trial.wait_until_finished()
        with trial.client() as client:
            ended = trial.end(client)
            assert ended == trial.end(client) == trial.now()
            assert (ended.state, ended.ended_by, ended.comment) == (state, "eve", "why")
            active, waiting = (client.get_edit(name) for name in (trial.active, trial.waiting))
        assert Counter(trial.told()) == Counter((ENDED,) if promote else (STOPPED, REJECTED, ENDED))
        if promote:
            assert (active.state, waiting.state) == (EditState.COMMITTED, EditState.SCHEDULED)
        else:
            assert (active.state, waiting.state) == (EditState.REVERTED, EditState.REJECTED)
            assert active.revert_seq == ended.ended_seq
