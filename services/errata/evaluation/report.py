"""What every benchmark records: its command, its machine, its code; and writing results."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any


def circumstances() -> dict[str, Any]:
    """The command and the machine that figures come from."""
    return {
        "command": shlex.join(["errata", *sys.argv[1:]]),
        "environment": {
            "python": platform.python_version(),
            "torch": version("torch"),
            "transformers": version("transformers"),
            "machine": platform.machine(),
            "cores": os.cpu_count(),
            "load_average": os.getloadavg()[0],
        },
    }


def code_version() -> str:
    """The git commit of the code, or the installed version where there is no repository.

    Uncommitted changes are marked: `{commit}-dirty-{digest of the changes}`.
    """
    try:
        head = _git("rev-parse", "HEAD").strip()
        code = ("--", ":/services", ":/clients")
        changes = _git("diff", "HEAD", *code) + _git("status", "--porcelain", *code)
    except (OSError, subprocess.CalledProcessError):
        return version("errata")
    if not changes:
        return head
    return f"{head}-dirty-{hashlib.sha256(changes.encode()).hexdigest()[:8]}"


def _git(*arguments: str) -> str:
    return subprocess.run(
        ["git", "-C", str(Path(__file__).parent), *arguments],
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def write(found: Mapping[str, Any], folder: Path, name: str = "result.json") -> Path:
    """Writes a JSON file into `folder`, which is created if missing; the write is atomic.

    Paths are written as they are named.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    scratch = path.with_suffix(".tmp")
    scratch.write_text(json.dumps(found, indent=2, default=str) + "\n", encoding="utf-8")
    scratch.replace(path)
    return path


def file_digest(path: Path) -> str:
    """SHA-256, hex, of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
