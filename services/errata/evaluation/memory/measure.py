"""Measures processes that hold what a worker and a writer hold, each in a process of its own."""

from __future__ import annotations

import multiprocessing
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch

from errata.editing.edit import EditBatch
from errata.editing.effects.plan import BASE
from errata.editing.model.causal_lm import CausalLM
from errata.editing.registry import get_method
from errata.editing.retriever.start import new_lane_model
from errata.editing.retriever.training_config import TrainingConfig
from errata.engine.cache import KEPT_CAPACITY
from errata.engine.runner import Runner
from errata.engine.sampling import GREEDY
from errata.evaluation.memory import process
from errata.evaluation.memory.fill import Filling, filled_lane, new_edits
from errata.writer.resources import WriterResources

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Measured:
    """What is measured; plain values, because it crosses to other processes.

    Attributes:
        model: folder or hub id of the LLM.
        dtype: of its weights.
        method: of the lane.
        config: of the lane, as JSON.
        lane_model: folder of the lane model; None if the lane needs none.
        num_edits: N.
        batch: edits of a commit, and of the fit that is measured.
        text_tokens: T.
        rows: generations at once.
        max_length: longest sequence.
    """

    model: str
    dtype: str
    method: str
    config: str
    lane_model: Path | None
    num_edits: int
    batch: int
    text_tokens: int
    rows: int
    max_length: int

    def filling(self) -> Filling:
        """The lane's content."""
        method = get_method(self.method)
        config = method.config.model_validate_json(self.config)
        return Filling(
            method,
            config,
            self.lane_model,
            self.num_edits,
            self.batch,
            self.text_tokens,
        )


def in_new_process(work: Callable[..., T], *arguments: object) -> T:
    """The result of `work` in a process that does nothing else."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as executor:
        return executor.submit(work, *arguments).result()


def save_lane_model(model: str, dtype: str, folder: str) -> None:
    """Writes an untrained lane model of the default sizes for an LLM."""
    llm = CausalLM.load(model, dtype=dtype)
    new_lane_model(llm, None, TrainingConfig()).save(Path(folder))


def measure_worker(measured: Measured) -> dict[str, int]:
    """Bytes of the LLM, of the lane with its indices, and of keys and values."""
    torch.set_num_threads(1)
    steps = _Steps()
    model = CausalLM.load(measured.model, dtype=measured.dtype)
    steps.note("LLM")
    lane = filled_lane(model, measured.filling())
    view = lane.view()
    if view is not None:
        view.claims(["One two three of Subject 1 is"])
    attribution = lane.attribution()
    steps.note("lane")
    runner = Runner(model, measured.rows, measured.max_length)
    length = min(measured.max_length, KEPT_CAPACITY)
    runner.put(0, [1] * (length - 1), BASE, GREEDY)
    with torch.inference_mode():
        runner.prefill(0, [length - 1], None)
        runner.step(0, 1)
    steps.note("keys and values")
    del attribution
    return steps.found


def measure_writer(measured: Measured) -> dict[str, int]:
    """Bytes of a writer's lane, and of a fit at the highest."""
    torch.set_num_threads(1)
    steps = _Steps()
    model = CausalLM.load(measured.model, dtype=measured.dtype)
    steps.note("LLM")
    filling = measured.filling()
    with tempfile.TemporaryDirectory() as folder:
        lane = filled_lane(model, filling, WriterResources(None, Path(folder)))
    steps.note("lane")
    edits = new_edits(model, measured.batch, measured.text_tokens)
    before = process.resident_bytes()
    process.reset_highest()
    # A retry, because only it refines the prompts of a RECIPE lane.
    lane.fit(EditBatch(edits, seed=0, attempt=1))
    return {**steps.found, "fit": process.highest_bytes() - before}


class _Steps:
    """What each step adds to the memory of this process."""

    def __init__(self) -> None:
        self.found: dict[str, int] = {}
        self._before = process.resident_bytes()

    def note(self, name: str) -> None:
        now = process.resident_bytes()
        self.found[name], self._before = now - self._before, now
