"""Whole runs: a rig, clients and a nemesis, and the judgement of what they did."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from errata.platform.security.audit import verify
from errata.platform.telemetry import configure_logging
from errata_client import Client
from errata_client._gen.errata.v1 import retrieval_pb2, retrieval_pb2_grpc
from tests.robustness.clients import Clients, LogClients, SystemClients
from tests.robustness.convergence import wait_converged
from tests.robustness.history import Answer, History
from tests.robustness.judge import Least, judge
from tests.robustness.log_reading import read_log
from tests.robustness.nemesis import Nemesis
from tests.robustness.rig import ELDER, LOG_ONLY, RECIPE, WHOLE, Rig
from tests.robustness.shim import Shim
from tests.waiting import PATIENCE


@dataclass
class Result:
    """The outcome of a run."""

    violations: list[str]
    figures: dict[str, Any] = field(default_factory=dict)


def run_log(
    folder: Path,
    *,
    seconds: float,
    seed: int,
    drops: bool = False,
    rounds: int = 0,
    sweeps: bool = False,
) -> Result:
    """Redis and the log service under clients that play writers and subscribers.

    Args:
        folder: for all data; empty.
        seconds: how long the nemesis works.
        seed: of nemesis and clients.
        drops: a kill also loses what the process had not synced.
        rounds: number of faults; 0 goes by time.
        sweeps: the nemesis goes through all failpoints instead, however long that takes.
    """
    configure_logging("error", "console", "robustness")  # subscribers say whom they lost
    history = History()
    shim = Shim(folder / "shim", seed=seed, delay_us=1_000) if drops else None
    with Rig(folder / "data", LOG_ONLY, history, shim=shim) as rig:
        rig.start_all()
        clients = LogClients(history, seed, rig.addresses["log"])
        clients.start(clients.take_over, "epochs")
        for number in range(4):
            clients.start(clients.append, f"appends-{number}")
        clients.start(clients.subscribe("subscriber-0", "subscriber-1"), "subscribes")
        nemesis = Nemesis(rig, clients, seed, kills_only=drops)
        least = Least(50, 0, 50, 5)
        _rage(rig, clients, nemesis, seconds, rounds, least, sweeps=sweeps)
        clients.stop()
        violations = _judged(rig, clients, least)
    figures = _figures(history, nemesis)
    if shim is not None:
        figures["kills_that_lost_unsynced_data"] = shim.num_dropped
    return Result(violations, figures)


def run_system(
    folder: Path, *, seconds: float, seed: int, rounds: int = 0, sweeps: bool = False
) -> Result:
    """The whole system under clients that edit, revert, compact and ask; as `run_log`."""
    configure_logging("error", "console", "robustness")
    history = History()
    with Rig(folder / "data", WHOLE, history) as rig:
        rig.start_all()
        clients = SystemClients(history, seed, rig.addresses)
        for lane in (RECIPE, RECIPE, ELDER):
            clients.start(clients.edit(lane), f"edits-{lane}-{len(clients.names)}")
        clients.start(clients.revert, "reverts")
        clients.start(clients.compact(ELDER), "compacts")
        clients.start(clients.subscribe("subscriber"), "subscribes")
        for name in ("retrieval-1", "retrieval-2"):
            clients.start(clients.route(name), f"routes-{name}")
        clients.start(clients.ask, "asks")
        nemesis, least = Nemesis(rig, clients, seed), Least(20, 50, 20, 5)
        healed = _rage(rig, clients, nemesis, seconds, rounds, least, sweeps=sweeps)
        clients.stop()
        _settle(rig, clients)
        violations = _judged(rig, clients, least)
    return Result(violations, _figures(history, nemesis) | healed)


def _rage(
    rig: Rig,
    clients: Clients,
    nemesis: Nemesis,
    seconds: float,
    rounds: int,
    least: Least,
    *,
    sweeps: bool,
) -> dict[str, Any]:
    """Lets the nemesis work, heals, and waits until there was traffic enough to mean anything.

    Returns:
        `heal_to_converged_seconds`, while clients go on; nothing if there are no replicas.
    """
    begun = time.monotonic()
    while clients.last_ok == 0.0 and time.monotonic() < begun + PATIENCE:
        time.sleep(0.02)
    if sweeps:
        nemesis.sweep()
    else:
        nemesis.run(seconds, rounds)
    figures: dict[str, Any] = {}
    if not clients.problems:
        healing = time.monotonic()
        rig.heal()
        if rig.replicas():
            if not wait_converged(rig.addresses["log"], rig.replicas):
                clients.problems.append("the replicas did not converge")
            figures["heal_to_converged_seconds"] = round(time.monotonic() - healing, 3)
    end = time.monotonic() + PATIENCE
    while not clients.problems and time.monotonic() < end:
        counts = clients.history.figures()
        if all(counts[n] >= getattr(least, n) for n in ("acknowledged", "answers", "delivered")):
            break
        time.sleep(0.1)
    return figures


def _settle(rig: Rig, clients: SystemClients) -> None:
    """Waits until every edit has an outcome, and asks everybody for the final state."""
    if clients.problems:
        return
    history = clients.history
    with Client(rig.addresses["writer"], timeout=PATIENCE) as client:
        for begin in range(0, len(clients.names), 100):
            client.wait_edits(clients.names[begin : begin + 100])
        for edit in client.list_edits():
            history.final_states[edit.name] = edit.state.name.lower()
    head = len(read_log(rig.addresses["log"]))
    for name in ("retrieval-1", "retrieval-2"):
        with grpc.insecure_channel(rig.addresses[name]) as channel:
            stub = retrieval_pb2_grpc.RetrievalServiceStub(channel)
            asked = retrieval_pb2.RouteRequest(prompts=["x"], min_seq=head, lanes=[RECIPE])
            stub.Route(asked, timeout=PATIENCE)
            found = stub.GetRetrievalStatus(retrieval_pb2.GetRetrievalStatusRequest())
        answer = Answer(
            "retrieval",
            found.replica,
            head,
            found.applied_seq,
            found.chain_digest.hex(),
            found.state_digest,
            sum(lane.num_edits for lane in found.lanes),
        )
        history.add("answers", answer)


def _judged(rig: Rig, clients: Clients, least: Least) -> list[str]:
    if clients.problems:
        return [f"problem: {text}" for text in clients.problems]
    entries = read_log(rig.addresses["log"])
    return judge(clients.history, entries, least) + _audited(rig, clients.history)


def _audited(rig: Rig, history: History) -> list[str]:
    """What is wrong with the log service's audit log: each acknowledged entry has its lines.

    The line after a change is not synced, so it can be missing where unsynced writes are lost.
    """
    path = rig.folder / "audit/log.jsonl"
    _, problem = verify(path)
    if problem is not None:
        return [f"audit: {problem.file} line {problem.line}: {problem.what}"]
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    acknowledged = [change.seq for change in history.acknowledged()]
    if rig.shim is not None:
        begun = sum(line["outcome"] == "begun" for line in lines)
        if begun >= len(acknowledged):
            return []
        return [f"audit: {len(acknowledged)} were acknowledged, and {begun} had begun"]
    done = {line["seq"] for line in lines if line["outcome"] == "ok"}
    missing = [seq for seq in acknowledged if seq not in done]
    return [f"audit: {seq} was acknowledged and has no line" for seq in missing[:3]]


def _figures(history: History, nemesis: Nemesis) -> dict[str, Any]:
    figures = history.figures()
    spans = {
        "kill_to_acknowledged_seconds": nemesis.recoveries,
        "restart_to_acknowledged_seconds": nemesis.restarts,
    }
    figures |= {name: _spread(seconds) for name, seconds in spans.items() if seconds}
    figures["failpoint_deaths"] = dict(sorted(nemesis.deaths.items()))
    figures["failpoints"] = dict(sorted(nemesis.points.items()))
    return figures


def _spread(seconds: Sequence[float]) -> dict[str, float]:
    p50, p99 = np.percentile(seconds, (50, 99))
    found = {"p50": float(p50), "p99": float(p99), "max": max(seconds), "num": len(seconds)}
    return {name: round(value, 3) for name, value in found.items()}
