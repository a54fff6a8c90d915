"""`errata bench …`: benchmarks, each rerun with one command.

| module | commands |
|---|---|
| `serve` | `serve`: throughput and latency, in several suites |
| `edit` | `edit`, `suites`, `compare`: editing methods as the papers measure them |
| `publish` | `publish`, `report`: committed results, and the pages made from them |
| `split` | `split`: training records without some relations and wordings |
| `paraphrase` | `paraphrase`: records with paraphrases that an LLM makes |
| `route` | `route`: searches of keys, by each kind of index |
| `scale` | `scale`: how a worker's costs grow with the edits of a lane |
| `system` | `system`, `observability`: whole systems on this machine |
"""

from __future__ import annotations

import typer

from errata.bench_cli import edit, paraphrase, publish, route, scale, serve, split, system

__all__ = ["bench"]

bench = typer.Typer(help="Measure; every run writes JSON.", no_args_is_help=True)
for _command in (
    serve.serve,
    system.system,
    edit.edit,
    route.route,
    scale.scale,
    system.observability,
    edit.suites,
    edit.compare,
    split.split,
    paraphrase.paraphrase,
    publish.publish,
    publish.report,
):
    bench.command()(_command)
