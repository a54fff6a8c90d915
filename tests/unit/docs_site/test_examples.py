"""The example that only a cluster could run: its object and its command line are valid."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import kubernetes_validate
import typer
import yaml

from errata.cli import app
from tests.unit.deploy.test_kubernetes import KUBERNETES

FILE = Path(__file__).parents[3] / "docs/examples/cronjob.yaml"


def test_the_cronjob_fits_kubernetes_and_the_command() -> None:
    job = yaml.safe_load(FILE.read_text("utf-8"))
    kubernetes_validate.validate(job, KUBERNETES, strict=True)
    pod = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    name, *arguments = container["args"]
    command: Any = typer.main.get_command(app)
    context = command.commands[name].make_context(name, arguments)
    assert context.params["file"] == Path("/corrections/corrections.csv")
    assert (context.params["rate"], context.params["on_conflict"]) == (5.0, "last")
    mounted = {mount["mountPath"] for mount in container["volumeMounts"]}
    for path in (context.params["file"], context.params["report"]):
        assert str(path.parent) in mounted
    assert {mount["name"] for mount in container["volumeMounts"]} == {
        volume["name"] for volume in pod["volumes"]
    }
