"""What `errata bench edit` is to run."""

from __future__ import annotations

import json
import sys
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import platformdirs

from errata.errors import InvalidRequestError


def default_cache_dir() -> Path:
    """Where statistics and sampled text are kept between runs."""
    return Path(platformdirs.user_cache_dir("errata", appauthor=False))


@dataclass(frozen=True, slots=True)
class AuxiliaryData:
    """What is measured beside the records.

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
        out: folder for results; what is finished there is not run again.
        model: folder or hub id; may be empty with `target`.
        edits: that the model carries in the end.
        batch: edits that are submitted together.
        seed: the first one; each chooses other records.
        num_seeds: seeds in a row, from `seed`.
        suite: a name in `suites.SUITES`.
        preset: of the method; empty for its defaults.
        values: of the configuration, where they differ from preset and defaults.
        lane_model: folder of what the lane learned once, for methods that have it.
        points: numbers of edits of the suite `scaling`.
        vary: configuration key → values, the grid of the suite `ablation`.
        target: `host:port` of a running cluster; empty for in process.
        lane: of the cluster; its default lane if empty.
        records: range of the data set to draw from, so that tuning and reporting stay apart.
        text: plain text for statistics; None lets the model write some.
        auxiliary: what is measured beside the records.
        rephrasings: that each edit brings, asked as other records of its relation are.
        check: whether edits must pass the writer's checks, as they must in production.
        cache_dir: for statistics.
        device: torch device.
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
    check: bool = True
    cache_dir: Path = field(default_factory=default_cache_dir)
    device: str = "cpu"

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
                    f"--{name} has no effect on a running cluster; set it there, and leave it "
                    "out here.",
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
        InvalidRequestError: it cannot be read, or holds no table.
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
            f"the lane configuration {path} is no table of keys and values.", field="lane_config"
        )
    return values


def parse_range(text: str) -> tuple[int, int]:
    """`a:b` as (a, b); either may be left out.

    Raises:
        InvalidRequestError: no such range.
    """
    start, colon, end = text.partition(":")
    try:
        found = int(start or 0), int(end or sys.maxsize)
    except ValueError:
        found = (0, 0)
    if not colon or not 0 <= found[0] < found[1]:
        raise InvalidRequestError(
            f"{text!r} is no range of records; write 0:2500.", field="records"
        )
    return found


def parse_numbers(text: str, name: str) -> tuple[int, ...]:
    """Ascending whole numbers from `1,10,100`.

    Raises:
        InvalidRequestError: something else.
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
    """A grid from `key=a,b,c` settings; values are JSON where they can be, else text.

    Raises:
        InvalidRequestError: a setting is of another form, or a key comes twice.
    """
    grid: dict[str, tuple[Any, ...]] = {}
    for setting in settings:
        key, equals, values = setting.partition("=")
        if not equals or not key or not values or key in grid:
            raise InvalidRequestError(
                f"--vary {setting!r}: write each key once, as in --vary drop=0,0.3,0.8; values "
                "that hold commas as a JSON list of values, as in --vary 'layers=[[0,1],[2,3]]'.",
                field="vary",
            )
        whole = _json_or_text(values)
        parts = whole if isinstance(whole, list) else [_json_or_text(x) for x in values.split(",")]
        if not parts:
            raise InvalidRequestError(f"--vary {setting!r} has no value.", field="vary")
        grid[key] = tuple(parts)
    return grid


def parse_values(settings: Sequence[str]) -> dict[str, Any]:
    """Values from `key=value` settings; JSON where they can be, else text.

    Raises:
        InvalidRequestError: a setting is of another form, or a key comes twice.
    """
    values: dict[str, Any] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or not key or not value or key in values:
            raise InvalidRequestError(
                f"--set {setting!r}: write each key once, as in --set batch=32.", field="set"
            )
        values[key] = _json_or_text(value)
    return values


def _json_or_text(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
