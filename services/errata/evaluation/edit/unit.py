"""One run: ask, edit batch by batch, ask after each batch, ask again after the last."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from time import perf_counter, process_time
from typing import Any

from errata.evaluation.asking import Asking
from errata.evaluation.data.record import Record
from errata.evaluation.edit.auxiliary import AuxiliaryMetrics
from errata.evaluation.edit.claims import RecordClaims, claim_figures, claims_of, failures
from errata.evaluation.edit.confidence import half_width
from errata.evaluation.edit.disputed import undisputed
from errata.evaluation.edit.exposure import Exposure, grouped
from errata.evaluation.edit.inspections import INSPECTIONS, FinishedRun
from errata.evaluation.edit.suites.point import Point
from errata.evaluation.edit.summary import nested
from errata.evaluation.edit.users import Columns, user_figures
from errata.evaluation.judge import SHARES, Answers, Measures, ask, measures_of, shares
from errata.evaluation.metrics.tokens import exact_match
from errata.evaluation.systems import System
from errata.evaluation.systems.lane import LaneSystem
from errata.evaluation.systems.local import LocalModel


@dataclass(frozen=True, slots=True)
class Judging:
    """How a run's records are judged.

    Attributes:
        asking: how to ask; whole answers are generated before the first edit and after the last.
        auxiliary: what to measure in addition to the records.
        exposure: what the lane model has seen of the records' questions.
        check: whether edits must pass the writer's checks.
        whole: the data set, for second facts.
    """

    asking: Asking
    auxiliary: AuxiliaryMetrics
    exposure: Exposure
    check: bool
    whole: Sequence[Record]


def run_unit(
    system: System,
    records: Sequence[Record],
    point: Point,
    judging: Judging,
    on_edited: Callable[[int], None],
) -> dict[str, Any]:
    """Runs one point with one seed's records; none of its edits is active afterwards.

    Args:
        system: without edits of this run.
        records: `point.num_records` of them.
        point: what to run.
        judging: how to judge the records.
        on_edited: called with every batch's size.

    Returns:
        JSON: `pre`, `immediate` and `final` figures, `spread` (half-widths of 95 % intervals over
        records), `records` (each record's shares, for paired comparisons), `batches`,
        `checkpoints`, `edit_seconds` and their `parts`, `edit_cpu_seconds` (of all threads of this
        process; None for a cluster, whose processes are others), `ask_seconds`,
        `num_rejected`, `state_bytes`, `fitted` (figures and `state_bytes` before a compaction, if
        there is one), `failures` of systems that route, and the results of the point's inspections
        of a lane in this process.
    """
    try:
        return _UnitRun(system, records, point, judging, on_edited).run()
    finally:
        system.reset()


class _UnitRun:
    def __init__(
        self,
        system: System,
        records: Sequence[Record],
        point: Point,
        judging: Judging,
        on_edited: Callable[[int], None],
    ) -> None:
        self._system, self._records, self._point = system, records, point
        self._judging, self._on_edited, self._asking = judging, on_edited, judging.asking
        self._rejected: set[str] = set()
        self._before: list[Answers] = []
        self._immediate: list[Answers] = []
        self._now: list[Answers] = []
        self._batches: list[dict[str, Any]] = []
        self._checkpoints: list[dict[str, Any]] = []
        self._parts: defaultdict[str, float] = defaultdict(float)
        self._fitted: dict[str, Any] = {}
        self._ask_seconds = self._edit_cpu_seconds = 0.0

    def run(self) -> dict[str, Any]:
        records, point = self._records, self._point
        self._before = self._ask(records, self._asking.num_generated)
        last = records[-point.edits :]
        pre = self._figures(0, self._before) | self._measure_auxiliary(last)
        more: dict[str, Any] = {}
        for start in range(0, len(records), point.edits):
            self._edit_all(start)
            self._compact(start)
            self._now += self._ask_all(start)
            if start + point.edits == len(records):
                claims = claims_of(self._system, last)
                answers = self._answers_to(last)
                groups = grouped(self._judging.exposure, last, *answers, claims)
                single = undisputed(last, *answers)
                final = (
                    self._figures(0, self._now)
                    | self._measure_auxiliary(last)
                    | claim_figures(claims, last)
                    | groups.means
                    | single.means
                    | self._served()
                )
                more = self._state(claims)
            self._system.reset()
        users = self._users()
        for batch in self._batches:
            batch["final"] = self._figures(batch["start"], self._now, batch["size"])
        return {
            "pre": pre,
            "immediate": self._figures(0, self._immediate),
            "final": final | {name: fmean(values) for name, values in users.items()},
            "spread": self._spread()
            | groups.half_widths
            | single.half_widths
            | {name: half_width(values) for name, values in users.items()},
            "records": self._by_record(),
            "batches": self._batches if point.repeats == 1 else [],
            "checkpoints": self._checkpoints,
            "edit_seconds": sum(batch["seconds"] for batch in self._batches),
            "edit_cpu_seconds": (
                self._edit_cpu_seconds if isinstance(self._system, LocalModel) else None
            ),
            "parts": dict(self._parts),
            "ask_seconds": self._ask_seconds,
            "num_rejected": sum(batch["num_rejected"] for batch in self._batches),
            **self._fitted,
            **more,
        }

    def _edit_all(self, start: int) -> None:
        """Edits one chunk of records, starting from the unedited model."""
        point, end = self._point, start + self._point.edits
        for first in range(start, end, point.batch):
            batch = self._records[first : min(first + point.batch, end)]
            begun = process_time()
            outcome = self._system.edit(batch)
            self._edit_cpu_seconds += process_time() - begun
            self._rejected.update(outcome.rejected)
            self._immediate += self._ask(batch)
            for name, seconds in outcome.parts.items():
                self._parts[name] += seconds
            self._batches.append(
                {
                    "start": first,
                    "size": len(batch),
                    "seconds": outcome.seconds,
                    "num_rejected": outcome.num_rejected,
                    "immediate": self._figures(first, self._immediate, len(batch)),
                }
            )
            if first + len(batch) in point.checkpoints:
                self._check(first + len(batch))
            self._on_edited(len(batch))

    def _compact(self, start: int) -> None:
        number, system = self._point.compact, self._system
        if number is None or not isinstance(system, LaneSystem):
            return
        answers = self._now + self._ask_all(start)
        figures = nested(self._figures(0, answers))
        self._fitted = {"fitted": {**figures, "state_bytes": system.state_bytes}}
        self._parts["compaction"] += system.compact(number)

    def _ask_all(self, first: int) -> list[Answers]:
        """Asks about all records of a chunk."""
        num_generated = max(0, self._asking.num_generated - first)
        return self._ask(self._records[first : first + self._point.edits], num_generated)

    def _ask(self, records: Sequence[Record], num_generated: int = 0) -> list[Answers]:
        start = perf_counter()
        answers = ask(self._system, records, replace(self._asking, num_generated=num_generated))
        self._ask_seconds += perf_counter() - start
        return answers

    def _measure_auxiliary(self, records: Sequence[Record]) -> Measures:
        start = perf_counter()
        figures = self._judging.auxiliary.measure(self._system, records)
        self._ask_seconds += perf_counter() - start
        return figures

    def _check(self, num_edits: int) -> None:
        records = self._records[:num_edits]
        answers = self._ask(records)
        claims = claim_figures(claims_of(self._system, records), records)
        self._checkpoints.append(
            {
                "edits": num_edits,
                "all": self._figures(0, answers) | claims,
                "first": self._figures(0, answers, self._point.checkpoints[0]),
            }
        )

    def _figures(self, start: int, answers: Sequence[Answers], size: int | None = None) -> Measures:
        """Figures of records from `start` on; `answers` starts with record 0."""
        part = slice(start, None if size is None else start + size)
        now = answers[part]
        records, before = self._records[part], self._before[part]
        return measures_of(records[: len(now)], before[: len(now)], now)

    def _answers_to(self, last: Sequence[Record]) -> tuple[list[Answers], list[Answers]]:
        """Answers to the last records, before the first edit and now."""
        return self._before[-len(last) :], self._now[-len(last) :]

    def _served(self) -> Measures:
        """What the product does with its checks on: the share accepted, and accepted and exact."""
        if not self._judging.check:
            return {}
        rows = zip(self._records, self._now, strict=True)
        held = [r.case_id not in self._rejected and exact_match(now.new) == 1.0 for r, now in rows]
        accepted = [record.case_id not in self._rejected for record in self._records]
        return {"accepted": fmean(accepted), "served": fmean(held)}

    def _users(self) -> Columns:
        """Figures of what users need, of a point that asks for them."""
        if not self._point.users:
            return {}
        records = self._records[-self._point.edits :]
        found = user_figures(self._system, records, self._judging.whole, self._point.batch)
        number = float(len(found.get("users.ripple", ())))
        return {**found, "users.ripple_questions": [number]}

    def _by_record(self) -> dict[str, Any]:
        """Each record's shares, by columns."""
        rows = [shares(*row) for row in zip(self._records, self._before, self._now, strict=True)]
        names = dict.fromkeys(name for row in rows for name in row)
        return {
            "ids": [record.case_id for record in self._records],
            "figures": {
                name: [None if (x := row.get(name)) is None else round(x, 4) for row in rows]
                for name in names
            },
        }

    def _spread(self) -> dict[str, float | None]:
        rows = [shares(*row) for row in zip(self._records, self._before, self._now, strict=True)]
        names = dict.fromkeys((*SHARES, *(name for row in rows for name in row)))
        return {name: half_width([row[name] for row in rows if name in row]) for name in names}

    def _state(self, claims: Sequence[RecordClaims]) -> dict[str, Any]:
        """Measurements of the system itself, while the last edits are active."""
        system = self._system
        found: dict[str, Any] = {"state_bytes": system.state_bytes}
        if not isinstance(system, LaneSystem):
            return found
        edits = self._point.edits
        last = self._records[-edits:], *self._answers_to(self._records[-edits:])
        if claims:
            found["failures"] = failures(*last, claims)
        shares_of = {row[0].prompt: shares(*row) for row in zip(*last, strict=True)}
        run = FinishedRun(system, self._records, shares_of)
        for name in self._point.inspections:
            inspection = INSPECTIONS[name]
            if (value := inspection.measure(run)) is not None:
                found[inspection.key] = value
        return found
