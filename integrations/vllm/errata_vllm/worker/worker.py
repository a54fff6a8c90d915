"""vLLM's workers with edits: what Errata calls by `collective_rpc`, between two steps."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from vllm.v1.worker.cpu_worker import CPUWorker
from vllm.v1.worker.gpu_worker import Worker

from errata.editing.adaple.attribution import Directions
from errata_vllm.artifacts import Columns, Part, moved, unpack
from errata_vllm.worker.effects import FlatEffects
from errata_vllm.worker.listening import Ear
from errata_vllm.worker.modules import put_in
from errata_vllm.worker.rows import RowEffects, Span, StepPlan, step_plan
from errata_vllm.worker.sharding import shard
from errata_vllm.worker.structure import Structure
from errata_vllm.worker.weights import DownProjections
from errata_vllm.worker.wire import ARGUMENT


class EditedRank:
    """One rank's model with its effects, artifacts and edited weights.

    Reads the rows of a step from vLLM's V1 model runner, whose internals are no stable interface:
    `versions.py` lists the versions that this is tested with.
    """

    def __init__(self, runner: Any) -> None:
        """Takes over the runner's forward pass; without effects it is unchanged.

        Args:
            runner: the V1 model runner, with its model loaded and not yet compiled.

        Raises:
            ValueError: the model cannot be edited.
        """
        model = runner.get_model()
        self.structure = Structure.of(model, runner.device, runner.dtype)
        self.effects = FlatEffects(self.structure.num_ranks)
        put_in(self.structure, self.effects)
        self.weights = DownProjections(self.structure)
        self._runner = runner
        self._parts: dict[str, Part] = {}
        self._rows: dict[str, RowEffects | None] = {}  # requests that were seen
        self._ears: dict[str, tuple[Ear, ...]] = {}
        self._planned: tuple[tuple[Any, ...], StepPlan | None] = ((), None)  # of the last rows
        self._forward = runner._model_forward
        runner._model_forward = self._edited_forward

    def put(self, data: dict[str, bytes]) -> None:
        """Adds artifacts, by digest."""
        for digest, packed in data.items():
            part = shard(unpack(packed), self.structure)
            dtype = torch.float32 if isinstance(part, Columns) else self.structure.dtype
            self._parts[digest] = moved(part, partial(self._here, dtype))

    def _here(self, dtype: torch.dtype, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(self.structure.device, dtype)

    def drop(self, digests: list[str]) -> None:
        """Forgets artifacts that no request uses."""
        for digest in digests:
            self._parts.pop(digest, None)

    def hits(self, keys: list[str]) -> dict[str, list[list[int]]]:
        """The hits of requests' probes, which are forgotten."""
        active = {row.key for row in self._rows.values() if row is not None}
        return self.effects.listener.fetch(keys, active)

    def _edited_forward(self, *args: Any, **kwargs: Any) -> Any:
        plan = self._plan()
        self.effects.follow(plan)
        try:
            output = self._forward(*args, **kwargs)
            if plan is not None and not self.effects.reached:
                raise RuntimeError("vLLM's model ran without its edits; it was compiled elsewhere.")
        finally:
            self.effects.follow(None)
        return output

    def _plan(self) -> StepPlan | None:
        runner = self._runner
        ids: list[str] = runner.input_batch.req_ids
        for id_ in self._rows.keys() - runner.requests.keys():
            ended = self._rows.pop(id_)
            if ended is not None:
                self.effects.listener.end(ended.key)
        starts, computed = runner.query_start_loc.np, runner.input_batch.num_computed_tokens_cpu
        spans = [
            Span(effects, int(starts[index]), int(starts[index + 1]), int(computed[index]))
            for index, id_ in enumerate(ids)
            if (effects := self._effects(id_)) is not None and effects.acts_at(int(computed[index]))
        ]
        if not spans:
            return None
        if any(span.effects.reads_at(span.position) for span in spans):
            return step_plan(spans, self.structure.device, self.structure.dtype)
        # Behind their prompts, the same rows have the same plan, step after step.
        rows = tuple((span.effects, span.start, span.end) for span in spans)
        if rows != self._planned[0]:
            self._planned = rows, step_plan(spans, self.structure.device, self.structure.dtype)
        return self._planned[1]

    def _effects(self, id_: str) -> RowEffects | None:
        if id_ not in self._rows:
            params = self._runner.requests[id_].sampling_params
            wire = ((params and params.extra_args) or {}).get(ARGUMENT)
            self._rows[id_] = None if wire is None else self._read(wire)
        return self._rows[id_]

    def _read(self, wire: dict[str, Any]) -> RowEffects:
        prefix, mixture = wire.get("prefix"), wire.get("mixture")
        fields: dict[str, Any] = {}
        if prefix is not None:
            fields |= {"prefix": self._parts[prefix["of"]], "after": prefix["after"]}
        if mixture is not None:
            gates = torch.tensor(mixture["gates"])
            gates = gates.to(self.structure.device, self.structure.dtype)
            fields |= {"mixture": self._parts[mixture["of"]], "gates": gates}
        experts = tuple((self._parts[digest], w) for digest, w in wire.get("experts", ()))
        fields |= {"experts": experts}
        if (listen := wire.get("listen")) is not None:
            ears = self._ears_of(listen["probes"])
            fields |= {"ears": ears, "key": listen["key"], "prompt_end": listen["prompt_end"]}
        return RowEffects(**fields)

    def _ears_of(self, probes: Sequence[dict[str, Any]]) -> tuple[Ear, ...]:
        """The probes of a state; those of the newest two are kept for the next requests."""
        key = json.dumps(probes, sort_keys=True)
        if key not in self._ears:
            self._ears[key] = tuple(self._ear(n, probe) for n, probe in enumerate(probes))
            while len(self._ears) > 2:
                del self._ears[next(iter(self._ears))]
        return self._ears[key]

    def _ear(self, number: int, probe: dict[str, Any]) -> Ear:
        chunks = [self._parts[digest] for digest in probe["of"]]
        exact = torch.cat([chunk.values for chunk in chunks if isinstance(chunk, Columns)], dim=1)
        directions = Directions.of([""] * exact.shape[1], exact)  # the replica knows the names
        return Ear(number, probe["layer"], directions, probe["threshold"])


