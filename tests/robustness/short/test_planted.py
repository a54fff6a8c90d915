"""Every planted bug can still be planted and has a check; `make robustness-bugs` runs them."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.robustness.planted import BUGS, PACKAGE, Planted, plant, problem_of

ROOT = Path(__file__).parents[3]


def _id(bug: Planted) -> str:
    return bug.name.replace(" ", "-")


@pytest.mark.parametrize("bug", BUGS, ids=_id)
def test_it_can_be_planted_and_is_python(bug: Planted, tmp_path: Path) -> None:
    assert problem_of(bug) == ""
    for file, _, _ in bug.changes:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_bytes((PACKAGE / file).read_bytes())
    plant(bug, tmp_path)
    for file, _, _ in bug.changes:
        text = (tmp_path / file).read_text(encoding="utf-8")
        assert text != (PACKAGE / file).read_text(encoding="utf-8")
        if file.endswith(".py"):
            ast.parse(text)


@pytest.mark.parametrize("bug", BUGS, ids=_id)
def test_its_check_exists_and_carries_a_promise(bug: Planted) -> None:
    file, _, name = bug.check.partition("::")
    text = (ROOT / file).read_text(encoding="utf-8")
    assert re.search(rf"^(async )?def {name}\(", text, re.MULTILINE)
    promises = (ROOT / "docs" / "promises.md").read_text(encoding="utf-8")
    assert f"| {bug.promise} " in promises


def test_there_are_enough_and_no_two_alike() -> None:
    assert len(BUGS) >= 20
    assert len({bug.name for bug in BUGS}) == len(BUGS)
    assert len({bug.changes for bug in BUGS}) == len(BUGS)


def test_a_bug_whose_text_is_gone_is_named() -> None:
    gone = Planted("gone", "P1", "x::y", (("log/feed.py", "no such text", "else"),))
    assert "0 times in log/feed.py" in problem_of(gone)
