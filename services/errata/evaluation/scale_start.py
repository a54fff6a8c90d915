"""Times the start of a worker: a fresh process from its execution to its first answer.

`python -m errata.evaluation.scale_start` is that process. It imports what a worker imports, loads
the model, restores the snapshot into an engine and answers a prompt. Ray and the log service are
left out: what they take does not depend on the number of edits.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from errata.errors import StartupError

if TYPE_CHECKING:
    from errata.editing.model.causal_lm import CausalLM
    from errata.replica.applier import Applier

_FILE = "worker-start.json"


def time_start(
    folder: Path, *, model: str, artifacts: Path, index: str, entry: bytes, prompt: str
) -> dict[str, float]:
    """Starts a worker from a snapshot and waits for its first answer.

    Args:
        folder: for a file that tells the process what to do.
        model: folder of the LLM.
        artifacts: folder of the artifact store.
        index: kind of the key index.
        entry: the payload of the log entry that names the snapshot.
        prompt: to answer.

    Returns:
        `worker_start_seconds` in all; `worker_imports_seconds`, `worker_model_seconds`,
        `worker_state_seconds` and `worker_answer_seconds` of that.

    Raises:
        StartupError: the process failed.
    """
    task = {"model": model, "artifacts": str(artifacts), "index": index}
    file = folder / _FILE
    file.write_text(json.dumps({**task, "entry": entry.hex(), "prompt": prompt}))
    began = time.monotonic()  # one clock for all processes of a machine
    done = subprocess.run(
        [sys.executable, "-m", "errata.evaluation.scale_start", str(file), str(began)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise StartupError(f"the worker did not start:\n{done.stderr[-2000:]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


async def _start(task: dict[str, str], began: float) -> dict[str, float]:
    # Imported here, so that their time counts.
    import torch

    from errata.artifacts.store import ArtifactStore
    from errata.editing.model.causal_lm import CausalLM
    from errata.indices.faiss_indices import FaissIndices
    from errata.log.chain import ChainedEntry
    from errata.log.entries import SnapshotTaken
    from errata.log.payload_convert import decode
    from errata.replica.applier import Applier
    from errata.replica.snapshot_parts import load_snapshot

    importlib.import_module("errata.worker.replica")  # with all that a worker imports
    torch.set_num_threads(1)
    times = [began, time.monotonic()]
    model = CausalLM.load(task["model"])
    times.append(time.monotonic())
    named = decode(ChainedEntry(1, bytes.fromhex(task["entry"]), b"")).payload
    assert isinstance(named, SnapshotTaken)
    store = ArtifactStore(task["artifacts"])
    applier = Applier(model, store, FaissIndices(task["index"]))
    applier.restore(
        await load_snapshot(store, named, model.digest, holds=applier.holds, with_memory=False)
    )
    times.append(time.monotonic())
    await _answer(model, applier, task["prompt"])
    times.append(time.monotonic())
    names = ("imports", "model", "state", "answer")
    spans = zip(names, times, times[1:], strict=False)
    found = {f"worker_{name}_seconds": end - start for name, start, end in spans}
    return {"worker_start_seconds": times[-1] - began, **found}


async def _answer(model: CausalLM, applier: Applier, prompt: str) -> None:
    """One token, routed as a worker routes it."""
    from errata.engine.engine import Engine
    from errata.engine.limits import EngineLimits
    from errata.engine.sequence import Version
    from errata.engine.serving_state import ServingState
    from errata.worker.admission import GenerationInput, generation
    from errata.worker.lane_router import LaneRouter

    table = applier.routing()
    router = None if table is None else LaneRouter(table, table.claims)
    version = Version(1, bytes(32), applier.digest(), applier.num_edits)
    state = ServingState(version, applier.attribution(), router)
    engine = Engine(model, state, EngineLimits())
    await engine.start()
    try:
        asked = GenerationInput(prompt, max_tokens=1)
        async for _ in engine.generate(
            generation(model, asked, 1, streaming=False, timeout_seconds=600.0)
        ):
            pass
    finally:
        await engine.close()


if __name__ == "__main__":
    with open(sys.argv[1], encoding="utf-8") as given:
        measured = asyncio.run(_start(json.load(given), float(sys.argv[2])))
    sys.stdout.write(json.dumps(measured))
    sys.stdout.flush()
    os._exit(0)  # a thread may still be making the index of keys
