"""Changes of the model, applied in order between two iterations."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from dataclasses import dataclass, field

import structlog

from errata.editing.model.causal_lm import CausalLM
from errata.engine.batch import RunningBatch
from errata.engine.contract import Swap
from errata.engine.job import ResultBuffer
from errata.engine.limits import EngineLimits
from errata.engine.refusals import outlived
from errata.engine.row import Weights
from errata.engine.scheduler import Scheduler
from errata.engine.serving_state import ServingState

_log = structlog.get_logger(__name__)


@dataclass(eq=False, slots=True)
class _Change:
    """A change that is waiting for its turn."""

    swap: Swap
    alters_weights: bool
    done: asyncio.Future[None]
    arrived: float = field(default_factory=time.monotonic)


class ChangeQueue:
    """The waiting changes, oldest first, and the state after those that were applied.

    Attributes:
        state: new requests are admitted under it.
        weights: the edited weights of that state.
    """

    def __init__(
        self,
        model: CausalLM,
        state: ServingState,
        batch: RunningBatch,
        scheduler: Scheduler,
        results: ResultBuffer,
        lock: threading.Condition,
        limits: EngineLimits,
    ) -> None:
        """No change is waiting.

        Args:
            model: as `state` describes it.
            state: the first serving state.
            batch: its rows read the weights.
            scheduler: takes back the requests of rows whose weights are replaced.
            results: takes the errors of streams that cannot start again.
            lock: guards the queue; notified when a change arrives.
            limits: of weight versions, and of the time that a change waits for one.
        """
        self.state = state
        self.weights = Weights(0, model.down_weights())
        self._model = model
        self._batch = batch
        self._scheduler = scheduler
        self._results = results
        self._lock = lock
        self._limits = limits
        self._waiting: deque[_Change] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, swap: Swap, *, alters_weights: bool) -> asyncio.Future[None]:
        """Appends a change; the future, of the running event loop, is done when it is applied."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        with self._lock:
            self._waiting.append(_Change(swap, alters_weights, done))
            self._lock.notify()
        return done

    def apply_due(self) -> bool:
        """Applies the changes that are due; False if new requests must wait for another one."""
        while self._waiting:
            change = self._waiting[0]
            if (
                change.alters_weights
                and self._num_versions_in_use() >= self._limits.weight_versions
            ):
                if time.monotonic() - change.arrived < self._limits.max_drain_seconds:
                    return self._limits.weight_versions > 1
                self._retract_oldest()
            with self._lock:
                self._waiting.popleft()
            self._apply(change)
        return True

    def cancel_all(self) -> None:
        """Cancels the futures of the waiting changes."""
        for change in self._waiting:
            change.done.get_loop().call_soon_threadsafe(change.done.cancel)

    def _num_versions_in_use(self) -> int:
        """Weight versions that rows read; the current one counts only if a row reads it."""
        return len({row.weights.version for row in self._batch.rows})

    def _apply(self, change: _Change) -> None:
        self._model.use_down_weights(self.weights.tensors)
        try:
            state = change.swap()
        except Exception as error:  # noqa: BLE001 raised again in the waiting coroutine
            _resolve(change, error)
            return
        if change.alters_weights:
            self.weights = Weights(self.weights.version + 1, self._model.down_weights())
        self.state = state
        _resolve(change, None)

    def _retract_oldest(self) -> None:
        """Restarts requests under the oldest weights; streams that have sent output fail."""
        oldest = min(row.weights.version for row in self._batch.rows)
        rows = [row for row in self._batch.rows if row.weights.version == oldest]
        _log.warning("rows outlived their weights", num_rows=len(rows))
        self._batch.drop(rows)
        retried = [row.job for row in rows if not row.job.has_output]
        for row in rows:
            if row.job.has_output:
                self._results.put(row.job, outlived(self._limits.max_drain_seconds))
        self._scheduler.retry(retried)


def _resolve(change: _Change, error: Exception | None) -> None:
    """Ends the coroutine's wait, in its own event loop."""

    def resolve() -> None:
        if change.done.cancelled():
            return
        if error is None:
            change.done.set_result(None)
        else:
            change.done.set_exception(error)

    change.done.get_loop().call_soon_threadsafe(resolve)
