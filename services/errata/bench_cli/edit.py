"""`errata bench edit`, `suites` and `compare`: editing methods as the papers measure them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from errata.cli_options import DeviceOption
from errata.errors import InvalidRequestError
from errata.evaluation.asking import Asking
from errata.evaluation.edit import plan as plans
from errata.launch.output import TextTable, print_document
from errata.launch.terminal import console

DataOption = Annotated[Path, typer.Option(help="File of records, in the data set's public format.")]
OutOption = Annotated[
    Path,
    typer.Option(help="Folder for result.json, report.md and plots; an interrupted run resumes."),
]
MethodOption = Annotated[
    str, typer.Option(help="A lane's method, or none, ft-l, grace, moe, memit, retrieval-prompt.")
]
DatasetOption = Annotated[str, typer.Option(help="counterfact, zsre, selfcheckgpt or rippleedits.")]
ModelOption = Annotated[str, typer.Option(help="Folder or hub id.")]
EditsOption = Annotated[int, typer.Option(help="Edits that the model carries at the end.", min=1)]
BatchOption = Annotated[int, typer.Option(help="Edits submitted together.", min=1)]
SeedOption = Annotated[int, typer.Option(help="Seed that selects the records.", min=0)]
SeedsOption = Annotated[
    int, typer.Option(help="Number of consecutive seeds, from --seed on.", min=1)
]
SuiteOption = Annotated[
    str, typer.Option(help="What to run; `errata bench suites` lists the suites.")
]
PresetOption = Annotated[
    str, typer.Option(help="The method's preset, such as `paper`; its defaults if empty.")
]
LaneConfigOption = Annotated[
    Path | None, typer.Option(help="TOML or JSON with values that differ from the defaults.")
]
LaneModelOption = Annotated[
    Path | None, typer.Option(help="Folder that `errata train` made, for methods that need it.")
]
InProcessOption = Annotated[
    bool, typer.Option("--in-process", help="Run the library alone; the default.")
]
TargetOption = Annotated[str, typer.Option(help="host:port of a running cluster.")]
LaneOption = Annotated[str, typer.Option(help="Lane of the cluster; its default lane if empty.")]
ScaleOption = Annotated[str, typer.Option(help="scaling: numbers of edits.")]
VaryOption = Annotated[
    list[str] | None,
    typer.Option(help="ablation: KEY=a,b,c; repeat the option for a grid."),
]
RecordsOption = Annotated[str, typer.Option(help="Range of records to draw from, a:b.")]
TextOption = Annotated[
    Path | None,
    typer.Option(
        help="Plain text for statistics, one paragraph per line; if left out, the model writes it."
    ),
]
HeldoutOption = Annotated[Path | None, typer.Option(help="Plain text for perplexity.")]
RetentionOption = Annotated[
    list[Path] | None,
    typer.Option(
        help="Questions about general ability, JSON lines or BIG-bench's task.json; repeatable."
    ),
]
ReferencesOption = Annotated[
    Path | None, typer.Option(help="JSON lines of target and text, for consistency.")
]
TextsOption = Annotated[
    int, typer.Option(help="Number of records whose generated texts are judged.", min=0)
]
FormOption = Annotated[
    str,
    typer.Option(help="How records' questions are asked: text, chat (by the template), or both."),
]
GenerateOption = Annotated[
    int,
    typer.Option(help="Number of records whose whole answers are generated and judged.", min=0),
]
RephrasingsOption = Annotated[
    int,
    typer.Option(
        help="Rephrasings added to each edit, in the wording of other records of its relation.",
        min=0,
    ),
]
SplitOption = Annotated[
    Path | None,
    typer.Option(help="split.json of `errata bench split`; names the relations of the records."),
]
NoCheckOption = Annotated[
    bool, typer.Option("--no-check", help="Commit edits even if they fail the writer's checks.")
]
CacheDirOption = Annotated[
    Path | None,
    typer.Option(
        help="Folder where statistics are cached; if left out, the one that the services use."
    ),
]


def edit(
    data: DataOption,
    out: OutOption,
    method: MethodOption = "adaple",
    dataset: DatasetOption = "counterfact",
    model: ModelOption = "",
    edits: EditsOption = 100,
    batch: BatchOption = 10,
    seed: SeedOption = 0,
    seeds: SeedsOption = 1,
    suite: SuiteOption = "sequential",
    preset: PresetOption = "",
    lane_config: LaneConfigOption = None,
    lane_model: LaneModelOption = None,
    in_process: InProcessOption = False,
    target: TargetOption = "",
    lane: LaneOption = "",
    scale: ScaleOption = "1,10,100,1000,10000",
    vary: VaryOption = None,
    records: RecordsOption = "0:",
    text: TextOption = None,
    heldout: HeldoutOption = None,
    retention: RetentionOption = None,
    references: ReferencesOption = None,
    texts: TextsOption = 0,
    form: FormOption = "text",
    generate: GenerateOption = 0,
    rephrasings: RephrasingsOption = 0,
    split: SplitOption = None,
    no_check: NoCheckOption = False,
    cache_dir: CacheDirOption = None,
    device: DeviceOption = "cpu",
) -> None:
    """Measures an editing method as the papers do, in process or through a cluster's gateway."""
    basics = method, dataset, data, out, model
    plan = plans.Plan(
        *basics,
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
        target=_place(in_process, target),
        lane=lane,
        records=plans.parse_range(records),
        text=text,
        auxiliary=plans.AuxiliaryData(heldout, tuple(retention or ()), references, texts),
        rephrasings=rephrasings,
        split=split,
        check=not no_check,
        cache_dir=cache_dir or plans.default_cache_dir(),
        device=device,
        asking=Asking(form, generate),
    )
    _run(plan)


def _place(in_process: bool, target: str) -> str:
    """The cluster to measure; empty for this process."""
    if in_process and target:
        raise InvalidRequestError("give --in-process or --target, not both.", field="target")
    return target


def _run(plan: plans.Plan) -> None:
    """Runs a plan, writes its results into its folder and prints the report."""
    from errata.evaluation.edit.bench import run
    from errata.evaluation.edit.plots import draw
    from errata.evaluation.edit.report import markdown
    from errata.evaluation.report import write

    found = run(plan, console())
    path = write(found, plan.out)
    report = markdown(found, draw(found, plan.out))
    (plan.out / "report.md").write_text(report, encoding="utf-8")
    print_document(report)
    console().print(f"written to {path}")


def suites() -> None:
    """Lists the suites of `errata bench edit --suite`."""
    from errata.evaluation.edit.suites import SUITES

    table = TextTable("suite", "what it runs", "methods")
    for name, suite in SUITES.items():
        table.add_row(name, suite.about, ", ".join(suite.methods) or "all")
    console().print(table)


def compare(
    runs: Annotated[list[Path], typer.Argument(help="Output folders of `errata bench edit`.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder for compare.md, compare.json and a plot.")
    ] = None,
) -> None:
    """Compares runs on the same model and data side by side."""
    from errata.evaluation.edit.compare import compared, paired_json, read_runs
    from errata.evaluation.edit.plots import draw_compared
    from errata.evaluation.report import write

    found = read_runs(runs)
    report = compared(found)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        draw_compared(found, out / "compare.png")
        write(paired_json(found), out, "compare.json")
        (out / "compare.md").write_text(f"{report}\n![Score](compare.png)\n", encoding="utf-8")
    print_document(report)
