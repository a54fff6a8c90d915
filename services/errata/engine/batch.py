"""The running batch: which generation has which row.

Rows are contiguous, in order of (weights version, still prefilling): rows under one set of weights
are one slice, and rows that are still reading their prompts are the last ones. The place of a row
that leaves is filled from the end of its group, and that place from the end of the next group.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable

import torch
from torch import Tensor

from errata.engine.job import Job
from errata.engine.output import Output
from errata.engine.row import Row, Weights
from errata.engine.runner import Runner
from errata.engine.sequence import GenerationRequest, GrowingText
from errata.engine.serving_state import Decision, PendingPlan, ServingState, initial_plan


class RunningBatch:
    """Rows from their admission to their last token."""

    def __init__(self, runner: Runner, num_rows: int, output: Output) -> None:
        """No row runs.

        Args:
            runner: makes the forward passes.
            num_rows: rows that can run at once.
            output: takes the tokens.
        """
        self.rows: list[Row] = []
        self._runner = runner
        self._max_rows = num_rows
        self._output = output

    @property
    def num_free(self) -> int:
        """Rows that can still be admitted."""
        return self._max_rows - len(self.rows)

    @property
    def is_prefilling(self) -> bool:
        """Whether a row has not read its whole prompt yet."""
        return bool(self.rows) and self.rows[-1].num_left > 0

    def admit(self, job: Job, state: ServingState, weights: Weights, decision: Decision) -> None:
        """Adds a row at the end.

        Args:
            job: with a generation request.
            state: the row is computed under it, from first to last token.
            weights: those of the state.
            decision: on the request, under that state.
        """
        request = job.request
        assert isinstance(request, GenerationRequest)
        index, plan = len(self.rows), initial_plan(decision)
        row = Row(
            job,
            request,
            state,
            weights,
            plan,
            GrowingText(self._runner.model.tokenizer, request.stop, request.drops_blank),
            num_left=len(request.prompt_ids) + plan.num_positions,
            pending=decision if isinstance(decision, PendingPlan) else None,
        )
        self.rows.append(row)
        self._runner.put(index, request.prompt_ids, plan, request.sampling)
        self._output.put(index, row)

    def prefill(self, budget: int) -> None:
        """Reads prompts of the rows that have not read them to the end.

        Args:
            budget: entries of one prompt that one pass may read; a longer one takes several.
        """
        first = next(index for index, row in enumerate(self.rows) if row.num_left)
        head, reading = self.rows[first], self.rows[first:]
        chunks = [row.num_left for row in reading]
        if self._runner.lengths[first] or head.num_left > budget:
            reading, chunks = [head], [min(head.num_left, budget)]  # a long prompt, in parts
        pending = {n: row.pending for n, row in enumerate(reading) if row.pending is not None}
        self._runner.model.use_down_weights(head.weights.tensors)
        done = self._runner.prefill(first, chunks, head.state.attribution, pending)
        for number, plan in done.plans.items():
            reading[number].plan, reading[number].pending = plan, None
        for row, chunk, names in zip(reading, chunks, done.edits, strict=True):
            row.num_left -= chunk
            row.edits = tuple(dict.fromkeys((*row.plan.edits, *row.edits, *names)))
        if not head.num_left:
            self._take(first, done.logits)

    def step(self) -> None:
        """Makes one token for every row that has read its prompt."""
        ready = [row for row in self.rows if not row.num_left]
        first = len(ready)
        # From the last slice to the first: a row that leaves moves only rows after it.
        for weights, group in itertools.groupby(reversed(ready), key=lambda row: row.weights):
            size = sum(1 for _ in group)
            first -= size
            self._runner.model.use_down_weights(weights.tensors)
            self._take(first, self._runner.step(first, size))

    @torch.inference_mode()
    def drop(self, rows: Iterable[Row]) -> None:
        """Removes rows and sends nothing to their callers."""
        for row in rows:
            self._leave(self.rows.index(row))

    def expired(self) -> list[Row]:
        """Rows that are cancelled or past their deadline."""
        now = time.monotonic()
        return [row for row in self.rows if row.job.cancelled or row.request.deadline < now]

    def _take(self, first: int, logits: Tensor) -> None:
        for index in self._output.take(self.rows, first, logits):
            self._leave(index)

    def _leave(self, index: int) -> None:
        self._runner.free(index)
        hole, last = index, len(self.rows) - 1
        group = self.rows[index].group
        while True:
            end = hole
            while end < last and self.rows[end + 1].group == group:
                end += 1
            if end != hole:
                self._move(end, hole)
            hole = end
            if hole == last:
                break
            group = self.rows[hole + 1].group
        self.rows.pop()

    def _move(self, source: int, target: int) -> None:
        self.rows[target] = self.rows[source]
        self._runner.move(source, target)
        self._output.move(source, target)
