"""Opens the system under test for a method's name."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from errata.editing.lane.contract import LaneConfig, Progress, Resources
from errata.editing.model.causal_lm import CausalLM
from errata.editing.registry import get_method, methods
from errata.editing.retriever.installed_gate import installed_gate
from errata.editing.retriever.lane_model import read_bytes
from errata.errors import InvalidRequestError, PreconditionError
from errata.evaluation.baselines import BASELINES, LANE_VARIANTS, LaneVariant
from errata.evaluation.edit.plan import Plan
from errata.evaluation.edit.suites import points_of
from errata.evaluation.edit.suites.point import Point
from errata.evaluation.edit.text import OwnText
from errata.evaluation.systems import System
from errata.evaluation.systems.cluster import ClusterSystem
from errata.evaluation.systems.lane import LaneSystem, check_lane_model
from errata.evaluation.systems.recipe_variants import LeakySystem, WordsSystem
from errata.platform.limits import ITEMS, MAX_EDIT_CHARS
from errata.platform.settings import WriterSettings
from errata.writer.lanes import problems_in
from errata.writer.resources import WriterResources

_LANE_SYSTEMS: Mapping[str, type[LaneSystem]] = {
    "lane": LaneSystem,
    "words": WordsSystem,
    "leak": LeakySystem,
}


class SystemFactory:
    """Opens the systems of a plan's runs: on one model in this process, or on one cluster."""

    def __init__(
        self, plan: Plan, on_statistics: Progress | None = None, on_text: Progress | None = None
    ) -> None:
        """Checks the method; loads nothing yet.

        Args:
            plan: to run.
            on_statistics: called with the progress of statistics.
            on_text: called with the progress of the text that the model writes for them.

        Raises:
            InvalidRequestError: no such method, or a baseline with a cluster.
        """
        self._plan, self._on_statistics, self._on_text = plan, on_statistics, on_text
        self._cleanup = ExitStack()
        self._model: CausalLM | None = None
        self._system: tuple[str, System] | None = None
        variant = LANE_VARIANTS.get(plan.method, LaneVariant(plan.method, {}))
        self._lane_method, self._preset = variant.method, variant.values
        known = [*sorted(methods()), *LANE_VARIANTS, *BASELINES]
        if plan.method not in known:
            raise InvalidRequestError(
                f"no method is called {plan.method!r}; choose one of {', '.join(known)}.",
                field="method",
            )
        if plan.target and plan.method not in methods():
            raise InvalidRequestError(
                f"{plan.method} is a baseline, which clusters do not offer; run it in process.",
                field="target",
            )
        if plan.method in BASELINES and plan.preset:
            raise InvalidRequestError(
                f"{plan.method} has no presets; drop --preset.", field="preset"
            )
        if plan.method in BASELINES and plan.lane_model is not None:
            raise InvalidRequestError(
                f"{plan.method} has no lane model; drop --lane-model.", field="lane_model"
            )

    def close(self) -> None:
        """Closes connections."""
        self._cleanup.close()

    def config(self, varied: Mapping[str, Any]) -> LaneConfig:
        """The whole configuration of a point.

        Raises:
            InvalidRequestError: a value is not valid for the method; the message names it.
        """
        plan = self._plan
        values = {**self._preset, **plan.values, **varied}
        try:
            if plan.method in BASELINES:
                return BASELINES[plan.method].config.model_validate(values)
            method = get_method(self._lane_method)
            return method.config.model_validate(method.values(plan.preset, values))
        except ValidationError as error:
            raise InvalidRequestError(
                f"the configuration is not valid for {plan.method}: {problems_in(error)}.",
                field="config",
            ) from error

    def check(self, point: Point) -> None:
        """Finds errors in a point before the model is loaded.

        Raises:
            InvalidRequestError: as `config`, or a lane model is missing or not applicable.
        """
        config = self.config(point.varied)
        if self._plan.method not in BASELINES and not self._plan.target:
            check_lane_model(get_method(self._lane_method), config, self._plan.lane_model)

    def describe(self, point: Point) -> dict[str, Any]:
        """The model's digest and the effective configuration; a cluster's own for a cluster."""
        if self._plan.target:
            system = self.open(point)
            if isinstance(system, ClusterSystem):
                config = dict(json.loads(system.config_json))
                return {"model": system.model_digest, "config": config}
        config = self.config(point.varied).model_dump(mode="json")
        found = {"model": self._local_model().digest, "config": config}
        folder = self.lane_model(point)
        if folder is not None:
            found["lane_model"] = self._lane_model_digest(folder)
        return found

    def lane_model(self, point: Point) -> Path | None:
        """The folder of a point's lane model; None without one."""
        plan = self._plan
        if plan.lane_model is not None:
            return plan.lane_model / point.lane_model
        is_own_lane = plan.method not in BASELINES and not plan.target
        return installed_gate() if is_own_lane and self.config(point.varied).takes_gate else None

    def _lane_model_digest(self, folder: Path) -> str:
        if not get_method(self._lane_method).capabilities.has_lane_models:
            return ""
        return hashlib.sha256(read_bytes(folder)).hexdigest()

    def open(self, point: Point) -> System:
        """Opens the system of a point, without any edit of this plan.

        Raises:
            PreconditionError: the cluster has another configuration or another model.
            InvalidRequestError: questions in conversations to a model without a chat template.
        """
        config = self.config(point.varied)
        key = f"{config.model_dump_json()}|{point.lane_model}|{point.served}"
        if self._system is None or self._system[0] != key:
            self._system = (
                key,
                (
                    self._open_cluster(config, point)
                    if self._plan.target
                    else self._open_local(config, point)
                ),
            )
        return self._system[1]

    def _open_cluster(self, config: LaneConfig, point: Point) -> System:
        plan = self._plan
        if point.varied or point.lane_model or point.served != "lane":
            raise PreconditionError(
                f"suite {plan.suite} changes the lane's configuration, which is fixed in a running "
                "cluster; run it in process."
            )
        expected = config.model_dump_json() if plan.values else None
        system = ClusterSystem(plan.target, plan.method, plan.lane, expected)
        self._cleanup.callback(system.close)
        if plan.asking.in_chat:
            self._check_form(f"the model of {plan.target}", system.has_chat_template)
        if plan.model:
            wanted = CausalLM.load(plan.model).digest
            if wanted != system.model_digest:
                raise PreconditionError(
                    f"{plan.target} does not run {plan.model}: its model's digest is "
                    f"{system.model_digest[:12]}…, not {wanted[:12]}…."
                )
        return system

    def _open_local(self, config: LaneConfig, point: Point) -> System:
        plan = self._plan
        model = self._local_model()
        if plan.method in BASELINES:
            return BASELINES[plan.method].make(model, config)
        return _LANE_SYSTEMS[point.served](
            model,
            self._lane_method,
            config.model_dump(mode="json"),
            self._resources(model),
            self._limits(model),
            lane_model=self.lane_model(point),
            on_progress=self._on_statistics,
        )

    def _local_model(self) -> CausalLM:
        if self._model is None:
            self._model = CausalLM.load(self._plan.model, device=self._plan.device)
            self._check_form(self._plan.model, self._model.has_chat_template)
        return self._model

    def _check_form(self, model: str, has_chat_template: bool) -> None:
        if self._plan.asking.in_chat and not has_chat_template:
            raise InvalidRequestError(
                f"{model} has no chat template, which --form {self._plan.asking.form} needs; give "
                "a chat model, or --form text.",
                field="form",
            )

    def _resources(self, model: CausalLM) -> Resources:
        if self._plan.text is None:
            return OwnText(model, self._plan.cache_dir, on_progress=self._on_text)
        return WriterResources(self._plan.text, self._plan.cache_dir)

    def _limits(self, model: CausalLM) -> WriterSettings:
        """The writer's limits, as wide as its settings allow."""
        settings: dict[str, Any] = {
            "max_edits_per_request": ITEMS["SubmitEditsRequest.edits"],
            "max_prompt_chars": MAX_EDIT_CHARS,
            "max_prompt_tokens": model.max_positions,
            "max_target_tokens": model.max_positions,
            "max_batch_edits": max(point.batch for point in points_of(self._plan)),
        }
        if not self._plan.check:
            settings |= {"min_reliability": 0.0, "min_locality": 0.0}
        return WriterSettings(**settings)
