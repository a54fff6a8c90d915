"""Writes the Grafana dashboard from the list of panels below.

python tools/make_dashboard.py [--check]
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FILE = (
    Path(__file__).resolve().parent.parent / "deploy/observability/grafana/dashboards/errata.json"
)
_COLUMNS, _WIDTH, _HEIGHT = 3, 8, 7


@dataclass(frozen=True)
class Panel:
    """A graph: title, Grafana unit, and queries with their legends."""

    title: str
    unit: str
    queries: tuple[tuple[str, str], ...]


def _quantiles(name: str, *, by: str = "") -> tuple[tuple[str, str], ...]:
    labels = f"le, {by}" if by else "le"
    legend = f" {{{{{by}}}}}" if by else ""
    return tuple(
        (
            f"histogram_quantile({q}, sum by ({labels}) (rate({name}_bucket[$__rate_interval])))",
            f"p{int(100 * q)}{legend}",
        )
        for q in (0.5, 0.95, 0.99)
    )


ROWS: tuple[tuple[str, tuple[Panel, ...]], ...] = (
    (
        "The log and its replicas",
        (
            Panel(
                "Head and applied positions",
                "none",
                (
                    ("max(errata_log_head_seq)", "head"),
                    ("errata_replica_applied_seq", "{{role}} {{replica}}"),
                ),
            ),
            Panel("Entries behind", "none", (("errata_replica_lag_entries", "{{replica}}"),)),
            Panel(
                "Digest disagreements, unhealthy replicas, log away",
                "none",
                (
                    ("max(errata_digest_disagreements)", "disagree"),
                    ("1 - min(errata_log_available)", "log away"),
                    ("count(errata_replica_healthy == 0) or vector(0)", "unhealthy"),
                ),
            ),
            Panel(
                "Processes and workers",
                "none",
                (
                    ("count by (service, version) (errata_info)", "{{service}} {{version}}"),
                    ("max(errata_replicas_wanted)", "workers wanted"),
                ),
            ),
            Panel("Commit to applied", "s", _quantiles("errata_commit_to_applied_seconds")),
            Panel(
                "Redis' memory",
                "bytes",
                (
                    ("errata_log_redis_used_bytes", "used"),
                    ("errata_log_redis_max_bytes", "maxmemory"),
                    (
                        "errata_log_redis_max_bytes - errata_log_redis_reserve_bytes",
                        "edits stop here",
                    ),
                ),
            ),
            Panel(
                "Entries in Redis and in the archive",
                "none",
                (
                    ("max(errata_log_head_seq) - max(errata_log_floor_seq) + 1", "Redis"),
                    ("max(errata_log_archived_entries)", "archive"),
                ),
            ),
            Panel("The archive", "bytes", (("max(errata_log_archived_bytes)", "segments"),)),
            Panel(
                "Failed trims of the log",
                "none",
                (("increase(errata_log_trim_failures_total[10m])", "in 10 minutes"),),
            ),
            Panel("Streams of the log", "none", (("errata_log_subscriptions", "open"),)),
            Panel("Append, durable", "s", _quantiles("errata_log_append_seconds")),
            Panel(
                "Position of each instance, and what it knows of the head",
                "none",
                (
                    ("errata_applied_seq", "{{instance}}"),
                    ("errata_known_head_seq", "{{instance}}, head"),
                ),
            ),
        ),
    ),
    (
        "Editing",
        (
            Panel("Edits by state", "none", (("sum by (state) (errata_edits)", "{{state}}"),)),
            Panel("Edits by lane", "none", (("sum by (lane) (errata_edits)", "{{lane}}"),)),
            Panel("Age of the oldest pending edit", "s", (("max(errata_pending_seconds)", "age"),)),
            Panel("Fit of a batch", "s", _quantiles("errata_fit_seconds", by="lane")[:2]),
            Panel(
                "Artifacts written",
                "Bps",
                (
                    (
                        "sum by (lane) (rate(errata_artifact_bytes_total[$__rate_interval]))",
                        "{{lane}}",
                    ),
                ),
            ),
            Panel("Open canaries", "none", (("max(errata_open_canaries)", "open"),)),
            Panel(
                "Failed requests of canaries",
                "percentunit",
                (
                    (
                        "sum by (canary, arm) (errata_canary_errors) "
                        "/ sum by (canary, arm) (errata_canary_requests)",
                        "{{canary}} {{arm}}",
                    ),
                ),
            ),
            Panel(
                "Edits that may claim prompts",
                "none",
                (("max by (lane) (errata_index_edits)", "{{lane}}"),),
            ),
            Panel(
                "Webhooks",
                "reqps",
                (
                    (
                        "sum by (target, outcome) "
                        "(rate(errata_webhook_deliveries_total[$__rate_interval]))",
                        "{{target}} {{outcome}}",
                    ),
                ),
            ),
            Panel(
                "Attempts since a webhook's last delivery",
                "none",
                (("errata_webhook_failures", "{{target}}"),),
            ),
        ),
    ),
    (
        "Claims",
        (
            Panel(
                "Claimed and deferred",
                "reqps",
                (
                    (
                        "sum by (lane) (rate(errata_claims_total[$__rate_interval]))",
                        "{{lane}} claimed",
                    ),
                    (
                        "sum by (lane) (rate(errata_deferrals_total[$__rate_interval]))",
                        "{{lane}} deferred",
                    ),
                ),
            ),
            Panel(
                "Margin of the best edit (median)",
                "none",
                _quantiles("errata_claim_margin", by="lane")[:1],
            ),
            Panel("Routing of a batch", "s", _quantiles("errata_route_seconds")),
        ),
    ),
    (
        "Serving",
        (
            Panel(
                "Requests running and waiting",
                "none",
                (
                    ("sum(errata_requests_running)", "running"),
                    ("sum(errata_requests_waiting)", "waiting"),
                ),
            ),
            Panel("Time to first token", "s", _quantiles("errata_time_to_first_token_seconds")),
            Panel("Between tokens", "s", _quantiles("errata_inter_token_latency_seconds")),
            Panel("Whole answer", "s", _quantiles("errata_e2e_request_latency_seconds")),
            Panel(
                "Tokens",
                "none",
                (
                    ("sum(rate(errata_prompt_tokens_total[$__rate_interval]))", "read /s"),
                    ("sum(rate(errata_generation_tokens_total[$__rate_interval]))", "made /s"),
                ),
            ),
            Panel(
                "Cache in use", "percentunit", (("errata_kv_cache_usage_ratio", "{{instance}}"),)
            ),
            Panel(
                "Generations by reason of their end",
                "reqps",
                (
                    (
                        "sum by (finish_reason) "
                        "(rate(errata_request_success_total[$__rate_interval]))",
                        "{{finish_reason}}",
                    ),
                ),
            ),
            Panel(
                "Calls by code",
                "reqps",
                (
                    (
                        "sum by (code) (rate(errata_grpc_requests_total[$__rate_interval]))",
                        "{{code}}",
                    ),
                ),
            ),
            Panel("Calls", "s", _quantiles("errata_grpc_seconds")),
            Panel(
                "HTTP requests by status",
                "reqps",
                (
                    (
                        "sum by (status) (rate(errata_http_requests_total[$__rate_interval]))",
                        "{{status}}",
                    ),
                ),
            ),
            Panel("HTTP requests", "s", _quantiles("errata_http_seconds", by="route")[:2]),
        ),
    ),
)


def dashboard() -> dict[str, Any]:
    """The dashboard as Grafana's JSON."""
    panels: list[dict[str, Any]] = []
    top = 0
    for title, row in ROWS:
        panels.append(
            {
                "type": "row",
                "title": title,
                "collapsed": False,
                "id": len(panels) + 1,
                "gridPos": {"x": 0, "y": top, "w": _COLUMNS * _WIDTH, "h": 1},
                "panels": [],
            }
        )
        top += 1
        for number, panel in enumerate(row):
            line, column = divmod(number, _COLUMNS)
            where = {"x": column * _WIDTH, "y": top + line * _HEIGHT, "w": _WIDTH, "h": _HEIGHT}
            panels.append(_graph(panel, len(panels) + 1, where))
        top += -(-len(row) // _COLUMNS) * _HEIGHT
    return {
        "uid": "errata",
        "title": "Errata",
        "tags": ["errata"],
        "timezone": "browser",
        "schemaVersion": 39,
        "refresh": "10s",
        "time": {"from": "now-30m", "to": "now"},
        "panels": panels,
    }


def _graph(panel: Panel, number: int, where: dict[str, int]) -> dict[str, Any]:
    source = {"type": "prometheus", "uid": "prometheus"}
    return {
        "type": "timeseries",
        "title": panel.title,
        "id": number,
        "gridPos": where,
        "datasource": source,
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}},
        "targets": [
            {"refId": chr(65 + n), "datasource": source, "expr": query, "legendFormat": legend}
            for n, (query, legend) in enumerate(panel.queries)
        ],
    }


def main() -> int:
    """Writes the file; with --check, returns 1 if the file differs."""
    text = json.dumps(dashboard(), indent=2) + "\n"
    if "--check" in sys.argv[1:]:
        return 0 if FILE.read_text("utf-8") == text else 1
    FILE.write_text(text, "utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
