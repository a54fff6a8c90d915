"""Dashboards, alerts and documents cover all metrics that the code exports, and no others."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from errata.platform import metrics
from errata.platform.metrics import HELP
from errata.platform.settings import WorkerSettings
from tests.unit.deploy.manifests import DEPLOY, ROOT, compose

BOARD = DEPLOY / "observability/grafana/dashboards/errata.json"
ALERTS = DEPLOY / "observability/alerts.yml"
RUNBOOKS = ROOT / "docs/runbooks.md"
_NAME = re.compile(r"\berrata_[a-z0-9_]+")


def _metric(name: str) -> str:
    """The metric of a series; a histogram has three series."""
    for suffix in ("_bucket", "_count", "_sum"):
        if name.removesuffix(suffix) in HELP:
            return name.removesuffix(suffix)
    return name


def _of_the_board() -> Iterator[str]:
    for panel in json.loads(BOARD.read_text("utf-8"))["panels"]:
        for target in panel.get("targets", ()):
            yield target["expr"]


def _alerts() -> list[dict[str, str]]:
    (group,) = yaml.safe_load(ALERTS.read_text("utf-8"))["groups"]
    rules: list[dict[str, str]] = group["rules"]
    return rules


def test_the_board_shows_every_metric_and_no_other() -> None:
    shown = {_metric(name) for query in _of_the_board() for name in _NAME.findall(query)}
    assert shown == HELP.keys()


def test_alerts_watch_metrics_that_exist_and_have_runbooks() -> None:
    headings = re.findall(r"^## (\w+)$", RUNBOOKS.read_text("utf-8"), re.MULTILINE)
    assert len(_alerts()) == len(headings)
    for rule in _alerts():
        assert {_metric(name) for name in _NAME.findall(rule["expr"])} <= HELP.keys()
        assert rule["alert"] in headings
        assert rule["annotations"]["runbook"].endswith(rule["alert"].lower())  # type: ignore[attr-defined]


def test_the_queue_alert_fires_before_requests_are_refused() -> None:
    (rule,) = (rule for rule in _alerts() if rule["alert"] == "ErrataQueueGrows")
    found = re.search(r"sum\(errata_requests_running\) \+ (\d+)$", rule["expr"])
    assert found is not None
    most_waiting = WorkerSettings().max_queue
    for max_batch_size in (WorkerSettings().max_batch_size, 64):  # 64 in the overlay gpu
        assert max_batch_size + int(found[1]) < most_waiting / 2


def test_every_metric_is_documented() -> None:
    text = (ROOT / "docs/metrics.md").read_text("utf-8")
    rows = dict(re.findall(r"^\| `(errata_\w+)` \|[^|]*\| ([^|]+?) \|$", text, re.MULTILINE))
    assert rows == HELP


def test_every_metric_is_made_somewhere() -> None:
    own = Path(metrics.__file__)
    files = [p for p in (ROOT / "services/errata").rglob("*.py") if p != own]
    used = "".join(p.read_text("utf-8") for p in files)
    for name in HELP.keys() - {"errata_index_edits", "errata_info"}:  # checked by the last lines
        constant = next((k for k, v in vars(metrics).items() if _made_as(v, name)), None)
        assert (f'"{name}"' if constant is None else constant) in used, name
    assert "note_index(" in used
    assert "note_service(" in used


def _made_as(value: object, name: str) -> bool:
    return getattr(value, "_name", None) == name.removesuffix("_total")


def test_prometheus_takes_rules_and_configuration(tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed")
    config = DEPLOY / "observability/prometheus.yml"
    done = subprocess.run(
        [promtool, "check", "config", str(config)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_scrapes_every_service_of_the_compose_file() -> None:
    read = yaml.safe_load((DEPLOY / "observability/prometheus.yml").read_text("utf-8"))
    targets = {
        t for job in read["scrape_configs"] for s in job["static_configs"] for t in s["targets"]
    }
    for name, service in compose()["services"].items():
        addresses = {
            f"{name}:{value.rpartition(':')[2]}"
            for key, value in service.get("environment", {}).items()
            if key.endswith("METRICS_ADDRESS")
        }
        assert addresses <= targets, name


def test_the_board_is_what_the_tool_makes() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools/make_dashboard.py"), "--check"], check=False
    )
    assert done.returncode == 0
