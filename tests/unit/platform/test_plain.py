"""Text from outside as it is printed and logged."""

from __future__ import annotations

import json
import sys

import pytest
import structlog
from hypothesis import given

from errata.platform.plain import shown, shown_json, shown_lines
from errata.platform.telemetry import configure_logging
from tests.unit.outside_text import TEXTS, WORST, obeyed


@given(TEXTS)
def test_a_shown_text_is_one_line_that_a_terminal_only_prints(text: str) -> None:
    assert not obeyed(shown(text))
    assert "\n" not in shown(text)
    shown(text).encode()  # has no surrogates
    assert shown(shown(text)) == shown(text)
    assert shown_lines(text).split("\n") == [shown(each) for each in text.split("\n")]


@given(TEXTS)
def test_json_keeps_the_text_and_escapes_the_same_characters(text: str) -> None:
    document = json.dumps({text: [text]}, ensure_ascii=False, indent=2)
    assert json.loads(shown_json(document)) == json.loads(document)
    assert not obeyed(shown_json(document))


def test_escapes_are_those_of_python() -> None:
    assert shown("a\nb\t\x1b[0m\u202e\U000e0041\ud800") == (r"a\nb\t\x1b[0m\u202e\U000e0041\ud800")


def test_what_people_write_stays_readable() -> None:
    for text in (
        "naïve café",
        "東京は日本の首都",
        "Ελλάδα",
        "مرحبا",
        "1\u00a0000 €",
        "👍",
        r"C:\x1b",
    ):
        assert shown(text) == text


@pytest.mark.parametrize("log_format", ["console", "json"])
def test_a_log_line_stays_one_line(capsys: pytest.CaptureFixture[str], log_format: str) -> None:
    configure_logging("INFO", log_format, "log")  # type: ignore[arg-type]
    try:
        log = structlog.get_logger()
        log.info(f"entry {WORST}", author=WORST, names=[WORST], count=3, missing=None)
        log.info("entry x", author="x", names=["x"], count=3, missing=None)
        said = capsys.readouterr().err
        assert not obeyed(said)
        assert len(said.splitlines()) == 2
        assert said.count("count=3") == (2 if log_format == "console" else 0)
    finally:
        structlog.reset_defaults()
        structlog.contextvars.clear_contextvars()


def test_a_traceback_cannot_forge_a_log_line(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("INFO", "console", "log")
    try:
        try:
            raise ValueError("no\n2026-01-01T00:00:00Z [info     ] all is well\x1b[2J")
        except ValueError:
            structlog.get_logger().error("failed", exc_info=sys.exc_info())
        first, *others = capsys.readouterr().err.splitlines()
        assert "failed" in first
        assert len(others) > 2
        assert all(line.startswith("│ ") for line in others)
        assert not obeyed("\n".join(others))
    finally:
        structlog.reset_defaults()
        structlog.contextvars.clear_contextvars()
