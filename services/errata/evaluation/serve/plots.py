"""The plot of a load run: latencies over time, with the times of commits."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

from errata.errors import StartupError


def require_matplotlib() -> None:
    """Returns if plots can be drawn: who measures for minutes learns it first.

    Raises:
        StartupError: matplotlib is not installed.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise StartupError("the plot needs matplotlib: pip install 'errata[bench]'.")


def plot_load(
    path: Path,
    answers: Sequence[tuple[float, float]],
    firsts: Sequence[tuple[float, float]],
    commits: Sequence[float],
) -> None:
    """Draws a PNG.

    Args:
        path: to write.
        answers: (scheduled, seconds to the end) of each answer.
        firsts: (scheduled, seconds to the first token) of each stream.
        commits: seconds since the start at which edits were committed.

    Raises:
        StartupError: matplotlib is not installed.
    """
    require_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    axes = figure.subplots()
    for name, points in (("whole answer", answers), ("first token", firsts)):
        axes.scatter([at for at, _ in points], [1e3 * took for _, took in points], s=6, label=name)
    for index, at in enumerate(commits):
        axes.axvline(at, color="grey", linewidth=0.5, label="commit" if index == 0 else None)
    axes.set_xlabel("scheduled at, s")
    axes.set_ylabel("ms")
    axes.set_yscale("log")
    axes.legend(loc="upper right")
    FigureCanvasAgg(figure)
    figure.savefig(path)