class EditedWorker:
    """Methods of a vLLM worker that loads a model to be edited."""

    model_runner: Any

    def load_model(self, *args: Any, **kwargs: Any) -> None:
        """Loads the model, and prepares it for edits before vLLM compiles it."""
        super().load_model(*args, **kwargs)  # type: ignore[misc]  # of vLLM's worker
        self._refusal = ""
        try:
            self._errata = EditedRank(self.model_runner)
        except ValueError as error:  # vLLM would report another error than this
            self._refusal = str(error)

    def errata_start(self) -> None:
        """Tells whether the model can be edited.

        Raises:
            ValueError: it cannot.
        """
        if self._refusal:
            raise ValueError(self._refusal)

    def errata_put(self, data: dict[str, bytes]) -> None:
        """Adds artifacts, by digest."""
        self._errata.put(data)

    def errata_drop(self, digests: list[str]) -> None:
        """Forgets artifacts that no request uses."""
        self._errata.drop(digests)

    def errata_hits(self, keys: list[str]) -> dict[str, list[list[int]]]:
        """The hits of requests' probes, which are forgotten."""
        return self._errata.hits(keys)

    def errata_stage(self, data: bytes) -> str:
        """Stages down projections; returns the digest of what was read."""
        return self._errata.weights.stage(data)

    def errata_commit(self) -> None:
        """Swaps the staged down projections in."""
        self._errata.weights.commit()

    def errata_enable(self, enabled: bool) -> None:
        """Whether effects act; comparisons turn them off."""
        self._errata.effects.enabled = enabled


class EditedCpuWorker(EditedWorker, CPUWorker):
    """On CPUs."""


class EditedGpuWorker(EditedWorker, Worker):
    """On GPUs."""
