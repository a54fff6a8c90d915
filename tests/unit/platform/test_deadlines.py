"""Handlers that wait answer before the caller's deadline."""

from __future__ import annotations

import pytest

from errata.platform.deadlines import before_deadline


@pytest.mark.parametrize(
    ("left", "waits"),
    [(2.0, 1.75), (30.0, 28.5), (600.0, 598.0), (0.1, 0.0), (-1.0, 0.0)],
)
def test_time_is_reserved_for_the_answer(left: float, waits: float) -> None:
    assert before_deadline(left) == pytest.approx(waits)
