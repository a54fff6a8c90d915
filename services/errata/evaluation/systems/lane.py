"""A lane in this process, with the writer's intake, batching, fits and checks but no log."""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

from errata.editing.artifact import Artifact
from errata.editing.edit import Edit
from errata.editing.effects.plan import RowPlan
from errata.editing.lane.claims import Claim, RoutingView
from errata.editing.lane.commits import (
    Commit,
    Compaction,
    LaneDump,
    LaneModelCommit,
    Restoration,
    Reversal,
)
from errata.editing.lane.contract import LaneConfig, Progress, Resources
from errata.editing.lane.method import Method
from errata.editing.model.causal_lm import CausalLM
from errata.editing.model.weights import EditedWeights
from errata.editing.registry import get_method
from errata.editing.retriever.installed_gate import installed_gate
from errata.errors import InvalidRequestError, PreconditionError
from errata.evaluation.data.record import Record
from errata.evaluation.systems import EditOutcome, requests_of
from errata.evaluation.systems.local import LocalModel
from errata.indices.faiss_indices import FaissIndices
from errata.platform.settings import WriterSettings
from errata.replica.open_lane import OpenLane
from errata.writer.batching import next_batch, planned_batch, seed_of, window
from errata.writer.fitting import Fitted, fit_batch
from errata.writer.intake import Draft, accept
from errata.writer.lanes import configure


