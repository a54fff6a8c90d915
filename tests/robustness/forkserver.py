"""Starts services in milliseconds: the imports are done once, and each service is a fork.

The services are what `errata serve NAME` runs, in a process and session of their own; only the
seconds that Python needs to import torch are saved, so that a run can afford thousands of kills.

    python -m tests.robustness.forkserver        commands on stdin, events on stdout, JSON a line
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import random
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.waiting import PATIENCE

_PR_SET_PDEATHSIG = 1


class ForkServer:
    """The parent's side."""

    def __init__(self, environment: Mapping[str, str], log_path: Path, *, with_torch: bool) -> None:
        """Starts the server, whose imports take seconds.

        Args:
            environment: of all services, in addition to this process's.
            log_path: gets what the server itself says.
            with_torch: also serves what needs torch; the log service does not.
        """
        log_path.parent.mkdir(parents=True, exist_ok=True)
        with log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.robustness.forkserver", str(int(with_torch))],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env={**os.environ, **environment},
                text=True,
            )
        self._changed = threading.Condition()
        self._started: dict[int, int] = {}
        self._ended: dict[int, int] = {}
        self._number = 0
        self._closed = False
        threading.Thread(target=self._read, daemon=True).start()

    def start(self, command: Sequence[str], environment: Mapping[str, str], log_path: Path) -> int:
        """Starts `errata COMMAND`, or `worker`; returns its process id."""
        with self._changed:
            self._number += 1
            number = self._number
        order = {
            "number": number,
            "command": list(command),
            "environment": dict(environment),
            "log": str(log_path),
        }
        assert self._process.stdin is not None
        with self._changed:
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()
            self._wait_for(lambda: number in self._started, "a fork")
            return self._started[number]

    def status(self, pid: int) -> int | None:
        """The exit status of a child, negative for a signal; None while it runs."""
        with self._changed:
            return self._ended.get(pid)

    def wait(self, pid: int) -> int:
        """The exit status of a child, once it has ended."""
        with self._changed:
            self._wait_for(lambda: pid in self._ended, f"the end of process {pid}")
            return self._ended[pid]

    def close(self) -> None:
        """Ends the server, and with it all children."""
        self._closed = True
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()

    def _wait_for(self, true: Any, what: str) -> None:
        done = self._changed.wait_for(lambda: true() or self._closed, PATIENCE)
        assert done, f"the fork server did not report {what}"

    def _read(self) -> None:
        assert self._process.stdout is not None
        try:
            for line in self._process.stdout:
                event = json.loads(line)
                with self._changed:
                    if "number" in event:
                        self._started[event["number"]] = event["pid"]
                    else:
                        self._ended[event["pid"]] = event["status"]
                    self._changed.notify_all()
        except ValueError:
            pass  # the pipe was closed
        with self._changed:
            self._closed = True
            self._changed.notify_all()


def _preload(*, with_torch: bool) -> None:
    import errata.cli
    import errata.log.main
    import errata.platform.security.active
    import errata.serve_cli

    if with_torch:
        import torch

        import errata.retrieval.main
        import errata.worker.replica
        import errata.writer.main  # noqa: F401

        torch.set_num_threads(1)
    gc.collect()
    gc.freeze()


def _child(order: Mapping[str, Any]) -> None:
    """Becomes the service; does not return."""
    os.setsid()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    null = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((null, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    os.environ.update(order["environment"])
    random.seed()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    status = 1
    try:
        if order["command"] == ["worker"]:
            from tests.robustness import serve_worker

            serve_worker.main()
        else:
            from errata import cli

            sys.argv = ["errata", *order["command"]]
            cli.main()
        status = 0
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def main() -> None:
    _preload(with_torch=sys.argv[1] == "1")
    pending = b""
    while True:
        ready, _, _ = select.select([0], [], [], 0.01)
        if ready:
            data = os.read(0, 1 << 20)
            if not data:
                return
            pending += data
            *lines, pending = pending.split(b"\n")
            for line in lines:
                order = json.loads(line)
                pid = os.fork()
                if pid == 0:
                    _child(order)
                _say({"number": order["number"], "pid": pid})
        _reap()


def _reap() -> None:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        _say({"pid": pid, "status": os.waitstatus_to_exitcode(status), "at": time.monotonic()})


def _say(event: Mapping[str, Any]) -> None:
    os.write(1, json.dumps(event).encode() + b"\n")


if __name__ == "__main__":
    main()
