"""Reads the files of deploy/ for tests."""

from __future__ import annotations

import functools
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[3]
DEPLOY = ROOT / "deploy"
OVERLAYS = ("local", "gpu", "ha")
# Secrets and volumes that overlays expect the operator to create (docs/operations.md).
OF_THE_OPERATOR = {
    ("Secret", "redis"),
    ("Secret", "ray"),
    ("Secret", "artifacts"),
    ("PersistentVolumeClaim", "models"),
}

Object = dict[str, Any]


@functools.cache
def rendered(overlay: str) -> tuple[Object, ...]:
    """All objects of an overlay."""
    return render(DEPLOY / "kubernetes/overlays" / overlay)


def render(folder: Path) -> tuple[Object, ...]:
    """All objects of a folder with a kustomization."""
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed: overlays cannot be rendered")
    done = subprocess.run(
        ["kubectl", "kustomize", str(folder)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return tuple(yaml.safe_load_all(done.stdout))


def of_kind(overlay: str, kind: str) -> dict[str, Object]:
    """Objects of one kind, by name."""
    return {o["metadata"]["name"]: o for o in rendered(overlay) if o["kind"] == kind}


def pods(overlay: str) -> Iterator[tuple[str, Object]]:
    """Pod templates, by their owner."""
    yield from pods_of(rendered(overlay))


def pods_of(things: Iterable[Object]) -> Iterator[tuple[str, Object]]:
    """Pod templates among these objects, by their owner."""
    for thing in things:
        name = f"{thing['kind']}/{thing['metadata']['name']}"
        if thing["kind"] in ("Deployment", "StatefulSet"):
            yield name, thing["spec"]["template"]
        if thing["kind"] == "RayService":
            cluster = thing["spec"]["rayClusterConfig"]
            yield f"{name}/head", cluster["headGroupSpec"]["template"]
            for group in cluster["workerGroupSpecs"]:
                yield f"{name}/{group['groupName']}", group["template"]


def containers(overlay: str) -> Iterator[tuple[str, Object, Object]]:
    """Tuples of the pod's owner, its template and a container."""
    for name, template in pods(overlay):
        for container in template["spec"]["containers"]:
            yield name, template, container


def compose() -> Object:
    """The compose file."""
    read: Object = yaml.safe_load((DEPLOY / "compose/compose.yaml").read_text("utf-8"))
    return read
