"""Writes the hash-pinned requirements of the container images from pyproject.toml and constraints.

    python tools/lock_images.py [--check]

torch has its own files: its CPU and CUDA builds differ, and only the CUDA build needs NVIDIA's
packages. uv finds the CUDA build; pip must be configured to find the CPU build.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
IMAGES = ROOT / "deploy/images"
_PROJECTS = (ROOT / "pyproject.toml", ROOT / "clients/python/pyproject.toml")
_EXTRAS = ("s3", "tracing")
_OF_CUDA = ("torch", "triton", "nvidia-", "cuda-")
_HEADER = "# Made by tools/lock_images.py: {}, with hashes.\n"


def requirements() -> list[str]:
    """The dependencies of both projects and of the images' extras, without our own packages."""
    found: set[str] = set()
    for path in _PROJECTS:
        project = tomllib.loads(path.read_text("utf-8"))["project"]
        found |= set(project["dependencies"])
        for extra in _EXTRAS:
            found |= set(project.get("optional-dependencies", {}).get(extra, ()))
    build = tomllib.loads(_PROJECTS[0].read_text("utf-8"))["build-system"]["requires"]
    return sorted(name for name in {*found, *build} if not name.startswith("errata"))


def locks() -> dict[Path, str]:
    """The lock files' texts."""
    command = [
        *(
            str(Path(sys.executable).with_name("uv")),
            "pip",
            "compile",
            "-",
            "--constraint",
            str(ROOT / "constraints.txt"),
        ),
        *("--generate-hashes", "--python-version", "3.11", "--quiet", "--no-header"),
        *("--no-annotate", "--no-emit-index-url", "--no-emit-find-links"),
    ]
    done = subprocess.run(
        command, input="\n".join(requirements()), capture_output=True, text=True, check=True
    )
    common, cuda = _split(done.stdout)
    return {
        IMAGES / "requirements.txt": _HEADER.format("what all images install but torch") + common,
        IMAGES / "requirements-cuda.txt": _HEADER.format("torch's CUDA build") + cuda,
        IMAGES / "requirements-cpu.txt": _HEADER.format("torch's CPU build, x86-64") + _cpu_build(),
    }


def _split(text: str) -> tuple[str, str]:
    """Splits into what every image needs, and torch with what only its CUDA build needs."""
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
