"""All runs of a plan: finished ones are read back, the others are run."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress, TaskID

from errata.errors import InvalidRequestError
from errata.evaluation.data import load_records
from errata.evaluation.data.examples import with_rephrasings
from errata.evaluation.data.fields import read_paragraphs
from errata.evaluation.data.record import Record
from errata.evaluation.data.split import Split
from errata.evaluation.edit.auxiliary import AuxiliaryMetrics
from errata.evaluation.edit.exposure import Exposure, described, frames_in
from errata.evaluation.edit.plan import Plan
from errata.evaluation.edit.suites import Point, points_of
from errata.evaluation.edit.summary import Unit, summary
from errata.evaluation.edit.system_factory import SystemFactory
from errata.evaluation.edit.unit import Judging, run_unit
from errata.evaluation.report import code_version, file_digest, write
from errata.launch.progress import bars


def run(plan: Plan, console: Console | None = None) -> dict[str, Any]:
    """Runs a plan, or its remaining runs, and returns figures over all runs.

    Each finished run is stored in `out/runs` under the digest of everything that it depends on,
    including the code's commit.

    Args:
        plan: what to run.
        console: shows progress and the estimated remaining time; None shows nothing.

    Returns:
        JSON under the names that other tools read (`summary`).

    Raises:
        InvalidRequestError: a file, a configuration value or the number of records is unusable.
        PreconditionError: the cluster does not have what the plan asks for.
        ModelError: the model cannot be used.
    """
    points = points_of(plan)
    with bars(console) as progress:
        text, statistics = _Preparation(progress, "text"), _Preparation(progress, "statistics")
        with closing(SystemFactory(plan, statistics, text)) as factory:
            # Errors in the plan are found before the model is loaded.
            for point in points:
                factory.check(point)
            whole = load_records(plan.dataset, plan.data)
            records = with_rephrasings(whole, plan.rephrasings, plan.seed)[slice(*plan.records)]
            for point in points:
                _check_size(plan, point, len(records))
            if plan.text is not None:
                read_paragraphs(plan.text)
            auxiliary = AuxiliaryMetrics.of(plan.auxiliary)
            exposures = _Exposures(plan, factory, whole)
            facts = [
                {**factory.describe(point), "exposure": described(exposures.of(point), plan.split)}
                for point in points
            ]
            runs = _Runs(plan, factory, records, auxiliary, progress, points, exposures, whole)
            found = [
                [runs.run_or_read(point, fact, seed) for seed in plan.seeds]
                for point, fact in zip(points, facts, strict=True)
            ]
    return summary(plan, points, facts, found, num_records=len(whole))


class _Preparation:
    """A bar that exists while something is prepared for the edits."""

    def __init__(self, progress: Progress, name: str) -> None:
        self._progress, self._name = progress, name
        self._task: TaskID | None = None

    def __call__(self, done: int, total: int) -> None:
        if self._task is None:
            self._task = self._progress.add_task(self._name, total=total)
        self._progress.update(self._task, completed=done, total=total)
        if done >= total:
            self._progress.remove_task(self._task)
            self._task = None


class _Exposures:
    """What each lane model has seen of the data set's questions."""

    def __init__(self, plan: Plan, factory: SystemFactory, records: Sequence[Record]) -> None:
        self._factory, self._records = factory, records
        self._split = None if plan.split is None else Split.read(plan.split)
        self._known: dict[Path | None, Exposure] = {}

    def of(self, point: Point) -> Exposure:
        folder = self._factory.lane_model(point)
        if folder not in self._known:
            self._known[folder] = Exposure(self._records, frames_in(folder), self._split)
        return self._known[folder]


class _Runs:
    def __init__(
        self,
        plan: Plan,
        factory: SystemFactory,
        records: Sequence[Record],
        auxiliary: AuxiliaryMetrics,
        progress: Progress,
        points: Sequence[Point],
        exposures: _Exposures,
        whole: Sequence[Record],
    ) -> None:
        self._plan, self._factory, self._records, self._auxiliary = (
            plan,
            factory,
            records,
            auxiliary,
        )
        self._progress, self._exposures, self._whole = progress, exposures, whole
        data = plan.auxiliary
        files = [
            *(plan.data, data.heldout, *data.retention, data.references, plan.text, plan.split)
        ]
        self._inputs = [None if path is None else file_digest(path) for path in files]
        self._commit = code_version()
        total = sum(point.num_records for point in points) * plan.num_seeds
        self._task: TaskID = progress.add_task("edits", total=total)

    def run_or_read(self, point: Point, fact: Mapping[str, Any], seed: int) -> Unit:
        """One run; `fact` is the model's digest and the effective configuration."""
        self._progress.update(self._task, description=f"{point.label}, seed {seed}")
        folder, name = self._plan.out / "runs", f"{self._key(point, fact, seed)}.json"
        if (folder / name).is_file():
            self._progress.advance(self._task, point.num_records)
            return dict(json.loads((folder / name).read_text(encoding="utf-8")))
        chosen = random.Random(seed).sample(self._records, point.num_records)
        exposure = self._exposures.of(point)
        judging = Judging(
            self._plan.asking, self._auxiliary, exposure, self._plan.check, self._whole
        )
        unit = run_unit(
            self._factory.open(point),
            chosen,
            point,
            judging,
            lambda size: self._progress.advance(self._task, size),
        )
        unit = {"seed": seed, **unit}
        write(unit, folder, name)
        return unit

    def _key(self, point: Point, fact: Mapping[str, Any], seed: int) -> str:
        """Digest of everything that a run's figures depend on."""
        plan = self._plan
        everything = {
            "commit": self._commit,
            "inputs": self._inputs,
            "method": plan.method,
            "dataset": plan.dataset,
            "records": plan.records,
            "target": plan.target,
            "lane": plan.lane,
            "point": asdict(point),
            "fact": fact,
            "seed": seed,
            "asking": asdict(plan.asking),
            "num_texts": plan.auxiliary.num_texts,
            "rephrasings": [plan.rephrasings, plan.seed],
            "check": plan.check,
            "device": plan.device,
        }
        text = json.dumps(everything, sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def _check_size(plan: Plan, point: Point, num_records: int) -> None:
    if point.num_records > num_records:
        raise InvalidRequestError(
            f"{point.num_records:,} records are needed; {plan.data} has {num_records:,} records "
            "in its range. Use fewer edits or a wider range.",
            field="edits",
        )
