"""`errata bench edit`, `suites` and `compare`: editing methods as the papers measure them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from errata.errors import InvalidRequestError
from errata.evaluation.edit import plan as plans

_out = Console()

Data = Annotated[Path, typer.Option(help="File of records, in the data set's public format.")]
Out = Annotated[
    Path,
    typer.Option(help="Folder for result.json, report.md and plots; an interrupted run resumes."),
]
Method = Annotated[
    str, typer.Option(help="A lane's method, or none, ft-l, grace, memit, retrieval-prompt.")
]
Dataset = Annotated[str, typer.Option(help="counterfact, zsre, selfcheckgpt or rippleedits.")]
Model = Annotated[str, typer.Option(help="Folder or hub id.")]
Edits = Annotated[int, typer.Option(help="Edits that the model carries at the end.", min=1)]
Batch = Annotated[int, typer.Option(help="Edits submitted together.", min=1)]
Seed = Annotated[int, typer.Option(help="Seed that selects the records.", min=0)]
Seeds = Annotated[int, typer.Option(help="Number of consecutive seeds, from --seed on.", min=1)]
Suite = Annotated[str, typer.Option(help="What to run; `errata bench suites` lists the suites.")]
Preset = Annotated[
    str, typer.Option(help="The method's preset, such as `paper`; its defaults if empty.")
]
LaneConfig = Annotated[
    Path | None, typer.Option(help="TOML or JSON with values that differ from the defaults.")
]
LaneModel = Annotated[
    Path | None, typer.Option(help="Folder that `errata train` made, for methods that need it.")
]
InProcess = Annotated[
    bool, typer.Option("--in-process", help="Run the library alone; the default.")
]
Target = Annotated[str, typer.Option(help="host:port of a running cluster.")]
Lane = Annotated[str, typer.Option(help="Lane of the cluster; its default lane if empty.")]
Scale = Annotated[str, typer.Option(help="scaling: numbers of edits.")]
Vary = Annotated[
    list[str] | None,
    typer.Option(help="ablation: KEY=a,b,c; repeat the option for a grid."),
]
Records = Annotated[str, typer.Option(help="Range of records to draw from, a:b.")]
Text = Annotated[
    Path | None,
    typer.Option(
        help="Plain text for statistics, one paragraph per line; if left out, the model writes it."
    ),
]
Heldout = Annotated[Path | None, typer.Option(help="Plain text for perplexity.")]
Retention = Annotated[
    list[Path] | None,
    typer.Option(help="JSON lines of questions about general ability; repeatable."),
]
References = Annotated[
    Path | None, typer.Option(help="JSON lines of target and text, for consistency.")
]
Texts = Annotated[
    int, typer.Option(help="Number of records whose generated texts are judged.", min=0)
]
Rephrasings = Annotated[
    int,
    typer.Option(
        help="Rephrasings added to each edit, in the wording of other records of its relation.",
        min=0,
    ),
]
NoCheck = Annotated[
    bool, typer.Option("--no-check", help="Commit edits even if they fail the writer's checks.")
]
CacheDir = Annotated[Path | None, typer.Option(help="Folder where statistics are cached.")]
Device = Annotated[str, typer.Option(help="Torch device.")]


def edit(
    data: Data,
    out: Out,
    method: Method = "adaple",
    dataset: Dataset = "counterfact",
    model: Model = "",
    edits: Edits = 100,
    batch: Batch = 10,
    seed: Seed = 0,
    seeds: Seeds = 1,
    suite: Suite = "sequential",
    preset: Preset = "",
    lane_config: LaneConfig = None,
    lane_model: LaneModel = None,
    in_process: InProcess = False,
    target: Target = "",
    lane: Lane = "",
    scale: Scale = "1,10,100,1000,10000",
    vary: Vary = None,
    records: Records = "0:",
    text: Text = None,
    heldout: Heldout = None,
    retention: Retention = None,
    references: References = None,
    texts: Texts = 0,
    rephrasings: Rephrasings = 0,
    no_check: NoCheck = False,
    cache_dir: CacheDir = None,
    device: Device = "cpu",
) -> None:
    """Measures an editing method as the papers do, in process or through a cluster's gateway."""
    _check_place(in_process, target)
    plan = plans.Plan(
        method=method,
        dataset=dataset,
        data=data,
        out=out,
        model=model,
        edits=edits,
        batch=batch,
        seed=seed,
        num_seeds=seeds,
        suite=suite,
        preset=preset,
        values=plans.read_values(lane_config) if lane_config else {},
        lane_model=lane_model,
        points=plans.parse_numbers(scale, "scale"),
        vary=plans.parse_grid(vary or []),
        target=target,
        lane=lane,
        records=plans.parse_range(records),
        text=text,
        auxiliary=plans.AuxiliaryData(heldout, tuple(retention or ()), references, texts),
        rephrasings=rephrasings,
        check=not no_check,
        cache_dir=cache_dir or plans.default_cache_dir(),
        device=device,
    )
    _run(plan)


def _check_place(in_process: bool, target: str) -> None:
    if in_process and target:
        raise InvalidRequestError("give --in-process or --target, not both.", field="target")


def _run(plan: plans.Plan) -> None:
    """Runs a plan, writes its results into its folder and prints the report."""
    from errata.evaluation.edit.bench import run
    from errata.evaluation.edit.plots import draw
    from errata.evaluation.edit.report import markdown
    from errata.evaluation.report import write

    found = run(plan, _out)
    path = write(found, plan.out)
    report = markdown(found, draw(found, plan.out))
    (plan.out / "report.md").write_text(report, encoding="utf-8")
    typer.echo(report)
    _out.print(f"written to {path}")


def suites() -> None:
    """Lists what `errata bench edit --suite` can run."""
    from errata.evaluation.edit.suites import SUITES

    table = Table("suite", "what it runs", "methods")
    for name, suite in SUITES.items():
        table.add_row(name, suite.about, ", ".join(suite.methods) or "all")
    _out.print(table)


def compare(
    runs: Annotated[list[Path], typer.Argument(help="Folders of `errata bench edit`.")],
    out: Annotated[Path | None, typer.Option(help="Folder for compare.md and a plot.")] = None,
) -> None:
    """Puts runs on the same model and data side by side."""
    from errata.evaluation.edit.compare import compared, read_runs
    from errata.evaluation.edit.plots import draw_compared

    found = read_runs(runs)
    report = compared(found)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        draw_compared(found, out / "compare.png")
        (out / "compare.md").write_text(f"{report}\n![Score](compare.png)\n", encoding="utf-8")
    typer.echo(report)
