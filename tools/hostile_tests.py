"""Runs tests under the conditions of other machines: `make test-hostile`.

Other kernels sum in other orders, so that a fit's last digits differ; on a slow or busy machine
everything takes longer. Tests must depend on neither. Each setting below is a run of pytest with an
environment, a set of cores and busy processes in parallel; a table at the end shows the outcomes.

    python tools/hostile_tests.py                       # every setting, the tests with fits
    python tools/hostile_tests.py --only avx2 --only busy
    python tools/hostile_tests.py -- tests/unit/writer -k reliability
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FITS = ("tests/unit", "tests/integration/retrieval", "tests/integration/system")
EVERYTHING = ("tests",)
_SIDE_BY_SIDE = ("-n", "2", "--dist", "loadgroup", "--no-loadscope-reorder")


@dataclass(frozen=True)
class Setting:
    """A machine to imitate.

    Attributes:
        environment: variables of pytest and of all processes that tests start.
        needs: required CPU flags of /proc/cpuinfo.
        folder: first on the path of Python modules; none if empty.
        num_cores: number of cores for the run; 0 uses all.
        num_busy: number of busy processes in parallel.
        suites: the tests that it can affect: those with fits, or all of them.
    """

    environment: Mapping[str, str] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    folder: str = ""
    num_cores: int = 0
    num_busy: int = 0
    suites: tuple[str, ...] = FITS


SETTINGS: Mapping[str, Setting] = {
    "native": Setting(),
    # With MKL_CBWR, MKL follows the given branch on AMD, too.
    "plain": Setting(
        {
            "ATEN_CPU_CAPABILITY": "default",
            "ONEDNN_MAX_CPU_ISA": "SSE41",
            "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
            "MKL_CBWR": "COMPATIBLE",
            "OPENBLAS_CORETYPE": "Nehalem",
        }
    ),
    "avx2": Setting(
        {
            "ATEN_CPU_CAPABILITY": "avx2",
            "ONEDNN_MAX_CPU_ISA": "AVX2",
            "MKL_ENABLE_INSTRUCTIONS": "AVX2",
            "MKL_CBWR": "AVX2",
            "OPENBLAS_CORETYPE": "Haswell",
        },
        needs=("avx2",),
    ),
    "avx512": Setting(
        {"ATEN_CPU_CAPABILITY": "avx512", "MKL_CBWR": "AVX512", "OPENBLAS_CORETYPE": "SkylakeX"},
        needs=("avx512f", "avx512bw", "avx512vl", "avx512dq"),
    ),
    "tiles": Setting(folder="tests/tiles"),  # fits in bf16, as on CPUs with AMX
    "one-thread": Setting({"ERRATA_TEST_THREADS": "1", "OMP_NUM_THREADS": "1"}),
    "two-threads": Setting({"ERRATA_TEST_THREADS": "2", "OMP_NUM_THREADS": "2"}),
    "jitter-1": Setting({"ERRATA_TEST_JITTER": "1"}),
    "jitter-2": Setting({"ERRATA_TEST_JITTER": "2"}),
    "jitter-3": Setting({"ERRATA_TEST_JITTER": "3"}),
    "one-core": Setting(num_cores=1, suites=EVERYTHING),
    "busy": Setting(num_busy=2, suites=EVERYTHING),
}


@dataclass(frozen=True)
class Outcome:
    """The outcome of one run.

    Attributes:
        name: of the setting.
        status: exit status of pytest; None if the machine cannot run the setting.
        summary: pytest's last line, or why the run was skipped.
        seconds: wall clock.
    """

    name: str
    status: int | None
    summary: str
    seconds: float

    @property
    def holds(self) -> bool:
        """Whether nothing failed."""
        return self.status in (0, None)


def missing(setting: Setting) -> str:
    """What this machine lacks for a setting; empty if nothing."""
    flags = cpu_flags()
    lacking = [flag for flag in setting.needs if flag not in flags]
    if lacking:
        return f"this CPU has no {', '.join(lacking)}"
    if setting.num_cores and not hasattr(os, "sched_setaffinity"):
        return "this system cannot keep a process on a core"
    return ""


def cpu_flags() -> frozenset[str]:
    """The CPU's flags as Linux names them; empty if there is no such list."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return frozenset()
    found = re.search(r"^flags\s*:(.*)$", text, re.M)
    return frozenset(found[1].split()) if found else frozenset()


def run(name: str, setting: Setting, arguments: Sequence[str]) -> Outcome:
    """Runs pytest under one setting and forwards its output to the terminal."""
    lacking = missing(setting)
    if lacking:
        return Outcome(name, None, lacking, 0.0)
    command = [sys.executable, "-u", "-m", "pytest", *arguments]
    path = [str(ROOT / setting.folder)] if setting.folder else []
    path += filter(None, [os.environ.get("PYTHONPATH", "")])
    begun = time.monotonic()
    last = ""
    with _busy(setting.num_busy), _kept_on(setting.num_cores):
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, **setting.environment, "PYTHONPATH": os.pathsep.join(path)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert process.stdout is not None
        try:
            for line in process.stdout:
                sys.stdout.write(line)
                sys.stdout.flush()
                last = line.strip(" =\n") or last
            status = process.wait()
        finally:
            process.terminate()
            process.wait()
    return Outcome(name, status, last, time.monotonic() - begun)


@contextmanager
def _busy(number: int) -> Iterator[None]:
    """Runs busy processes while inside."""
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_spin, daemon=True) for _ in range(number)]
    for process in processes:
        process.start()
    try:
        yield
    finally:
        for process in processes:
            process.terminate()
            process.join()


def _spin() -> None:
    parent = os.getppid()
    while os.getppid() == parent:  # ends if the run is killed
        sum(range(1_000_000))


@contextmanager
def _kept_on(num_cores: int) -> Iterator[None]:
    """Limits this process and its children to some of the cores."""
    if not num_cores:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(before)[:num_cores])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def table(outcomes: Sequence[Outcome]) -> str:
    """One line per setting."""
    width = max(len(outcome.name) for outcome in outcomes)
    words = {True: "holds", False: "FAILED"}
    lines = []
    for one in outcomes:
        word = "skipped" if one.status is None else words[one.holds]
        lines.append(f"{one.name:{width}}  {word:7}  {one.seconds:7.0f} s  {one.summary}")
    return "\n".join(lines)


def main() -> int:
    """Runs the selected settings; returns 1 if any failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=_Plain)
    parser.add_argument("--only", action="append", choices=SETTINGS, help="repeatable")
    parser.add_argument("--list", action="store_true", help="show the settings and exit")
    parser.add_argument("pytest", nargs="*", help="pytest's arguments; by default each setting's")
    options = parser.parse_args()
    if options.list:
        for name, setting in SETTINGS.items():
            sys.stdout.write(f"{name}: {setting} {missing(setting)}\n")
        return 0
    outcomes = []
    for name in options.only or SETTINGS:
        sys.stdout.write(f"\n=== {name}: {SETTINGS[name]}\n")
        arguments = options.pytest or [*_SIDE_BY_SIDE, *SETTINGS[name].suites]
        outcomes.append(run(name, SETTINGS[name], arguments))
        sys.stdout.write(f"\n{table(outcomes)}\n")
    return int(not all(outcome.holds for outcome in outcomes))


class _Plain(argparse.RawDescriptionHelpFormatter):
    """Keeps the lines of the description."""


if __name__ == "__main__":
    sys.exit(main())
