"""The plan of `errata bench edit`, and parsers for its options."""

from __future__ import annotations

import json
import sys
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from errata.errors import InvalidRequestError
from errata.evaluation.asking import Asking
from errata.platform.settings import load_settings


def default_cache_dir() -> Path:
    """The folder in which the services of this machine keep statistics.

    Raises:
        StartupError: a setting is invalid.
    """
    return load_settings().statistics_dir


@dataclass(frozen=True, slots=True)
class AuxiliaryData:
    """What to measure in addition to the records.

    Attributes:
        heldout: plain text, one paragraph per line, for perplexity.
        retention: files of questions about general ability.
        references: texts about targets, for consistency.
        num_texts: records whose generated texts are judged for fluency and consistency.
    """

    heldout: Path | None = None
    retention: tuple[Path, ...] = ()
    references: Path | None = None
    num_texts: int = 0


@dataclass(frozen=True, slots=True)
class Plan:
    """One benchmark run.

    Attributes:
        method: a lane's method or a baseline.
        dataset: format of `data`.
        data: file of records.
        out: folder for results; runs that are finished there are not repeated.
        model: folder or hub id; can be empty with `target`.
        edits: number that the model carries at the end.
        batch: edits that are submitted together.
        seed: the first seed; each seed selects other records.
        num_seeds: number of consecutive seeds, from `seed` on.
        suite: a name in `suites.SUITES`.
        preset: of the method; empty for its defaults.
        values: of the configuration, where they differ from preset and defaults.
        lane_model: folder of the trained lane model, for methods that have one.
        points: numbers of edits of the suite `scaling`.
        vary: configuration key → values, the grid of the suite `ablation`.
        target: `host:port` of a running cluster; empty to run in this process.
        lane: of the cluster; its default lane if empty.
        records: range of the data set to draw from, to keep tuning and reporting apart.
        text: plain text for statistics; None lets the model write it.
        auxiliary: what to measure in addition to the records.
        rephrasings: number added to each edit, worded like other records of its relation.
        split: `split.json` of `errata bench split`, which names the relations; None without.
        check: whether edits must pass the writer's checks, as in production.
        cache_dir: for statistics and sampled text.
        device: torch device.
        asking: how the questions about the records are asked.
    """

    method: str
    dataset: str
    data: Path
    out: Path
    model: str = ""
    edits: int = 100
    batch: int = 10
    seed: int = 0
    num_seeds: int = 1
    suite: str = "sequential"
    preset: str = ""
    values: Mapping[str, Any] = field(default_factory=dict)
    lane_model: Path | None = None
    points: tuple[int, ...] = (1, 10, 100, 1_000, 10_000)
    vary: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    target: str = ""
    lane: str = ""
    records: tuple[int, int] = (0, sys.maxsize)
    text: Path | None = None
    auxiliary: AuxiliaryData = field(default_factory=AuxiliaryData)
    rephrasings: int = 0
    split: Path | None = None
    check: bool = True
    cache_dir: Path = field(default_factory=default_cache_dir)
    device: str = "cpu"
    asking: Asking = field(default_factory=Asking)

    def __post_init__(self) -> None:
        if not self.target and not self.model:
            raise InvalidRequestError(
                "give --model PATH to run in process, or --target HOST:PORT.", field="model"
            )
        useless = {
            "text": self.text is not None,
            "no-check": not self.check,
            "rephrasings": self.rephrasings > 0,
            "device": self.device != "cpu",
            "lane-model": self.lane_model is not None,
        }
        for name, is_given in useless.items():
            if self.target and is_given:
                raise InvalidRequestError(
                    f"--{name} has no effect on a running cluster; configure the cluster, and "
                    "leave the option out.",
                    field=name,
                )
        for name in ("edits", "batch", "num_seeds"):
            if getattr(self, name) < 1:
                raise InvalidRequestError(f"{name} must be at least 1.", field=name)

    @property
    def seeds(self) -> range:
        """All seeds."""
        return range(self.seed, self.seed + self.num_seeds)


def read_values(path: Path) -> dict[str, Any]:
    """Configuration values from a TOML or JSON file, by its suffix.

    Raises:
        InvalidRequestError: the file cannot be read, or is not a table.
    """
    try:
        text = path.read_text(encoding="utf-8")
        values = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except OSError as error:
        raise InvalidRequestError(
            f"the lane configuration {path} cannot be read: {error.strerror}.", field="lane_config"
        ) from error
    except ValueError as error:
        kind = "JSON" if path.suffix == ".json" else "TOML"
        raise InvalidRequestError(
            f"the lane configuration {path} is not valid {kind}: {error}.", field="lane_config"
        ) from error
    if not isinstance(values, dict):
        raise InvalidRequestError(
            f"the lane configuration {path} is not a table of keys and values.", field="lane_config"
        )
    return values


def parse_range(text: str) -> tuple[int, int]:
    """Parses `a:b` to (a, b); both ends are optional.

    Raises:
        InvalidRequestError: the text is not a range.
    """
    start, colon, end = text.partition(":")
    try:
        found = int(start or 0), int(end or sys.maxsize)
    except ValueError:
        found = (0, 0)
    if not colon or not 0 <= found[0] < found[1]:
        raise InvalidRequestError(
            f"{text!r} is not a range of records; write it as 0:2500.", field="records"
        )
    return found


def parse_numbers(text: str, name: str) -> tuple[int, ...]:
    """Parses ascending whole numbers such as `1,10,100`.

    Raises:
        InvalidRequestError: the text is not a list of ascending whole numbers.
    """
    try:
        found = tuple(int(part.replace("_", "")) for part in text.split(","))
    except ValueError:
        found = ()
    if not found or list(found) != sorted(set(found)) or found[0] < 1:
        raise InvalidRequestError(
            f"{text!r}: {name} takes ascending whole numbers from 1, as in 1,10,100.", field=name
        )
    return found


def parse_grid(settings: Sequence[str]) -> dict[str, tuple[Any, ...]]:
    """Parses a grid from `key=a,b,c` settings; values are JSON if possible, else text.

    Raises:
        InvalidRequestError: a setting has another form, or a key occurs twice.
    """
    grid: dict[str, tuple[Any, ...]] = {}
    for setting in settings:
        key, equals, values = setting.partition("=")
        if not equals or not key or not values or key in grid:
            raise InvalidRequestError(
                f"--vary {setting!r}: write each key once, as in --vary drop=0,0.3,0.8; write "
                "values that contain commas as a JSON list, as in --vary 'layers=[[0,1],[2,3]]'.",
                field="vary",
            )
        whole = _json_or_text(values)
        parts = whole if isinstance(whole, list) else [_json_or_text(x) for x in values.split(",")]
        if not parts:
            raise InvalidRequestError(f"--vary {setting!r} has no value.", field="vary")
        grid[key] = tuple(parts)
    return grid


def parse_values(settings: Sequence[str], option: str = "--set") -> dict[str, Any]:
    """Parses values from `key=value` settings of an option; they are JSON if possible, else text.

    Raises:
        InvalidRequestError: a setting has another form, or a key occurs twice.
    """
    values: dict[str, Any] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or not key or not value or key in values:
            raise InvalidRequestError(
                f"{option} {setting!r}: write each key once, as in {option} batch=32.",
                field=option.removeprefix("--"),
            )
        values[key] = _json_or_text(value)
    return values


def _json_or_text(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
