"""Benchmark of an editing method: edits in order, in batches, in one process, over seeds."""

from __future__ import annotations

import math
import platform
import random
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from time import perf_counter
from typing import Any

import torch
import transformers

from errata.editing.causal_lm import CausalLM
from errata.editing.edit import EditBatch
from errata.editing.method import Commit, LaneConfig, Method, get_method
from errata.editing.weights import EditedWeights
from errata.errors import InvalidRequestError
from errata.evaluation.counterfact import Record, load_counterfact
from errata.evaluation.metrics import baseline, evaluate
from errata.evaluation.scoring import perplexity

# Two-sided 95 % quantiles of Student's t for 1 … 9 degrees of freedom; beyond, the normal one.
_T95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)

Figures = dict[str, float]


@dataclass(frozen=True, slots=True)
class BenchPlan:
    """What to run.

    Attributes:
        model: folder or hub id.
        data: CounterFact file.
        text: plain text for statistics, one paragraph a line.
        configs: name of a row in the table → values that differ from the method's defaults.
        cache_dir: for statistics.
        heldout: text for perplexity before and after; None leaves it out.
        method: name of the editing method.
        num_edits: how many edits the model carries in the end.
        batch_size: edits per fit.
        seeds: each chooses other records and seeds the fits.
        records: range of the data set to draw from, so that tuning and reporting stay apart.
        device: torch device.
    """

    model: str
    data: Path
    text: Path
    configs: Mapping[str, Mapping[str, Any]]
    cache_dir: Path
    heldout: Path | None = None
    method: str = "adaple"
    num_edits: int = 70
    batch_size: int = 10
    seeds: tuple[int, ...] = (0, 1, 2)
    records: tuple[int, int] = (0, sys.maxsize)
    device: str = "cpu"


