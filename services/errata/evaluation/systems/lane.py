"""A lane in this process: the writer's own intake, batching, fits and checks, without a log."""

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
from errata.editing.lane.contract import (
    Claim,
    Commit,
    LaneConfig,
    LaneModelCommit,
    Method,
    Resources,
    RoutingView,
    get_method,
)
from errata.editing.model.causal_lm import CausalLM
from errata.editing.model.weights import EditedWeights
from errata.errors import InvalidRequestError, PreconditionError
from errata.evaluation.data.record import Record
from errata.evaluation.systems import EditOutcome, requests_of
from errata.evaluation.systems.local import LocalModel
from errata.indices.faiss_indices import FaissIndices
from errata.platform.settings import WriterSettings
from errata.replica.applier import Lane
from errata.writer.batching import next_batch, planned_batch, seed_of, window
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
        lane_model: Path | None = None,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """Makes the lane, and the statistics that its fits need.

        Args:
            model: holds its base weights.
            method: of the lane.
            values: of its configuration, where they differ from the defaults.
            resources: text and cache for statistics.
            limits: of the writer.
            lane_model: folder of what the lane learned once, for methods that have it.
            on_progress: told of the statistics' progress.

        Raises:
            InvalidRequestError: a value is not valid for the method, or a lane model is missing.
            ModelNotFoundError, BaseModelMismatchError, ArtifactCorruptError: about the lane model.
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
        self._lane_model = _read_lane_model(self._method, self.config, lane_model)
        self._start_anew()

    @property
    def routes(self) -> bool:
        """Whether edits claim prompts one by one."""
        return self._lane.router is not None

    def claims(self, prompts: Sequence[str]) -> list[Claim]:
        """Which edit claims each prompt.

        Raises:
            PreconditionError: the method does not route.
        """
        view = self.view()
        if view is None:
            raise PreconditionError(f"method {self._method.name} does not route.")
        return view.claims(prompts)

    def view(self) -> RoutingView | None:
        """How prompts are routed now; None if the method does not route."""
        return None if self._lane.router is None else self._lane.router.view()

    def prompt_of(self, edit: str) -> str:
        """What an edit is about."""
        return self._accepted[edit].prompt

    @property
    def edits(self) -> list[Edit]:
        """All committed edits, in the order of their commits."""
        return [self._accepted[name] for commit in self.commits for name in commit.edits]

    def edit(self, records: Sequence[Record]) -> EditOutcome:
        """Fits and commits, in as many batches as the writer would make."""
        start, parts, num_rejected = perf_counter(), Counter[str](), 0
        accepted = [edit for run in requests_of(records) for edit in self._accept(run)]
        pending = {edit.name: edit for edit in accepted}
        alone = frozenset[str]()
        while pending:
            batch = self._next_batch(list(pending.values()), alone)
            outcome = fit_batch(self.model, self._lane, batch, self._statistics, self._limits)
            parts.update(outcome.seconds)
            if outcome.fitted is not None:
                self._commit(outcome.fitted)
            num_rejected += len(outcome.rejections)
            alone = (alone | outcome.retry_alone) - outcome.settled
            for name in outcome.settled:
                del pending[name]
        return EditOutcome(num_rejected, perf_counter() - start, parts)

    def _next_batch(self, pending: Sequence[Edit], alone: frozenset[str]) -> list[Edit]:
        name, ordering = self._configured.lane, self._method.ordering
        named = [(name, edit) for edit in pending]
        if ordering is None:
            return next_batch(named, name, self._limits.max_batch_edits, alone)
        digest = self._configured.config_digest
        return planned_batch(ordering, self.model, self.config, digest, window(named, name, alone))

    def _accept(self, records: Sequence[Record]) -> list[Edit]:
        """One request."""
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
        """Learns the lane anew from its edits in force, as the writer would; returns the seconds.

        Args:
            num_experts: among which edits are shared out; 0 leaves it to the method.

        Raises:
            PreconditionError: the method has no compaction.
        """
        compaction = self._method.compaction
        if compaction is None:
            raise PreconditionError(f"method {self._method.name} has no compaction.")
        start, edits = perf_counter(), self.edits
        artifact = compaction.fit(
            self.model,
            edits,
            self.config,
            self._lane.state,
            self._lane.memory,
            self._statistics,
            num_experts=num_experts,
            seed=seed_of(self._configured.config_digest, edits),
        )
        data = artifact.to_bytes()
        names = tuple(edit.name for edit in edits)
        commit = Commit(len(self.commits) + 1, names, Artifact.from_bytes(data))
        compaction.prepare(self._lane.state, commit)()
        self.commits[:] = [commit]
        self.state_bytes = len(data)
        return perf_counter() - start

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
        new_memory = self._method.new_memory
        memory = None if new_memory is None else new_memory(self.config)
        new_router = self._method.new_router
        router = None if new_router is None else new_router(state, FaissIndices())
        self._lane = Lane(self._configured, self._method, self.config, state, memory, router)
        if self._method.lane_model is not None and self._lane_model is not None:
            self._method.lane_model.prepare(state, self._lane_model)()
        self._requests = itertools.count(1)
        self._accepted: dict[str, Edit] = {}
        self.commits: list[Commit] = []
        self.state_bytes = 0

    def _plans(self, prompts: Sequence[str]) -> Sequence[RowPlan]:
        return self._lane.route(prompts)

    def _commit(self, fitted: Fitted) -> None:
        names = tuple(edit.name for edit in fitted.edits)
        seq = len(self.commits) + 1
        commit = Commit(seq, names, Artifact.from_bytes(fitted.artifact))
        self._lane.state.prepare_commit(commit)()
        if self._lane.memory is not None and fitted.memory is not None:
            self._lane.memory.add(names, Artifact.from_bytes(fitted.memory))
        self.commits.append(commit)
        self.state_bytes += len(fitted.artifact)


def check_lane_model(method: Method, config: LaneConfig, folder: Path | None) -> None:
    """Returns if a lane model is given to a lane that needs one, and to no method that has none.

    Raises:
        InvalidRequestError: otherwise.
    """
    support = method.lane_model
    if support is None and folder is not None:
        wrong = f"method {method.name} has no lane model; drop --lane-model."
    elif support is not None and folder is None and support.needed(config):
        wrong = f"method {method.name} needs a --lane-model."
    else:
        return
    raise InvalidRequestError(wrong, field="lane_model")


def _read_lane_model(
    method: Method, config: LaneConfig, folder: Path | None
) -> LaneModelCommit | None:
    check_lane_model(method, config, folder)
    if folder is None or method.lane_model is None or not method.lane_model.needed(config):
        return None
    data = method.lane_model.read(folder)
    digest = hashlib.sha256(data).hexdigest()
    return LaneModelCommit(0, Artifact.from_bytes(data), digest, (), None)
