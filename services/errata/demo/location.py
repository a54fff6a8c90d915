"""Paths of the shipped model and its lanes."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from errata.errors import ModelNotFoundError


def model_path() -> Path:
    """Folder of the shipped model, for `from_pretrained`.

    Raises:
        ModelNotFoundError: the package was installed without its model, or from a zip file.
    """
    path = Path(str(files(__package__) / "model"))
    if not (path / "model.safetensors").is_file():
        raise ModelNotFoundError(
            f"no demo model in {path}; reinstall the package or train one with errata.demo.train"
        )
    return path


def lanes_path() -> Path:
    """The lanes file of the shipped model; the lane model is in the same folder."""
    return Path(str(files(__package__) / "lanes.toml"))
