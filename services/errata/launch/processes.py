"""Child processes that end when we do, with their output in files."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from errata.errors import StartupError

_POLL_SECONDS = 0.05


@dataclass(slots=True)
class Process:
    """One running child."""

    name: str
    popen: subprocess.Popen[bytes]
    log_path: Path
    _log_file: IO[bytes]

    @classmethod
    def start(
        cls, name: str, command: Sequence[str], environment: Mapping[str, str], log_path: Path
    ) -> Process:
        """Starts a child in a session of its own, so that Ctrl-C reaches it only through us."""
        log_path.parent.mkdir(parents=True, exist_ok=True)
        log_file = log_path.open("ab")
        popen = subprocess.Popen(
            command,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=log_file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        return cls(name, popen, log_path, log_file)

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self.popen.poll() is None

    def wait_until(self, ready: Callable[[], bool], timeout_seconds: float) -> None:
        """Returns once `ready()`.

        Raises:
            StartupError: the child ended, or the time is up; its last lines are in the message.
        """
        deadline = time.monotonic() + timeout_seconds
        while not ready():
            if not self.running:
                raise StartupError(
                    f"{self.name} ended with status {self.popen.returncode}:\n{self.tail()}",
                    process=self.name,
                )
            if time.monotonic() > deadline:
                raise StartupError(
                    f"{self.name} was not ready after {timeout_seconds:.0f} s:\n{self.tail()}",
                    process=self.name,
                )
            time.sleep(_POLL_SECONDS)

    def tail(self, num_lines: int = 15) -> str:
        """The last lines that it wrote."""
        lines = self.log_path.read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join(lines[-num_lines:])

    def stop(self, timeout_seconds: float) -> None:
        """Ends it and all that it started: first politely, then for certain."""
        if self.running:
            self.popen.terminate()
            try:
                self.popen.wait(timeout_seconds)
            except subprocess.TimeoutExpired:
                pass
        try:
            os.killpg(self.popen.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass  # nothing of its session is left
        self.popen.wait()
        self._log_file.close()

    def kill(self) -> None:
        """Ends it as a crash would."""
        self.popen.kill()
        self.popen.wait()