class LaneSystem(LocalModel):
    """One lane on one model.

    The writer's checks do not get the data set's probes. With them, the checks would reject the
    very edits that the figures should measure.

    Attributes:
        commits: in order, as a replica would apply them.
    """

    def __init__(
        self,
        model: CausalLM,
        method: str,
        values: Mapping[str, Any],
        resources: Resources,
        limits: WriterSettings,
        *,
        lane_model: Path | None = None,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """Opens the lane, and gathers the statistics that its fits need.

        Args:
            model: holds its base weights.
            method: of the lane.
            values: of its configuration that differ from a new lane's defaults.
            resources: text and cache for statistics.
            limits: of the writer.
            lane_model: a gate, or folder of a trained lane model, for methods that have one; None
                takes the installed gate if that is enough.
            on_progress: called with the progress of the statistics.

        Raises:
            InvalidRequestError: a value is invalid for the method, or a lane model is missing.
            ModelNotFoundError, BaseModelMismatchError, ArtifactCorruptError: about the lane model.
        """
        super().__init__(model)
        self._method = get_method(method)
        self._configured = configure("main", method, self._method.values("", values), model.digest)
        self._limits = limits
        self.config = self._method.config.model_validate_json(self._configured.config_json)
        self._resources = resources
        self._lane_model = lane_model
        check_lane_model(self._method, self.config, lane_model)
        if lane_model is None and self.config.takes_gate:
            self._lane_model = installed_gate()
        self._open(on_progress)
        self._start_over()

    @property
    def routes(self) -> bool:
        """Whether edits claim individual prompts."""
        return not self._method.capabilities.changes_weights

    def claims(self, prompts: Sequence[str]) -> list[Claim]:
        """The edit that claims each prompt.

        Raises:
            PreconditionError: the method does not route.
        """
        view = self.view()
        if view is None:
            raise PreconditionError(f"method {self._method.name} does not route.")
        return view.claims(prompts)

    def view(self) -> RoutingView | None:
        """Routes prompts by the current edits; None if the method does not route."""
        return self._lane.lane.view()

    def prompt_of(self, edit: str) -> str:
        """The prompt of an edit."""
        return self._accepted[edit].said

    @property
    def edits(self) -> list[Edit]:
        """All committed edits, in the order of their commits."""
        return [self._accepted[name] for commit in self.commits for name in commit.edits]

    def edit(self, records: Sequence[Record]) -> EditOutcome:
        """Fits and commits edits of the records, in the batches that the writer would make."""
        start, parts, rejected = perf_counter(), Counter[str](), list[str]()
        pending: dict[str, Edit] = {}
        cases: dict[str, str] = {}
        for request in requests_of(records):
            for record, edit in zip(request, self._accept(request), strict=True):
                pending[edit.name], cases[edit.name] = edit, record.case_id
        alone = frozenset[str]()
        while pending:
            batch = self._next_batch(list(pending.values()), alone)
            outcome = fit_batch(self.model, self._lane, batch, self._limits)
            parts.update(outcome.seconds)
            if outcome.fitted is not None:
                self._commit(outcome.fitted)
            rejected += [cases[rejection.edit] for rejection in outcome.rejections]
            alone = (alone | outcome.retry_alone) - outcome.settled
            for name in outcome.settled:
                del pending[name]
        return EditOutcome(tuple(rejected), perf_counter() - start, parts)

    def _next_batch(self, pending: Sequence[Edit], alone: frozenset[str]) -> list[Edit]:
        name, ordering = self._configured.lane, self._lane.lane.ordering
        named = [(name, edit) for edit in pending]
        if ordering is None:
            return next_batch(named, name, self._limits.max_batch_edits, alone)
        return planned_batch(ordering, self._configured.config_digest, window(named, name, alone))

    def _accept(self, records: Sequence[Record]) -> list[Edit]:
        """Accepts the records as one request."""
        drafts = [
            Draft(record.prompt, record.target_new, record.subject, record.brought, (), "")
            for record in records
        ]
        number = next(self._requests)
        edits = accept(drafts, self.model, self._limits)
        named = [replace(edit, name=f"edits/{number}-{i}") for i, edit in enumerate(edits)]
        self._accepted.update({edit.name: edit for edit in named})
        return named

    def compact(self, num_experts: int) -> float:
        """Retrains the lane from its active edits, as the writer would; returns the seconds.

        Args:
            num_experts: number of experts that share the edits; 0 lets the method choose.

        Raises:
            PreconditionError: the method has no compaction.
        """
        retrain = self._lane.lane.compact
        if retrain is None:
            raise PreconditionError(f"method {self._method.name} has no compaction.")
        start, edits = perf_counter(), self.edits
        seed = seed_of(self._configured.config_digest, edits)
        data = retrain(edits, num_experts=num_experts, seed=seed).to_bytes()
        names = tuple(edit.name for edit in edits)
        commit = Commit(len(self.commits) + 1, names, Artifact.from_bytes(data))
        self._lane.lane.prepare(Compaction(commit.seq, names, commit.artifact)).apply()
        self.commits[:] = [commit]
        self.state_bytes = len(data)
        return perf_counter() - start

    def revert(self, *names: str) -> None:
        """Reverts committed edits, as a reversal in the log would."""
        self._lane.lane.prepare(Reversal(names)).apply()

    def reset(self) -> None:
        """Reverts all edits; afterwards, the weights are the base model's, bit for bit."""
        names = [name for commit in self.commits for name in commit.edits]
        if names:
            self.revert(*names)
        if self._method.capabilities.changes_weights:
            self._open()
        else:
            self._restore_empty()
        self._start_over()

    def _restore_empty(self) -> None:
        """The contents of the lane before the first edit; what was gathered stays."""
        model, digest = None, ""
        if self._lane_model_commit is not None:
            model, digest = self._lane_model_commit.model, self._lane_model_commit.digest
        self._lane.lane.prepare(Restoration(0, LaneDump(digest, None), model)).apply()

    def _open(self, on_progress: Progress | None = None) -> None:
        lane = self._method.open(
            self.model,
            self.config,
            EditedWeights(self.model),
            name=self._configured.lane,
            indices=FaissIndices(),
        )
        lane.gather(self._resources, on_progress=on_progress)
        self._lane_model_commit: LaneModelCommit | None = None
        if lane.lane_model is not None and self._lane_model is not None:
            data = lane.lane_model.read(self._lane_model)
            digest = hashlib.sha256(data).hexdigest()
            self._lane_model_commit = LaneModelCommit(
                0, Artifact.from_bytes(data), digest, (), None
            )
            lane.prepare(self._lane_model_commit).apply()
        self._lane = OpenLane(self._configured, self._method.capabilities, lane)

    def _start_over(self) -> None:
        self._requests = itertools.count(1)
        self._accepted: dict[str, Edit] = {}
        self.commits: list[Commit] = []
        self.state_bytes = 0

    def _plans(self, prompts: Sequence[str]) -> Sequence[RowPlan]:
        return self._lane.route(prompts)

    def _commit(self, fitted: Fitted) -> None:
        names = tuple(edit.name for edit in fitted.edits)
        seq = len(self.commits) + 1
        memory = None if fitted.memory is None else Artifact.from_bytes(fitted.memory)
        commit = Commit(seq, names, Artifact.from_bytes(fitted.artifact), memory)
        self._lane.lane.prepare(commit).apply()
        self.commits.append(commit)
        self.state_bytes += len(fitted.artifact)


def check_lane_model(method: Method, config: LaneConfig, folder: Path | None) -> None:
    """Checks that a lane has a lane model if it needs one, and only if its method supports it.

    Raises:
        InvalidRequestError: it is missing and no gate takes its place, or the method has none.
    """
    if folder is not None and not method.capabilities.has_lane_models:
        problem = f"method {method.name} has no lane model; drop --lane-model."
    elif folder is None and config.needs_lane_model and not config.takes_gate:
        problem = f"method {method.name} needs a --lane-model."
    else:
        return
    raise InvalidRequestError(problem, field="lane_model")
