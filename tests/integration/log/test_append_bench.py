"""`errata bench system --only appends`: a real Redis and a real log take every append."""

from __future__ import annotations

import json
from pathlib import Path

from typer.testing import CliRunner

from errata.cli import app


def test_every_append_is_accepted_and_timed(tmp_path: Path) -> None:
    output = tmp_path / "appends.json"
    command = ["bench", "system", "--only", "appends", "--appends", "5", "--output", str(output)]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    found = json.loads(output.read_text())["append"]
    assert found["count"] == 5
    assert 0 < found["p50_ms"] <= found["p99_ms"]
