"""Copies the console's style sheet and script out of npm packages, with their licences.

    python tools/console_assets.py

`tools/console_assets.toml` pins versions and digests. The copies are committed: neither a build nor
a running system needs npm or a network.
"""

from __future__ import annotations

import base64
import hashlib
import io
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PINS = ROOT / "tools/console_assets.toml"
VENDOR = ROOT / "services/errata/gateway/http/console/static/vendor"


def pins() -> list[dict[str, Any]]:
    """The packages, with the files that are taken from each."""
    found: list[dict[str, Any]] = tomllib.loads(PINS.read_text("utf-8"))["packages"]
    return found


def main() -> int:
    """Fetches the packages, compares them with their pins, and writes the files.

    Raises:
        SystemExit: a digest differs, or npm fails.
    """
    for pin in pins():
        data = _packed(f"{pin['package']}@{pin['version']}")
        digest = base64.b64encode(hashlib.sha512(data).digest()).decode()
        _compare(pin["package"], pin["integrity"], f"sha512-{digest}")
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            for file in pin["files"]:
                member = archive.extractfile(f"package/{file['path']}")
                if member is None:
                    raise SystemExit(f"{pin['package']} has no {file['path']}")
                content = member.read()
                _compare(file["path"], file["sha256"], hashlib.sha256(content).hexdigest())
                (VENDOR / file["name"]).write_bytes(content)
    return 0


def _packed(package: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        command = ["npm", "pack", package, "--silent", "--pack-destination", folder]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        files = list(Path(folder).iterdir())
        if done.returncode or len(files) != 1:
            raise SystemExit(f"npm could not fetch {package}: {done.stderr.strip()}")
        return files[0].read_bytes()


def _compare(what: str, pinned: str, found: str) -> None:
    if pinned != found:
        raise SystemExit(f"{what} has the digest {found}, and {PINS.name} says {pinned}")


if __name__ == "__main__":
    sys.exit(main())
