"""Components that an operator adds to an overlay."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml

from errata.platform.addresses import host_and_port
from errata.platform.security.rules import SERVICES
from tests.unit.deploy.manifests import (
    DEPLOY,
    OVERLAYS,
    Object,
    pods_of,
    render,
    rendered,
)

pytestmark = pytest.mark.parametrize("overlay", OVERLAYS)


def _with(overlay: str, components: list[str], folder: Path) -> tuple[Object, ...]:
    """All objects of an overlay to which an operator adds components."""
    kubernetes = Path(os.path.relpath(DEPLOY / "kubernetes", folder))
    own = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "namespace": "errata",
        "resources": [str(kubernetes / "overlays" / overlay)],
        "components": [str(kubernetes / "components" / name) for name in components],
    }
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(own), encoding="utf-8")
    return render(folder)


def test_a_managed_redis_takes_the_place_of_ours(overlay: str, tmp_path: Path) -> None:
    things = _with(overlay, ["managed-redis"], tmp_path)
    gone = {(thing["kind"], thing["metadata"]["name"]) for thing in rendered(overlay)} - {
        (thing["kind"], thing["metadata"]["name"]) for thing in things
    }
    kinds = {"StatefulSet", "Service", "PodDisruptionBudget", "NetworkPolicy"}
    assert gone == {(kind, "redis") for kind in kinds}


@pytest.mark.parametrize("others", [[], ["tls"]])
def test_a_standby_writer_is_ready_without_being_healthy(
    overlay: str, others: list[str], tmp_path: Path
) -> None:
    things = _with(overlay, [*others, "standby"], tmp_path)
    found = {
        (thing["kind"], thing["metadata"]["name"].partition("-")[0]): thing for thing in things
    }
    writer = found["Deployment", "writer"]["spec"]
    assert writer["replicas"] == 2
    assert writer["strategy"]["rollingUpdate"] == {"maxUnavailable": 1, "maxSurge": 0}
    (container,) = writer["template"]["spec"]["containers"]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert {"tcpSocket", "grpc", "exec"} & container[probe].keys() == {"tcpSocket"}
    settings = found["ConfigMap", "errata"]["data"]
    assert settings["ERRATA_WRITER__STANDBY"] == "true"
    host, port = host_and_port(settings["ERRATA_WRITER__TARGET"].removeprefix("dns:///"))
    service = found["Service", host]["spec"]
    assert service["clusterIP"] == "None", "the name has the addresses of both"
    assert service["publishNotReadyAddresses"] is True
    assert port in {item["port"] for item in service["ports"]}
    budget = found["PodDisruptionBudget", "writer"]["spec"]
    assert budget["maxUnavailable"] == 1


@pytest.mark.parametrize("others", [[], ["tls"]])
def test_gateways_with_a_console_share_its_key(
    overlay: str, others: list[str], tmp_path: Path
) -> None:
    things = _with(overlay, [*others, "console"], tmp_path)
    found = {
        (thing["kind"], thing["metadata"]["name"].partition("-")[0]): thing for thing in things
    }
    settings = found["ConfigMap", "errata"]["data"]
    assert settings["ERRATA_GATEWAY__CONSOLE"] == "true"
    pod = found["Deployment", "gateway"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    mounts = {each["name"]: each["mountPath"] for each in container["volumeMounts"]}
    assert settings["ERRATA_GATEWAY__CONSOLE_KEY_FILE"] == f"{mounts['console']}/key"
    assert {"name": "console", "secret": {"secretName": "console", "defaultMode": 0o440}} in pod[
        "volumes"
    ]
    assert set(mounts) == {each["name"] for each in pod["volumes"]}, "those of others stay"


def test_tls_gives_each_pod_a_certificate_of_its_role(overlay: str, tmp_path: Path) -> None:
    things = _with(overlay, ["tls"], tmp_path)
    roles = {
        thing["spec"]["secretName"]: thing["spec"]["uris"][0].rpartition("/")[2]
        for thing in things
        if thing["kind"] == "Certificate" and "uris" in thing["spec"]
    }
    assert {name: role for name, role in roles.items() if role in SERVICES} == {
        "tls-writer": "writer",
        "tls-retrieval": "replica",
        "tls-catalog": "replica",
        "tls-workers": "replica",
        "tls-gateway": "gateway",
    }
    (settings,) = (
        thing["data"]
        for thing in things
        if thing["kind"] == "ConfigMap" and "errata" in thing["metadata"]["name"]
    )
    found = {key: value for key, value in settings.items() if "SECURITY" in key}
    assert found["ERRATA_SECURITY__AUTHENTICATE"] == "true"
    assert found["ERRATA_SECURITY__ALLOW_PLAINTEXT"] == "false"
    folder = Path(found["ERRATA_SECURITY__TLS_CERT_FILE"]).parent
    checked = 0
    for name, pod in pods_of(things):
        mounted = {v["name"]: v.get("secret", {}).get("secretName") for v in pod["spec"]["volumes"]}
        for container in pod["spec"]["containers"]:
            paths = {m["mountPath"]: m["name"] for m in container["volumeMounts"]}
            if "redis" in name.split("/"):
                continue
            assert mounted[paths[str(folder)]] in roles, name
            checked += 1
            for probe in ("startupProbe", "readinessProbe"):
                assert "grpc" not in container.get(probe, {}), "no TLS in Kubernetes' own probe"
    assert checked == 7
