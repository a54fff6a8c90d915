"""The lanes file: which methods this deployment edits with, and how they are configured.

[lanes.main]
method = "adaple"

[lanes.main.config]
variant = "memit"

[lanes.published]
method = "elder"
preset = "paper"

[lanes.facts]
method = "recipe"
model = "models/recipe"  # a folder that `errata train recipe` created
requires_approval = true  # new edits wait until an approver approves them

[lanes.tuned]
method = "elder"
adapters = ["adapters/a", "adapters/b"]  # PEFT LoRAs, one per expert

[lanes.tuned.config]
init = "adapters"
num_experts = 2
top_k = 1
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from errata.editing.lane.contract import LaneConfig
from errata.editing.registry import get_method
from errata.errors import InvalidRequestError, StartupError
from errata.log.entries import LaneConfigured
from errata.log.forms import LANE_NAME


class _LaneTable(BaseModel):
    model_config = ConfigDict(extra="forbid")
    method: str
    preset: str = ""
    model: Path | None = None
    adapters: tuple[Path, ...] = ()
    requires_approval: bool | None = None
    config: dict[str, Any] = {}


class _LanesFile(BaseModel):
    model_config = ConfigDict(extra="forbid")
    lanes: dict[str, _LaneTable]


@dataclass(frozen=True, slots=True)
class LaneSetup:
    """A lane as the lanes file configures it.

    Attributes:
        configured: the lane's configuration, as the log carries it.
        model: folder of its lane model; None keeps the one in the log.
        adapters: folders of PEFT adapters that the lane starts from.
        preset: values of its preset.
        stated: values that the file states.
        requires_approval: whether new edits wait for approval; None leaves it as it is in the log.
    """

    configured: LaneConfigured
    model: Path | None
    adapters: tuple[Path, ...] = ()
    preset: Mapping[str, object] = field(default_factory=dict)
    stated: Mapping[str, object] = field(default_factory=dict)
    requires_approval: bool | None = None

    def is_same_lane(self, known: LaneConfigured) -> bool:
        """Whether a lane of the log is this one, perhaps configured before some options existed."""
        own = self.configured
        if (known.lane, known.method, known.base_model_digest) != (
            own.lane,
            own.method,
            own.base_model_digest,
        ):
            return False
        method = get_method(own.method)
        try:
            found = method.config.model_validate_json(known.config_json)
        except ValidationError:
            return False
        if found == method.config.model_validate_json(own.config_json):
            return True
        # As earlier versions configured it: with their defaults for new lanes, or without the
        # options of its preset that the log does not list because they did not exist yet.
        if self.preset:
            listed = json.loads(known.config_json)
            preset = {key: value for key, value in self.preset.items() if key in listed}
            earlier = [{**preset, **self.stated}]
        else:
            earlier = method.earlier_values(self.stated)
        return any(_is(found, values) for values in earlier)


def _is(config: LaneConfig, values: Mapping[str, object]) -> bool:
    try:
        return config == type(config).model_validate(values)
    except ValidationError:
        return False


def read_lanes(
    path: Path | None, default_lane: str, base_model: str, default_method: str = "adaple"
) -> list[LaneSetup]:
    """The lanes of a file, or the default lane with a method's defaults if there is none.

    Args:
        path: TOML.
        default_lane: `lanes/{lane}`; must be among them.
        base_model: digest of the base model.
        default_method: method of the default lane without a file.

    Raises:
        StartupError: the file is missing or is not TOML, or the configuration of a lane is invalid.
    """
    default = {default_lane.removeprefix("lanes/"): _LaneTable(method=default_method)}
    tables = _read(path) if path else default
    if default_lane.removeprefix("lanes/") not in tables:
        raise StartupError(
            f"the default lane {default_lane} is not in {path}; add it, or set "
            "ERRATA_WRITER__DEFAULT_LANE to one of its lanes."
        )
    folder = path.parent if path else Path()
    return [
        LaneSetup(
            _configured(name, table, base_model),
            _model(name, table, folder),
            _adapters(name, table, folder),
            get_method(table.method).presets[table.preset] if table.preset else {},
            table.config,
            table.requires_approval,
        )
        for name, table in sorted(tables.items())
    ]


def _adapters(name: str, table: _LaneTable, folder: Path) -> tuple[Path, ...]:
    """The folders of the lane's adapters; paths are relative to the lanes file."""
    if table.adapters and not _config(table).needs_initial_files:
        raise StartupError(
            f'lane {name} names adapters but does not start from them; set `init = "adapters"` in '
            "its config, which ELDER lanes support."
        )
    return tuple(folder / path for path in table.adapters)


def _model(name: str, table: _LaneTable, folder: Path) -> Path | None:
    """The folder of the lane's model; the path is relative to the lanes file."""
    if table.model is None:
        return None
    if not get_method(table.method).capabilities.has_lane_models:
        raise StartupError(f"lane {name}: method {table.method} has no lane model; remove `model`.")
    if not _config(table).needs_lane_model:
        raise StartupError(f"lane {name}: its configuration uses no lane model; remove `model`.")
    return folder / table.model


def _config(table: _LaneTable) -> LaneConfig:
    method = get_method(table.method)
    return method.config.model_validate(method.values(table.preset, table.config))


def _read(path: Path) -> dict[str, _LaneTable]:
    try:
        with path.open("rb") as file:
            return _LanesFile.model_validate(tomllib.load(file)).lanes
    except OSError as error:
        raise StartupError(f"the lanes file {path} cannot be read: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise StartupError(f"the lanes file {path} is not valid TOML: {error}.") from error
    except ValidationError as error:
        raise StartupError(f"the lanes file {path}: {problems_in(error)}.") from error


def configure(name: str, method: str, values: Mapping[str, Any], base_model: str) -> LaneConfigured:
    """A lane as the log carries it.

    Args:
        name: without `lanes/`.
        method: of the lane.
        values: those that differ from the method's defaults.
        base_model: digest.

    Raises:
        InvalidRequestError: the method does not exist, or a value is not valid for it.
    """
    try:
        config = get_method(method).config.model_validate(dict(values))
    except ValidationError as error:
        raise InvalidRequestError(
            f"the configuration is not valid for {method}: {problems_in(error)}.", field="config"
        ) from error
    text = config.model_dump_json()
    digest = hashlib.sha256(text.encode()).hexdigest()
    return LaneConfigured(f"lanes/{name}", method, text, digest, base_model)


def _configured(name: str, table: _LaneTable, base_model: str) -> LaneConfigured:
    if not LANE_NAME.fullmatch(name):
        raise StartupError(
            f"the lane name {name!r} is not valid; use at most 63 characters of a-z, 0-9 and -, "
            "starting with a letter."
        )
    try:
        values = get_method(table.method).values(table.preset, table.config)
        return configure(name, table.method, values, base_model)
    except InvalidRequestError as error:
        raise StartupError(f"lane {name}: {error.message}") from error


def problems_in(error: ValidationError) -> str:
    """The validation errors with their keys, in one line."""
    return "; ".join(
        f"{'.'.join(str(part) for part in item['loc'])}: {item['msg']}" for item in error.errors()
    )
