"""Writes the tables of docs/reliability.md from the figures of runs; none is typed by hand.

python -m tests.robustness.report build/robustness.json build/robustness-bugs.json
"""

from __future__ import annotations

import argparse
import ast
import json
import re
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from tests.robustness.__main__ import totals as totals_of

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "reliability.md"
PROMISES = tuple(f"P{number}" for number in range(1, 13))
# What a run counts as a trial of a promise; P8 and P12 are about arithmetic, which faults do not
# touch.
_TRIALS: Mapping[str, tuple[tuple[str, str], ...]] = {
    "P1": (("delivered", "entries delivered"),),
    "P2": (("acknowledged", "changes acknowledged"), ("kills", "kills")),
    "P3": (("acknowledged", "changes acknowledged"), ("retries", "retries")),
    "P4": (("grants", "epochs granted"),),
    "P5": (("answers_with_min_seq", "answers with min_seq"),),
    "P6": (("answers", "answers"),),
    "P7": (("answers", "answers"),),
    "P9": (("answers", "answers"),),
    "P10": (("acknowledged", "changes with an audit line"),),
    "P11": (("answers", "answers"),),
}
_SPANS = {
    "kill_to_acknowledged_seconds": "kill → first acknowledged change",
    "restart_to_acknowledged_seconds": "start of what was killed → first acknowledged change",
}
_CONVERGED = "heal_to_converged_seconds"


def tests_of_promises() -> dict[str, list[str]]:
    """Promise → files with a test that carries its mark."""
    found: defaultdict[str, set[str]] = defaultdict(set)
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            is_mark = isinstance(node, ast.Call) and ast.unparse(node.func).endswith("mark.promise")
            if is_mark and isinstance(node, ast.Call):
                for name in node.args:
                    found[ast.literal_eval(name)].add(str(path.relative_to(ROOT / "tests")))
    return {name: sorted(files) for name, files in found.items()}


def bound(trials: int) -> str:
    """What no failure in so many trials bounds the rate by, at 95 %: 3/N."""
    return f"{3 / trials:.1e}" if trials else "none"


def promise_table(totals: Mapping[str, Any], bugs: Sequence[Mapping[str, Any]]) -> list[str]:
    """A row for each promise."""
    lines = ["| promise | trials | bound 3/N | planted bugs caught | files with its tests |"]
    lines += ["|---|---|---|---|---|"]
    tests = tests_of_promises()
    for promise in PROMISES:
        counted = [(totals[key], words) for key, words in _TRIALS.get(promise, ())]
        trials = ", ".join(f"{n:,} {words}" for n, words in counted) or "not by faults"
        bounds = ", ".join(bound(n) for n, _ in counted) or "–"
        own = [bug for bug in bugs if bug["promise"] == promise]
        caught = f"{sum(bug['caught'] for bug in own)} of {len(own)}" if own else "–"
        files = tests.get(promise, [])
        shown = ", ".join(f"`{name}`" for name in files)
        lines.append(f"| {promise} | {trials} | {bounds} | {caught} | {shown} |")
    return lines


