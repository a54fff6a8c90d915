"""What the console takes from npm packages is what was pinned, with the licences."""

from __future__ import annotations

import hashlib

from tools.console_assets import VENDOR, pins


def test_the_vendored_files_are_the_pinned_ones_and_no_others() -> None:
    pinned = {file["name"]: file["sha256"] for pin in pins() for file in pin["files"]}
    found = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in VENDOR.iterdir()}
    assert found == pinned, "run `make console-assets`"


def test_every_package_comes_with_its_licence() -> None:
    for pin in pins():
        assert pin["licence"] in ("0BSD", "MIT")
        assert any("LICENSE" in file["name"] for file in pin["files"])
        assert pin["integrity"].startswith("sha512-")
