"""Writes the hash-pinned requirements of images, development and audits.

    python tools/lock_requirements.py [--check]

| file | what |
|---|---|
| `deploy/images/requirements*.txt` | what the container images install |
| `requirements/dev.txt` | what `make setup` installs, for every supported Python |
| `requirements/audit.txt` | the tools of `make audit` and `make sbom` |

torch has its own files, or none: its CPU and CUDA builds differ, and only the CUDA build needs
NVIDIA's packages. uv finds the CUDA build; pip must be configured to find the CPU build.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
IMAGES = ROOT / "deploy/images"
_PROJECTS = (ROOT / "pyproject.toml", ROOT / "clients/python/pyproject.toml")
_EXTRAS_OF_IMAGES = ("s3", "tracing")
_EXTRAS_OF_DEVELOPMENT = ("dev", "docs", *_EXTRAS_OF_IMAGES)
_OF_AUDITS = ("cyclonedx-bom", "pip-audit")
_OF_CUDA = ("torch", "triton", "nvidia-", "cuda-")
_HEADER = "# Made by tools/lock_requirements.py: {}, with hashes.\n"


def requirements(extras: Sequence[str]) -> list[str]:
    """The dependencies of both projects and of their extras, without our own packages."""
    found: set[str] = set()
    for path in _PROJECTS:
        read = tomllib.loads(path.read_text("utf-8"))
        found |= set(read["project"]["dependencies"]) | set(read["build-system"]["requires"])
        for extra in extras:
            found |= set(read["project"].get("optional-dependencies", {}).get(extra, ()))
    return sorted(name for name in found if not name.startswith("errata"))


def locks() -> dict[Path, str]:
    """The lock files' texts."""
    constraints = ("--constraint", str(ROOT / "constraints.txt"))
    common, cuda = _split(_compiled(requirements(_EXTRAS_OF_IMAGES), *constraints))
    development, _ = _split(
        _compiled(requirements(_EXTRAS_OF_DEVELOPMENT), "--universal", *constraints)
    )
    audits = _compiled(_OF_AUDITS, "--universal")
    return {
        IMAGES / "requirements.txt": _HEADER.format("what all images install but torch") + common,
        IMAGES / "requirements-cuda.txt": _HEADER.format("torch's CUDA build") + cuda,
        IMAGES / "requirements-cpu.txt": _HEADER.format("torch's CPU build, x86-64") + _cpu_build(),
        ROOT / "requirements/dev.txt": _HEADER.format("what `make setup` installs but torch")
        + development,
        ROOT / "requirements/audit.txt": _HEADER.format("the tools of `make audit` and `make sbom`")
        + audits,
    }


def _compiled(wanted: Sequence[str], *options: str) -> str:
    uv = str(Path(sys.executable).with_name("uv"))
    command = [
        *(uv, "pip", "compile", "-", "--generate-hashes", "--python-version", "3.11", "--quiet"),
        *("--no-header", "--no-annotate", "--no-emit-index-url", "--no-emit-find-links", *options),
    ]
    done = subprocess.run(
        command, input="\n".join(wanted), capture_output=True, text=True, check=True
    )
    return done.stdout


def _split(text: str) -> tuple[str, str]:
    """Splits into what every environment needs, and torch with what only its CUDA build needs."""
    parts: tuple[list[str], list[str]] = ([], [])
    of_cuda = False
    for line in text.splitlines(keepends=True):
        if not line.startswith((" ", "#")):
            of_cuda = line.startswith(_OF_CUDA)
        parts[of_cuda].append(line)
    return "".join(parts[0]), "".join(parts[1])


def _cpu_build() -> str:
    """The wheel of torch that pip finds.

    Raises:
        SystemExit: it is not a CPU build.
    """
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed"]
    command += ["--quiet", "--no-deps", "--report", "-", "-c", str(ROOT / "constraints.txt")]
    done = subprocess.run([*command, "torch"], capture_output=True, text=True, check=True)
    (wheel,) = json.loads(done.stdout)["install"]
    version = wheel["metadata"]["version"]
    if not version.endswith("+cpu"):
        raise SystemExit(f"pip finds torch {version}; set PIP_INDEX_URL to torch's CPU builds")
    digest = wheel["download_info"]["archive_info"]["hashes"]["sha256"]
    return f"torch=={version} \\\n    --hash=sha256:{digest}\n"


def main() -> int:
    """Writes the locks; with --check, returns 1 if the files differ from them."""
    made = locks()
    if "--check" in sys.argv[1:]:
        return 0 if all(path.read_text("utf-8") == text for path, text in made.items()) else 1
    for path, text in made.items():
        path.write_text(text, "utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
