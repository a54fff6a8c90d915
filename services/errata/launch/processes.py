"""Child processes that end with their parent, with their output in files."""

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
_MAX_LOG_BYTES = 10_000_000  # a longer log is renamed when its process is started again
_TAIL_BYTES = 64_000


@dataclass(slots=True)
class Process:
    """One running child."""

    name: str
    popen: subprocess.Popen[bytes]
    log_path: Path
    _log_file: IO[bytes]
    _log_begin: int

    @classmethod
    def start(
        cls,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str],
        log_path: Path,
        *,
        pass_fds: Sequence[int] = (),
    ) -> Process:
        """Starts a child in its own session, so that Ctrl-C reaches it only through its parent.

        Its output is appended to the log of earlier children; a long log is first renamed to
        `{name}.log.1`.

        Args:
            name: for messages.
            command: program and arguments.
            environment: in addition to the parent's.
            log_path: file for its output.
            pass_fds: open files that it keeps open.
        """
        log_path.parent.mkdir(parents=True, exist_ok=True)
        if log_path.exists() and log_path.stat().st_size > _MAX_LOG_BYTES:
            log_path.replace(log_path.with_name(f"{log_path.name}.1"))
        log_file = log_path.open("ab")
        log_begin = log_file.tell()
        popen = subprocess.Popen(
            command,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=log_file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=pass_fds,
        )
        return cls(name, popen, log_path, log_file, log_begin)

    @property
    def running(self) -> bool:
        """Whether the child has not ended."""
        return self.popen.poll() is None

    def wait_until(
        self,
        ready: Callable[[], bool],
        timeout_seconds: float,
        given_up: Callable[[], bool] = lambda: False,
    ) -> None:
        """Returns once `ready` returns True.

        Raises:
            StartupError: the child ended, or the time is up; its last lines are in the message.
            KeyboardInterrupt: `given_up` returned True.
        """
        deadline = time.monotonic() + timeout_seconds
        while not ready():
            if given_up():
                raise KeyboardInterrupt
            if not self.running:
                raise self.ended()
            if time.monotonic() > deadline:
                raise StartupError(
                    f"{self.name} was not ready after {timeout_seconds:.0f} s:\n{self.tail()}",
                    process=self.name,
                )
            time.sleep(_POLL_SECONDS)

    def ended(self) -> StartupError:
        """The error for a child that has ended."""
        return StartupError(
            f"{self.name} ended with status {self.popen.returncode}:\n"
            f"{self.tail() or '(no output)'}\n({self.log_path})",
            process=self.name,
        )

    def tail(self, num_lines: int = 15) -> str:
        """The last lines that this process wrote, without those of earlier processes."""
        with self.log_path.open("rb") as log:
            end = log.seek(0, os.SEEK_END)
            log.seek(max(self._log_begin, end - _TAIL_BYTES))
            lines = log.read().decode(errors="replace").splitlines()
        return "\n".join(lines[-num_lines:])

    def stop(self, timeout_seconds: float) -> None:
        """Stops the child and all that it started: SIGTERM first, SIGKILL after the timeout."""
        if self.running:
            self.popen.terminate()
            try:
                self.popen.wait(timeout_seconds)
            except subprocess.TimeoutExpired:
                pass
        try:
            os.killpg(self.popen.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass  # no process of its session is left
        self.popen.wait()
        self._log_file.close()

    def kill(self) -> None:
        """Kills the child, as in a crash."""
        self.popen.kill()
        self.popen.wait()
