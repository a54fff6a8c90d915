"""Plots of a run as PNG files; figures are over all seeds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from errata.errors import StartupError
from errata.evaluation.edit.families import MEMIT, TOKENS, figure

Points = Sequence[Mapping[str, Any]]

_CURVES = ("reliability.token", "generality.token", "locality.token", "score")
_WIDE = ("similarity.png", "experts.png")
_PAIRED = (*TOKENS.columns, *MEMIT.columns)


def draw(found: Mapping[str, Any], folder: Path) -> list[str]:
    """Draws all plots for which the run has data.

    Args:
        found: as `summary.summary` returns it.
        folder: must exist.

    Returns:
        The names of the files.

    Raises:
        StartupError: matplotlib is not installed.
    """
    points: Points = found["points"]
    one = points[0]
    timed = [point for point in points if point["batches"]]
    similar, placed, experts = (
        one["units"][0].get(name) for name in ("similarity", "embedding", "experts")
    )
    pictures: dict[str, tuple[bool, Callable[[Any], None]]] = {
        "immediate-final.png": (True, lambda axes: _immediate_final(axes, found)),
        "metric-edits.png": (
            found["suite"] == "scaling",
            lambda axes: _by_edits(axes, points),
        ),
        "attenuation.png": (
            bool(one["checkpoints"]),
            lambda axes: _attenuation(axes, one["checkpoints"]),
        ),
        "claims.png": (
            figure((one["checkpoints"] or [{"all": {}}])[0]["all"], "claims.unrelated") is not None,
            lambda axes: _claims(axes, points),
        ),
        "forgetting.png": (
            len(points) == 1 and len(one["batches"]) > 1,
            lambda axes: _forgetting(axes, one["batches"]),
        ),
        "edit-time.png": (bool(timed), lambda axes: _edit_time(axes, timed)),
        "grid.png": (
            bool(one["varied"]) and all(one["varied"].keys() <= p["varied"].keys() for p in points),
            lambda axes: _grid(axes, points),
        ),
        "similarity.png": (similar is not None, lambda axes: _similarity(axes, similar)),
        "tsne.png": (placed is not None, lambda axes: _plane(axes, placed)),
        "experts.png": (experts is not None, lambda axes: _experts(axes, points)),
    }
    made = [name for name, (is_there, _) in pictures.items() if is_there]
    for name in made:
        _save(folder / name, pictures[name][1], panels=2 if name in _WIDE else 1)
    return made


def draw_compared(runs: Sequence[tuple[str, Mapping[str, Any]]], path: Path) -> None:
    """Draws runs against the number of edits."""
    name = _figure_of([point for _, found in runs for point in found["points"]])

    def paint(axes: Any) -> None:
        for label, found in runs:
            points = sorted(found["points"], key=lambda point: point["edits"])
            _curve(axes, [point["edits"] for point in points], points, name, label)
        axes.set_xscale("log")
        axes.set_xlabel("edits")
        axes.set_ylabel(f"{name}, after the last edit")
        axes.legend()

    _save(path, paint)


def _figure_of(points: Points) -> str:
    """The figure that represents a row: Score if all rows have it."""
    has_score = all(figure(point["final"], "score") is not None for point in points)
    return "score" if has_score else "reliability.token"


def _curve(axes: Any, xs: Sequence[Any], points: Points, name: str, label: str) -> None:
    """Draws a figure, with its intervals if there are any."""
    ys = [figure(point["final"], name) for point in points]
    if None in ys:
        return
    widths = [figure(point["ci95"], name) for point in points]
    errors = None if None in widths else widths
    axes.errorbar(xs, ys, yerr=errors, marker="o", capsize=3, label=label)


def _save(path: Path, paint: Callable[[Any], None], panels: int = 1) -> None:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise StartupError("pictures need matplotlib: pip install 'errata[bench]'.") from error
    made = Figure(figsize=(5 + 3 * panels, 4), layout="constrained")
    FigureCanvasAgg(made)
    paint(made.subplots(1, panels))
    made.savefig(path)


def _immediate_final(axes: Any, found: Mapping[str, Any]) -> None:
    names = [name for name in _PAIRED if figure(found["immediate"], name) is not None]
    places = range(len(names))
    for shift, stage in ((-0.27, "pre"), (0.0, "immediate"), (0.27, "final")):
        heights = [figure(found[stage], name) or 0.0 for name in names]
        axes.bar([place + shift for place in places], heights, width=0.25, label=stage)
    axes.set_xticks(list(places), names, rotation=40, ha="right")
    axes.set_ylim(0, 1.05)
    axes.set_title(f"{found['method']}, {found['edits']:,} edits")
    axes.legend()


def _by_edits(axes: Any, points: Points) -> None:
    for name in _CURVES:
        _curve(axes, [point["edits"] for point in points], points, name, name)
    axes.set_xscale("log")
    axes.set_xlabel("edits")
    axes.set_ylabel("after the last edit")
    axes.legend()


def _attenuation(axes: Any, checkpoints: Points) -> None:
    xs = [checkpoint["edits"] for checkpoint in checkpoints]
    for which, style in (("all", "-"), ("first", "--")):
        for name in ("efficacy", "generalization", "specificity", "score"):
            ys = [figure(checkpoint[which], name) for checkpoint in checkpoints]
            if None not in ys:
                axes.plot(xs, ys, style, marker=".", label=f"{name}, {which}")
    axes.set_xlabel("edits so far")
    axes.set_title(f"all edits so far, and the first {checkpoints[0]['edits']}")
    axes.legend(fontsize="small")


def _claims(axes: Any, points: Points) -> None:
    """Draws rightly and wrongly claimed shares, one colour for each row."""
    for number, point in enumerate(points):
        xs = [checkpoint["edits"] for checkpoint in point["checkpoints"]]
        for name, style in (("claims.unrelated", "-"), ("claims.rephrases", ":")):
            ys = [figure(checkpoint["all"], name) for checkpoint in point["checkpoints"]]
            axes.plot(
                xs,
                ys,
                style,
                marker=".",
                color=f"C{number}",
                label=point["label"] if style == "-" else None,
            )
    axes.set_xlabel("stored edits")
    axes.set_ylabel("share that is claimed")
    axes.set_title("locality prompts (solid), rephrasings by their own edit (dotted)")
    axes.set_ylim(-0.05, 1.05)
    axes.legend(fontsize="small")


def _forgetting(axes: Any, batches: Points) -> None:
    xs = [batch["edits"] for batch in batches]
    for stage, style in (("immediate", "."), ("final", "x")):
        for name in ("reliability.token", "generality.token"):
            ys = [figure(batch[stage], name) for batch in batches]
            if None not in ys:
                axes.plot(xs, ys, style, label=f"{name}, {stage}")
    axes.set_xlabel("edits when the batch was written")
    axes.set_ylim(-0.05, 1.05)
    axes.legend(fontsize="small")


def _edit_time(axes: Any, points: Points) -> None:
    for point in points:
        xs = [batch["edits"] for batch in point["batches"]]
        ys = [batch["seconds_each"] for batch in point["batches"]]
        axes.plot(xs, ys, marker=".", label=point["label"])
    axes.set_xlabel("edits so far")
    axes.set_ylabel("seconds per edit")
    axes.legend(fontsize="small")


def _grid(axes: Any, points: Points) -> None:
    """Draws a heat map over the two keys with most values, else a curve."""
    name = _figure_of(points)
    values = {
        key: list(dict.fromkeys(str(point["varied"][key]) for point in points))
        for key in points[0]["varied"]
    }
    across, *others = sorted(values, key=lambda key: -len(values[key]))
    if not others or len(values[others[0]]) < 2:
        labels = [", ".join(str(value) for value in point["varied"].values()) for point in points]
        _curve(axes, range(len(points)), points, name, name)
        axes.set_xticks(range(len(points)), labels, rotation=30, ha="right")
        axes.set_xlabel(", ".join(points[0]["varied"]))
        axes.set_ylabel(name)
        return
    down = others[0]
    best = [[float("nan")] * len(values[across]) for _ in values[down]]
    for point in sorted(points, key=lambda point: figure(point["final"], name) or 0.0):
        row = values[down].index(str(point["varied"][down]))
        column = values[across].index(str(point["varied"][across]))
        best[row][column] = figure(point["final"], name) or 0.0  # sorted: a later one is better
    image = axes.imshow(best, aspect="auto")
    axes.figure.colorbar(image, label=name)
    axes.set_xticks(range(len(values[across])), values[across], rotation=30, ha="right")
    axes.set_yticks(range(len(values[down])), values[down])
    axes.set_xlabel(across)
    axes.set_ylabel(down)


def _similarity(axes: Any, found: Mapping[str, Any]) -> None:
    size = len(found["before"])
    pairs = [(i, j) for i in range(size) for j in range(i)]
    before = [found["before"][i][j] for i, j in pairs]
    after = [found["after"][i][j] for i, j in pairs]
    axes[0].scatter(before, after, s=4)
    ends = [min(before), max(before)]
    axes[0].plot(ends, ends, "k:", label="no change")
    axes[0].plot(ends, [(1 - found["drop"]) * x for x in ends], "r-", label="(1 − p) · before")
    axes[0].set_xlabel("cosine before drop-and-rescale")
    axes[0].set_ylabel("after")
    axes[0].legend()
    image = axes[1].imshow(found["before"], aspect="equal")
    axes[1].set_title("before, by commit")
    axes[1].figure.colorbar(image)


def _experts(axes: Any, points: Points) -> None:
    """Draws the first run's routing, and each expert's similarity against its figures."""
    routing = points[0]["units"][0]["experts"]["routing"]
    image = axes[0].imshow(routing, aspect="equal", vmin=0.0, vmax=1.0)
    axes[0].set_title(f"prompts routed, {points[0]['label']}")
    axes[0].set_xlabel("to this expert; the last column: to none")
    axes[0].set_ylabel("learned by this expert")
    axes[0].figure.colorbar(image)
    each = [expert for point in points for u in point["units"] for expert in u["experts"]["each"]]
    for name in _CURVES[:2]:
        known = [expert for expert in each if None not in (expert["within"], expert[name])]
        axes[1].scatter([e["within"] for e in known], [e[name] for e in known], s=8, label=name)
    axes[1].set_xlabel("cosine within an expert")
    axes[1].set_ylim(-0.05, 1.05)
    axes[1].legend()


def _plane(axes: Any, found: Mapping[str, Sequence[Sequence[float]]]) -> None:
    for name, points in found.items():
        xs, ys = zip(*points, strict=True)
        axes.scatter(xs, ys, s=4, label=name, color="lightgrey" if name == "words" else None)
    axes.set_title("t-SNE")
    axes.legend(fontsize="x-small", markerscale=2)
