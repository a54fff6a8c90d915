"""Paired differences: every record is compared with itself."""

from __future__ import annotations

from typing import Any

import pytest

from errata.evaluation.edit.confidence import half_width
from errata.evaluation.edit.paired import differences, table


def point(*seeds: dict[str, float | None]) -> dict[str, Any]:
    """A point in which each seed's records have one figure."""
    units = [
        {"records": {"ids": list(seed), "figures": {"reliability.exact": list(seed.values())}}}
        for seed in seeds
    ]
    return {"units": units}


def test_a_constant_gain_has_no_interval_however_much_records_differ() -> None:
    (found,) = differences(point({"a": 0.0, "b": 0.9}), point({"a": 0.1, "b": 1.0}))
    assert found.difference == pytest.approx(0.1)
    assert found.over_records == pytest.approx(0.0)
    assert found.over_seeds is None
    assert (found.first, found.second, found.num_records) == (0.45, 0.55, 2)


def test_a_record_of_several_seeds_counts_once() -> None:
    first = point({"a": 0.0, "b": 0.0}, {"b": 0.0, "c": 0.0})
    second = point({"a": 1.0, "b": 1.0}, {"b": 0.0, "c": 0.0})
    (found,) = differences(first, second)
    assert found.num_records == 3
    assert found.over_records == half_width([1.0, 0.5, 0.0])
    assert found.over_seeds == half_width([1.0, 0.0])
    assert "+0.500" in table("A", "B", [found])


def test_records_without_the_figure_are_left_out() -> None:
    (found,) = differences(point({"a": None, "b": 0.0}), point({"a": 1.0, "b": 1.0}))
    assert (found.num_records, found.difference) == (1, 1.0)
    assert differences(point({"a": None}), point({"a": 1.0})) == []


def test_other_records_are_not_compared() -> None:
    assert differences(point({"a": 0.0}), point({"b": 1.0})) == []
    assert differences({"units": [{}]}, point({"b": 1.0})) == []
