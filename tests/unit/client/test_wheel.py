"""Contents of the SDK's distribution."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from email import message_from_bytes
from pathlib import Path

_ROOT = Path(__file__).parents[3]
_CLIENT = _ROOT / "clients" / "python"


def test_the_wheel_has_a_licence_and_a_readme_of_its_own(tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(_CLIENT, source, ignore=shutil.ignore_patterns("*.egg-info", "build"))
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run(
        [*command, "--disable-pip-version-check", "--no-index", "-w", str(tmp_path), str(source)],
        check=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (licence,) = [name for name in names if name.endswith(".dist-info/licenses/LICENSE")]
        assert archive.read(licence) == (_ROOT / "LICENSE").read_bytes()
        (metadata,) = [name for name in names if name.endswith(".dist-info/METADATA")]
        told = message_from_bytes(archive.read(metadata))
    assert told["License-Expression"] == "Apache-2.0"
    assert told["Description-Content-Type"] == "text/markdown"
    readme = (_CLIENT / "README.md").read_text(encoding="utf-8")
    assert told.get_payload(decode=True) == readme.encode()
    assert "ERRATA_TARGET" in readme
    assert len(readme.splitlines()) > 15