def run_table(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """A row for each kind of run."""
    lines = ["| runs | seconds | kills | acknowledged | delivered | answers | broken promises |"]
    lines += ["|---|---|---|---|---|---|---|"]
    for kind in dict.fromkeys(run["kind"] for run in runs):
        own = [run for run in runs if run["kind"] == kind]
        kills = sum(n for r in own for name, n in r["faults"].items() if name.endswith("kill"))
        columns = [sum(r[key] for r in own) for key in ("acknowledged", "delivered", "answers")]
        seconds = sum(r["seconds"] for r in own)
        broken = sum(len(r["violations"]) for r in own)
        cells = " | ".join(f"{n:,}" for n in (kills, *columns))
        lines.append(f"| {len(own)} × {kind} | {seconds:,.0f} | {cells} | {broken} |")
    return lines


def fault_table(totals: Mapping[str, Any]) -> list[str]:
    """A row for each process."""
    kinds = sorted({name.split(" ", 1)[1] for name in totals["faults"]})
    lines = [f"| process | {' | '.join(kinds)} |", "|---|" + "---|" * len(kinds)]
    for process in sorted({name.split(" ", 1)[0] for name in totals["faults"]}):
        cells = [f"{totals['faults'].get(f'{process} {kind}', 0):,}" for kind in kinds]
        lines.append(f"| {process} | {' | '.join(cells)} |")
    return lines


def recovery_table(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """How long until a change was acknowledged again: medians of the runs' figures, and the worst.

    The last row is of replicas: p50 and p99 over the runs.
    """
    lines = ["| from … to … | runs | times | p50 | p99 | worst |", "|---|---|---|---|---|---|"]
    for name, words in _SPANS.items():
        for kind in dict.fromkeys(run["kind"] for run in runs):
            own = [run[name] for run in runs if run["kind"] == kind and name in run]
            if own:
                p50, p99 = (median(item[each] for item in own) for each in ("p50", "p99"))
                spread = (p50, p99, max(item["max"] for item in own))
                lines.append(_span_row(words, kind, sum(item["num"] for item in own), spread))
    healed = sorted(run[_CONVERGED] for run in runs if _CONVERGED in run)
    if healed:
        p50, p99 = np.percentile(healed, (50, 99))
        words = "healed → all replicas at the log's head, with one digest"
        lines.append(_span_row(words, "system", len(healed), (float(p50), float(p99), healed[-1])))
    return lines


def _span_row(words: str, kind: str, times: float, spread: Sequence[float]) -> str:
    seconds = " | ".join(f"{value:.2f} s" for value in spread)
    return f"| {words} | {kind} | {times:,.0f} | {seconds} |"


def bug_table(bugs: Sequence[Mapping[str, Any]]) -> list[str]:
    """A row for each planted bug."""
    lines = ["| planted bug | breaks | caught | by |", "|---|---|---|---|"]
    for bug in bugs:
        verdict = "yes" if bug["caught"] else "**no**"
        check = bug["check"].rpartition("::")[2]
        lines.append(f"| {bug['name']} | {bug['promise']} | {verdict} | `{check}` |")
    return lines


def filled(page: str, tables: Mapping[str, Sequence[str]]) -> str:
    """The page with the lines between each pair of marks replaced."""
    for name, lines in tables.items():
        pattern = rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)"
        body = "\n".join(lines)
        page, times = re.subn(pattern, rf"\g<1>{body}\n\g<2>", page, flags=re.DOTALL)
        if times != 1:
            raise ValueError(f"the page has {times} places for {name}")
    return page


def main() -> int:
    """Rewrites the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path, nargs="+", help="files of `python -m tests.robustness`")
    parser.add_argument("bugs", type=Path, help="the file of `tests.robustness.plant_bugs`")
    options = parser.parse_args()
    files = [json.loads(path.read_text()) for path in options.runs]
    found = files[-1]
    bugs = json.loads(options.bugs.read_text())["bugs"]
    runs = [run for file in files for run in file["runs"]]
    totals = totals_of(runs)
    caught = sum(bug["caught"] for bug in bugs)
    summary = [
        f"{totals['runs']} runs, {totals['kills']:,} kills, "
        f"{totals['kills_that_lost_unsynced_data']:,} of them with unsynced data lost, "
        f"{totals['broken']} runs with a broken promise; planted bugs caught: {caught} of "
        f"{len(bugs)}. {found['machine']}, Python {found['python']}."
    ]
    tables = {
        "summary": summary,
        "promises": promise_table(totals, bugs),
        "runs": run_table(runs),
        "faults": fault_table(totals),
        "recovery": recovery_table(runs),
        "bugs": bug_table(bugs),
    }
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8"), tables), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
