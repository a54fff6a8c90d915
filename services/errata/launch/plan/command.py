"""Turns the options of `errata plan` into a plan."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from errata import demo
from errata.editing.lane.needs import EditLoad
from errata.editing.model.devices import has_fast_bf16
from errata.editing.model.shape import ModelShape
from errata.editing.registry import get_method
from errata.engine.limits import EngineLimits
from errata.errors import InvalidRequestError
from errata.launch.plan.plan import Plan, PlannedLane, make_plan
from errata.platform.settings import Settings
from errata.writer.lanes import read_lanes


@dataclass(frozen=True, slots=True)
class Options:
    """What `errata plan` was asked for.

    Attributes:
        edits: N, of every lane.
        method: of the only lane; None plans for the lanes of the settings.
        text_tokens: T, tokens of an edit's prompt with its target.
    """

    edits: int
    method: str | None = None
    text_tokens: int = 32


def plan_of(settings: Settings, options: Options) -> Plan:
    """Plans the deployment that the settings describe.

    Args:
        settings: with the LLM's name, of which only the configuration is read.
        options: of the command.

    Raises:
        InvalidRequestError: an option has no meaning, or a lane does not fit the model.
        StartupError: the lanes file is invalid.
        ModelNotFoundError, UnsupportedModelError: about the model's configuration.
    """
    _check(options)
    model = ModelShape.read(settings.model.path or demo.model_path(), settings.model.dtype)
    if options.text_tokens > model.max_positions:
        raise InvalidRequestError(
            f"{options.text_tokens} tokens per edit are more than the {model.max_positions} that "
            "the model reads; give fewer as --text-tokens.",
            field="text_tokens",
        )
    worker = settings.worker
    load = EditLoad(
        num_edits=options.edits,
        batch_edits=settings.writer.max_batch_edits,
        text_tokens=options.text_tokens,
        device=_device(settings.model.device),
        has_fast_bf16=_multiplies_in_bf16(settings.model.device),
        history=settings.retrieval.history,
        rows=worker.max_batch_size,
    )
    limits = EngineLimits(
        max_rows=worker.max_batch_size,
        max_context=worker.max_context,
        prefill_tokens=worker.prefill_tokens,
        weight_versions=worker.weight_versions,
    )
    return make_plan(
        model,
        lanes_of(settings, options.method),
        load,
        limits,
        replicas=worker.num_replicas,
        uses_retrieval=bool(worker.retrieval_address),
        kept_entries=_kept_entries(settings),
    )


def _kept_entries(settings: Settings) -> int | None:
    """What trims leave in Redis: the kept entries, and those since the newest snapshot."""
    interval = settings.writer.snapshot_interval
    if not settings.log.trim or not interval:
        return None
    return settings.log.trim_keep_entries + interval


def lanes_of(settings: Settings, method: str | None) -> list[PlannedLane]:
    """One lane with a method's defaults, or the lanes that the writer would configure.

    Raises:
        InvalidRequestError: no such method, or a lanes file is given besides it.
        StartupError: the lanes file is invalid.
    """
    writer = settings.writer
    if method is not None:
        if writer.lanes_file is not None:
            raise InvalidRequestError(
                "give --method or --lanes-file, not both; a lanes file names the methods itself.",
                field="method",
            )
        found = get_method(method)
        return [PlannedLane(writer.default_lane, found, found.config())]
    path = writer.lanes_file or (None if settings.model.path else demo.lanes_path())
    lanes = []
    for setup in read_lanes(path, writer.default_lane, "", writer.default_method):
        found = get_method(setup.configured.method)
        config = found.config.model_validate_json(setup.configured.config_json)
        lanes.append(PlannedLane(setup.configured.lane, found, config, setup.model))
    return lanes


def _check(options: Options) -> None:
    if options.edits < 0:
        raise InvalidRequestError(
            f"{options.edits} edits cannot be in force; give 0 or more as --edits.", field="edits"
        )
    if options.text_tokens < 5:
        raise InvalidRequestError(
            f"an edit of {options.text_tokens} tokens has no prompt before its target; give at "
            "least 5 as --text-tokens.",
            field="text_tokens",
        )


def _device(name: str) -> str:
    try:
        return torch.device(name).type
    except RuntimeError as error:
        raise InvalidRequestError(
            f"device {name!r} is no torch device; plan for cpu or cuda.", field="device"
        ) from error


def _multiplies_in_bf16(name: str) -> bool:
    """As `has_fast_bf16`, but a GPU need not be here; those in use multiply in bf16."""
    device = torch.device(name)
    return device.type != "cpu" or has_fast_bf16(device)