def variant_configs(variants: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Rows of `BenchPlan.configs`: AdaPLE's closed forms, each with its tuned gain.

    Raises:
        InvalidRequestError: no such variant.
    """
    known: dict[str, dict[str, Any]] = {
        "memit": {"variant": "memit"},
        "printed": {"variant": "printed"},
        "eq3": {"variant": "eq3"},
        "erase": {"variant": "erase", "beta": 0.5},
        "memit-dr0.3": {"variant": "memit", "drop": 0.3},
        "memit-dr0.8": {"variant": "memit", "drop": 0.8},
    }
    unknown = [name for name in variants if name not in known]
    if unknown:
        raise InvalidRequestError(
            f"variant {unknown[0]!r} is unknown; choose from {', '.join(known)}.", field="variants"
        )
    return {name: known[name] for name in variants}


class _Text:
    """Statistics text of a benchmark (`errata.editing.method.Resources`)."""

    def __init__(self, path: Path, cache_dir: Path) -> None:
        self.cache_dir = cache_dir
        self._lines = read_lines(path)

    def text(self) -> Iterable[str]:
        return self._lines


def run(plan: BenchPlan, *, on_progress: Callable[[str], None] | None = None) -> dict[str, Any]:
    """Runs every configuration with every seed.

    Each run starts from the base model: its edits are reverted at its end, which is exact.

    Args:
        plan: what to run.
        on_progress: called with a line of text after each run.

    Returns:
        JSON-serialisable: `results` (per row: config, figures of every seed, mean and half-width
        of the 95 % interval), `environment`, `command`, `plan`. Seconds are wall clock per edit;
        statistics, computed once per base model, are not part of them.

    Raises:
        InvalidRequestError: a file, a configuration value or the number of records is unusable.
        ModelError: the model cannot be used.
    """
    method = get_method(plan.method)
    records = load_counterfact(plan.data)[slice(*plan.records)]
    if len(records) < plan.num_edits or plan.num_edits < 1 or plan.batch_size < 1:
        raise InvalidRequestError(
            f"{plan.num_edits} edits in batches of {plan.batch_size} were asked for; {plan.data} "
            f"has {len(records)} records in the range. Use at least 1 of each.",
            field="num_edits",
        )
    heldout = read_lines(plan.heldout) if plan.heldout else None
    resources = _Text(plan.text, plan.cache_dir)
    configs = {name: _config(method, name, values) for name, values in plan.configs.items()}
    model = CausalLM.load(plan.model, device=plan.device)
    before = None if heldout is None else perplexity(model, heldout)
    results: dict[str, Any] = {}
    for name, config in configs.items():
        statistics = method.prepare(model, config, resources)
        runs: list[Figures] = []
        for seed in plan.seeds:
            figures = _run(model, method, config, records, plan, statistics, seed, heldout)
            runs.append(figures if before is None else {**figures, "perplexity_before": before})
            if on_progress is not None:
                on_progress(f"{name}, seed {seed}: score {runs[-1]['score']:.3f}")
        results[name] = {
            "config": config.model_dump(mode="json"),
            "seeds": dict(zip(map(str, plan.seeds), runs, strict=True)),
            "mean": {key: mean(run[key] for run in runs) for key in runs[0]},
            "ci95": {key: half_width([run[key] for run in runs]) for key in runs[0]},
        }
    return {
        "plan": {
            "model": str(plan.model),
            "model_digest": model.digest,
            "data": str(plan.data),
            "num_edits": plan.num_edits,
            "batch_size": plan.batch_size,
            "seeds": list(plan.seeds),
            "records": [plan.records[0], plan.records[0] + len(records)],
            "method": plan.method,
        },
        "results": results,
        "environment": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "machine": platform.machine(),
            "threads": torch.get_num_threads(),
            "device": plan.device,
        },
        "command": " ".join(sys.argv),
    }


def _run(
    model: CausalLM,
    method: Method,
    config: LaneConfig,
    records: Sequence[Record],
    plan: BenchPlan,
    statistics: Any,
    seed: int,
    heldout: Sequence[str] | None,
) -> Figures:
    chosen = random.Random(seed).sample(list(records), plan.num_edits)
    before = baseline(model, chosen)
    figures: Figures = {}
    state = method.new_state(model, config, EditedWeights(model), "bench")
    memory = method.new_memory(config)
    names: list[str] = []
    seconds: dict[str, float] = {}
    start = perf_counter()
    for number in range(0, plan.num_edits, plan.batch_size):
        seq = number // plan.batch_size + 1
        part = chosen[number : number + plan.batch_size]
        edits = tuple(record.edit(f"edits/{seq}-{i}") for i, record in enumerate(part))
        batch = EditBatch(edits, seed=seed * 1_000_003 + seq)
        result = method.fit(model, batch, config, memory, statistics)
        batch_names = tuple(edit.name for edit in edits)
        state.prepare_commit(Commit(seq, batch_names, result.artifact))()
        if result.memory is not None:
            memory.add(batch_names, result.memory)
        names += batch_names
        for key, value in result.seconds.items():
            seconds[key] = seconds.get(key, 0.0) + value
    figures["seconds_per_edit"] = (perf_counter() - start) / plan.num_edits
    figures |= {f"{key}_seconds_per_edit": value / plan.num_edits for key, value in seconds.items()}
    figures |= evaluate(model, chosen, before).to_dict()
    if heldout is not None:
        figures["perplexity_after"] = perplexity(model, heldout)
    state.prepare_revert(names)()
    return figures


def half_width(values: Sequence[float]) -> float:
    """Half-width of the 95 % confidence interval of the mean (Student's t); 0 for one value."""
    if len(values) < 2:
        return 0.0
    freedom = len(values) - 1
    t = _T95[freedom - 1] if freedom <= len(_T95) else 1.96
    return t * stdev(values) / math.sqrt(len(values))


def read_lines(path: Path) -> list[str]:
    """The lines of a text file that are not blank.

    Raises:
        InvalidRequestError: the file cannot be read or has none.
    """
    try:
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequestError(
            f"{path} cannot be read as text: {error}.", field="text"
        ) from error
    if not lines:
        raise InvalidRequestError(f"{path} holds no text.", field="text")
    return lines


def _config(method: Method, name: str, values: Mapping[str, Any]) -> LaneConfig:
    try:
        return method.config.model_validate(dict(values))
    except ValueError as error:
        raise InvalidRequestError(
            f"configuration {name!r} is not valid for {method.name}: {error}", field="configs"
        ) from error
