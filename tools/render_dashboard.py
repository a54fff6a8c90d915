"""Draws the dashboard's panels from a Prometheus into a PNG for the documentation.

    python tools/render_dashboard.py http://127.0.0.1:9090 docs/dashboard.png --minutes 5

Grafana draws the same queries; this tool does not need Grafana.
"""

from __future__ import annotations

import argparse
import json
import re
import time
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from make_dashboard import FILE

_STEP_SECONDS = 5


def query(url: str, expression: str, minutes: float) -> list[dict[str, Any]]:
    """The series of a range query that ends now."""
    end = time.time()
    wanted = expression.replace("$__rate_interval", "30s")
    parameters = {"query": wanted, "start": end - 60 * minutes, "end": end, "step": _STEP_SECONDS}
    with urllib.request.urlopen(
        f"{url}/api/v1/query_range?{urllib.parse.urlencode(parameters)}", timeout=30
    ) as answer:
        found: list[dict[str, Any]] = json.load(answer)["data"]["result"]
    return found


def named(legend: str, labels: dict[str, str]) -> str:
    """A series' legend with its labels filled in."""
    return re.sub(r"\{\{(\w+)\}\}", lambda found: labels.get(found[1], "")[-14:], legend)


def main() -> None:
    """Draws all panels."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("prometheus")
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, default=5.0)
    chosen = parser.parse_args()
    panels = [p for p in json.loads(FILE.read_text("utf-8"))["panels"] if p["type"] != "row"]
    columns = 3
    lines = -(-len(panels) // columns)
    figure, axes = plt.subplots(lines, columns, figsize=(6 * columns, 2.6 * lines))
    for axis, panel in zip(axes.flat, panels, strict=False):
        for target in panel["targets"]:
            for series in query(chosen.prometheus, target["expr"], chosen.minutes):
                times, values = zip(*series["values"], strict=True)
                seconds = [float(t) - float(times[-1]) for t in times]
                label = named(target["legendFormat"], series["metric"])
                axis.plot(seconds, [float(v) for v in values], label=label, linewidth=1)
        axis.set_title(f"{panel['title']} [{panel['fieldConfig']['defaults']['unit']}]", fontsize=8)
        axis.tick_params(labelsize=6)
        if axis.get_legend_handles_labels()[0]:
            axis.legend(fontsize=5, loc="upper left", ncols=2)
    for axis in list(axes.flat)[len(panels) :]:
        axis.axis("off")
    figure.tight_layout()
    figure.savefig(chosen.out, dpi=75)


if __name__ == "__main__":
    main()
