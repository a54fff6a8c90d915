"""A lane in this process: the writer's own intake, batching, fits and checks, without a log."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from time import perf_counter
from typing import Any

from errata.editing.artifact import Artifact
from errata.editing.causal_lm import CausalLM
from errata.editing.method import Commit, Resources, get_method
from errata.editing.weights import EditedWeights
from errata.evaluation.data.record import Record
from errata.evaluation.systems import EditOutcome
from errata.evaluation.systems.local import LocalModel
from errata.platform.settings import WriterSettings
from errata.replica.applier import Lane
from errata.writer.batching import next_batch
from errata.writer.fitting import Fitted, fit_batch
from errata.writer.intake import Draft, accept
from errata.writer.lanes import configure


class LaneSystem(LocalModel):
    """One lane on one model.

    The data set's probes are not shown to the writer's checks, which would otherwise reject just
    those edits that the figures are to be taken from.

    Attributes:
        commits: in order; what a replica would have applied.
    """

    def __init__(
        self,
        model: CausalLM,
        method: str,
        values: Mapping[str, Any],
        resources: Resources,
        limits: WriterSettings,
        *,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """Makes the lane, and the statistics that its fits need.

        Args:
            model: holds its base weights.
            method: of the lane.
            values: of its configuration, where they differ from the defaults.
            resources: text and cache for statistics.
            limits: of the writer.
            on_progress: told of the statistics' progress.

        Raises:
            InvalidRequestError: a value is not valid for the method.
        """
        super().__init__(model)
        self._configured = configure("main", method, values, model.digest)
        self._limits = limits
        self._method = get_method(method)
        self.config = self._method.config.model_validate_json(self._configured.config_json)
        self._statistics = self._method.prepare(
            model, self.config, resources, on_progress=on_progress
        )
        self._weights = EditedWeights(model)
        self._start_anew()

    def edit(self, records: Sequence[Record]) -> EditOutcome:
        """Fits and commits, in as many batches as the writer would make."""
        start, parts, num_rejected = perf_counter(), Counter[str](), 0
        drafts = [
            Draft(record.prompt, record.target_new, record.subject, (), (), "")
            for record in records
        ]
        request = next(self._requests)
        named = [
            replace(edit, name=f"edits/{request}-{i}")
            for i, edit in enumerate(accept(drafts, self.model, self._limits))
        ]
        pending = {edit.name: edit for edit in named}
        alone = frozenset[str]()
        while pending:
            batch = next_batch(
                [(self._configured.lane, edit) for edit in pending.values()],
                self._limits.max_batch_edits,
                alone,
            )
            outcome = fit_batch(self.model, self._lane, batch, self._statistics, self._limits)
            parts.update(outcome.seconds)
            if outcome.fitted is not None:
                self._commit(outcome.fitted)
            num_rejected += len(outcome.rejections)
            alone = (alone | outcome.retry_alone) - outcome.settled
            for name in outcome.settled:
                del pending[name]
        return EditOutcome(num_rejected, perf_counter() - start, parts)

    def reset(self) -> None:
        """Takes all edits back; the weights are the base's, bit for bit."""
        names = [name for commit in self.commits for name in commit.edits]
        if names:
            self._lane.state.prepare_revert(names)()
        self._start_anew()

    def _start_anew(self) -> None:
        state = self._method.new_state(
            self.model, self.config, self._weights, self._configured.lane
        )
        memory = self._method.new_memory(self.config)
        self._lane = Lane(self._configured, self._method, self.config, state, memory)
        self._requests = itertools.count(1)
        self.commits: list[Commit] = []
        self.state_bytes = 0

    def _commit(self, fitted: Fitted) -> None:
        names = tuple(edit.name for edit in fitted.edits)
        seq = len(self.commits) + 1
        commit = Commit(seq, names, Artifact.from_bytes(fitted.artifact))
        self._lane.state.prepare_commit(commit)()
        if self._lane.memory is not None and fitted.memory is not None:
            self._lane.memory.add(names, Artifact.from_bytes(fitted.memory))
        self.commits.append(commit)
        self.state_bytes += len(fitted.artifact)
