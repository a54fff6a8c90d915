"""Writes the hash-pinned requirements of the container images from pyproject.toml and constraints.

    python tools/lock_images.py [--check]

torch is not among them: its builds for CPU and CUDA have one version and different files.
"""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "deploy/images/requirements.txt"
_PROJECTS = (ROOT / "pyproject.toml", ROOT / "clients/python/pyproject.toml")
_EXTRAS = ("s3", "tracing")
_APART = ("torch", "triton")
_HEADER = "# Made by tools/lock_images.py: what the images install, with hashes; torch apart.\n"


def requirements() -> list[str]:
    """What both projects depend on, the images' extras included, without our own packages."""
    found: set[str] = set()
    for path in _PROJECTS:
        project = tomllib.loads(path.read_text("utf-8"))["project"]
        found |= set(project["dependencies"])
        for extra in _EXTRAS:
            found |= set(project.get("optional-dependencies", {}).get(extra, ()))
    build = tomllib.loads(_PROJECTS[0].read_text("utf-8"))["build-system"]["requires"]
    return sorted(name for name in {*found, *build} if not name.startswith("errata"))


def lock() -> str:
    """The lock file's text."""
    command = [
        *("uv", "pip", "compile", "-", "--constraint", str(ROOT / "constraints.txt")),
        *("--generate-hashes", "--python-version", "3.11", "--quiet", "--no-header"),
        *("--no-annotate", "--no-emit-index-url", "--no-emit-find-links"),
    ]
    done = subprocess.run(
        command, input="\n".join(requirements()), capture_output=True, text=True, check=True
    )
    return _HEADER + _without(done.stdout, _APART)


def _without(text: str, names: tuple[str, ...]) -> str:
    """Leaves packages out, and with them what only a CUDA build of torch needs."""
    kept, leaving = [], False
    for line in text.splitlines(keepends=True):
        if not line.startswith((" ", "#")):
            name = line.partition("==")[0]
            leaving = name in names or name.startswith(("nvidia-", "cuda-"))
        if not leaving:
            kept.append(line)
    return "".join(kept)


def main() -> int:
    """Writes the lock, or says whether it is what would be written."""
    text = lock()
    if "--check" in sys.argv[1:]:
        return 0 if LOCK.read_text("utf-8") == text else 1
    LOCK.write_text(text, "utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
