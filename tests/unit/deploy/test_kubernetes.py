"""Every overlay is valid, and its parts match one another and the code."""

from __future__ import annotations

import ast
import asyncio
import functools
import os
import re
import warnings
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from errata.errors import StartupError
from errata.platform.addresses import host_and_port
from errata.platform.settings import Settings
from errata.platform.settings.report import leaves
from errata.serve_cli import run_service
from tests.unit.deploy.manifests import (
    OF_THE_OPERATOR,
    OVERLAYS,
    ROOT,
    Object,
    containers,
    of_kind,
    pods,
    rendered,
)

CRD = os.environ.get("ERRATA_TEST_KUBERAY_CRD", "")  # KubeRay's ray.io_rayservices.yaml
KUBERNETES = "1.32"
_OF_RAY = "RAY_AUTH_TOKEN_PATH"
_OF_S3 = {"AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"}
_WITHOUT_ARTIFACTS = ("StatefulSet/redis", "Deployment/gateway", "RayService/errata-workers/head")
pytestmark = pytest.mark.parametrize("overlay", OVERLAYS)


def test_objects_fit_kubernetes_schemas(overlay: str) -> None:
    checked = 0
    for thing in rendered(overlay):
        if thing["apiVersion"].startswith("ray.io/"):
            continue
        kubernetes_validate.validate(thing, KUBERNETES, strict=True)
        checked += 1
    assert checked > 25


def test_the_workers_fit_kuberays_schema(overlay: str) -> None:
    if not CRD:
        pytest.skip("ERRATA_TEST_KUBERAY_CRD names no schema")
    schema = _schema()
    for thing in rendered(overlay):
        if thing["kind"] == "RayService":
            jsonschema.validate(thing, schema)
            return
    raise AssertionError("there are no workers")


@functools.cache
def _schema() -> Any:
    versions = yaml.load(Path(CRD).read_text("utf-8"), yaml.CSafeLoader)["spec"]["versions"]
    (version,) = (v for v in versions if v["name"] == "v1")
    return _closed(version["schema"]["openAPIV3Schema"])


def _closed(schema: Any) -> Any:
    """Refuses unknown keys, and translates Kubernetes' extensions to JSON schema."""
    if isinstance(schema, list):
        return [_closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: _closed(value) for key, value in schema.items()}
    if schema.get("x-kubernetes-int-or-string"):
        made.pop("type", None)
        made["anyOf"] = [{"type": "integer"}, {"type": "string"}]
    elif isinstance(schema.get("properties"), dict) and "additionalProperties" not in schema:
        if not schema.get("x-kubernetes-preserve-unknown-fields") and schema.get("type"):
            known = schema["properties"]
            if "kind" not in known or "spec" not in known:
                made["additionalProperties"] = False
    return made


def test_the_serve_configuration_names_what_exists(overlay: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Ray's, about pydantic
        from ray.serve.schema import ServeDeploySchema

    (workers,) = of_kind(overlay, "RayService").values()
    config = yaml.safe_load(workers["spec"]["serveConfigV2"])
    parsed = ServeDeploySchema.model_validate(config)
    (application,) = parsed.applications
    assert application.name == Settings().gateway.application
    module, _, name = str(application.import_path).partition(":")
    source = ROOT / "services" / Path(*module.split(".")).with_suffix(".py")
    functions = {n.name for n in ast.walk(ast.parse(source.read_text())) if hasattr(n, "name")}
    assert name in functions
    pinned = re.search(r"^ray==(.+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert pinned is not None
    assert workers["spec"]["rayClusterConfig"]["rayVersion"] == pinned[1]


def test_environment_variables_are_settings(overlay: str) -> None:
    known = {
        f"ERRATA_{name}".upper().replace(".", "__") for name in leaves(Settings().model_dump())
    }
    used = set().union(
        *(c["data"] for n, c in of_kind(overlay, "ConfigMap").items() if "errata" in n)
    )
    for _, _, container in containers(overlay):
        used |= {variable["name"] for variable in container.get("env", ())}
    assert len(used) > 12
    assert used - _OF_S3 - {_OF_RAY} <= known, used - known


def test_secrets_are_files(overlay: str) -> None:
    for name, template, container in containers(overlay):
        assert not any("secretRef" in source for source in container.get("envFrom", ())), name
        assert not any("valueFrom" in variable for variable in container.get("env", ())), name
        mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        secrets = {v["name"] for v in template["spec"]["volumes"] if "secret" in v}
        assert {mounts[secret].split("/")[2] for secret in secrets} <= {"secrets"}
        if overlay == "ha" and not name.startswith(_WITHOUT_ARTIFACTS):
            told = _environment(overlay, container)
            assert {told[variable].rpartition("/")[0] for variable in _OF_S3} == {mounts["s3"]}


def test_settings_load_as_each_container_has_them(
    overlay: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, _, container in containers(overlay):
        if name.startswith("StatefulSet/redis"):
            continue
        with monkeypatch.context() as patch:
            for key, value in _environment(overlay, container).items():
                patch.setenv(key, value)
            Settings()


def _environment(overlay: str, container: Object) -> dict[str, str]:
    maps = of_kind(overlay, "ConfigMap")
    found: dict[str, str] = {}
    for source in container.get("envFrom", ()):
        if "configMapRef" in source:
            found |= maps[source["configMapRef"]["name"]]["data"]
    return found | {variable["name"]: variable["value"] for variable in container.get("env", ())}


def test_ports_services_and_addresses_fit_together(overlay: str) -> None:
    services = of_kind(overlay, "Service")
    templates = dict(pods(overlay))
    for name, service in services.items():
        selector = service["spec"]["selector"]
        chosen = [
            t for t in templates.values() if selector.items() <= t["metadata"]["labels"].items()
        ]
        assert len(chosen) == 1, name
        ports = {p["name"]: p["containerPort"] for p in chosen[0]["spec"]["containers"][0]["ports"]}
        for port in service["spec"]["ports"]:
            assert ports[port["targetPort"]] == port["port"], (
                f"{name}: headless, so ports are equal"
            )
    asked = 0
    for _, _, container in containers(overlay):
        ports = {port["containerPort"] for port in container["ports"]}
        for key, value in _environment(overlay, container).items():
            if not key.endswith("ADDRESS") or "METRICS" in key:
                continue
            host, port = host_and_port(value.removeprefix("dns:///"))
            if host == "0.0.0.0":
                assert port in ports, f"{key} listens on a port that the container does not name"
            elif host != "errata-workers-head-svc":  # created by KubeRay
                told = {item["port"] for item in services[host]["spec"]["ports"]}
                assert port in told, f"{key} asks {host} at a port that it does not have"
                asked += 1
    assert asked >= 8


def test_metrics_are_scraped_where_they_are_served(overlay: str) -> None:
    scraped = 0
    for name, template, container in containers(overlay):
        port = template["metadata"].get("annotations", {}).get("prometheus.io/port")
        if port is None:
            continue
        part = name.split("/")[1] if "RayService" not in name else "worker"
        address = _environment(overlay, container)[f"ERRATA_{part.upper()}__METRICS_ADDRESS"]
        assert host_and_port(address) == ("0.0.0.0", int(port))
        assert int(port) in {p["containerPort"] for p in container["ports"]}
        scraped += 1
    assert scraped == 6


def test_commands_exist(overlay: str) -> None:
    served = 0
    for _, _, container in containers(overlay):
        if not container["image"].startswith("errata/") or "args" not in container:
            continue
        command, service = container["args"]
        assert command == "serve"
        with pytest.raises(StartupError) as refused:
            asyncio.run(run_service("nothing-of-the-kind", Settings()))
        assert service in refused.value.message, "it lists the services that there are"
        served += 1
    assert served == 5


def test_what_is_mounted_and_referred_to_exists(overlay: str) -> None:
    made = {(thing["kind"], thing["metadata"]["name"]) for thing in rendered(overlay)}
    made |= OF_THE_OPERATOR if overlay != "local" else set()
    for name, template in pods(overlay):
        spec = template["spec"]
        assert ("ServiceAccount", spec["serviceAccountName"]) in made
        claimed = {claim["metadata"]["name"] for claim in _claims(overlay, name)}
        volumes = {volume["name"] for volume in spec.get("volumes", ())} | claimed
        for volume in spec.get("volumes", ()):
            for key, kind, field in (
                ("configMap", "ConfigMap", "name"),
                ("secret", "Secret", "secretName"),
                ("persistentVolumeClaim", "PersistentVolumeClaim", "claimName"),
            ):
                if key in volume:
                    assert _is_made(made, kind, volume[key][field]), volume
        for container in spec["containers"]:
            mounted = {mount["name"] for mount in container["volumeMounts"]}
            assert mounted <= volumes, name
            for source in container.get("envFrom", ()):
                kind, key = (
                    ("Secret", "secretRef")
                    if "secretRef" in source
                    else ("ConfigMap", "configMapRef")
                )
                assert _is_made(made, kind, source[key]["name"])
    assert "artifacts" not in str(of_kind("ha", "PersistentVolumeClaim"))


def _claims(overlay: str, name: str) -> list[Object]:
    kind, _, own = name.partition("/")
    if kind != "StatefulSet":
        return []
    claims: list[Object] = of_kind(overlay, kind)[own]["spec"].get("volumeClaimTemplates", [])
    return claims


def _is_made(made: set[tuple[str, str]], kind: str, name: str) -> bool:
    return (kind, name) in made


def test_every_container_is_hardened_and_bounded(overlay: str) -> None:
    for name, template, container in containers(overlay):
        spec, security = template["spec"], container["securityContext"]
        assert spec["securityContext"]["runAsNonRoot"] is True, name
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert security["readOnlyRootFilesystem"] is True
        assert security["allowPrivilegeEscalation"] is False
        assert security["capabilities"] == {"drop": ["ALL"]}
        assert {"cpu", "memory"} <= container["resources"]["requests"].keys()
        assert "memory" in container["resources"]["limits"]
        assert container["livenessProbe"]
        has_token = spec["automountServiceAccountToken"]
        assert has_token is (overlay == "ha" and name.endswith("/head")), "the autoscaler's alone"


def test_pods_are_given_longer_than_their_drain(overlay: str) -> None:
    settings = Settings()
    least = {"writer": 30, "errata-workers": settings.worker.drain_seconds + 10, "gateway": 45}
    for name, template in pods(overlay):
        part = name.split("/")[1]
        assert template["spec"]["terminationGracePeriodSeconds"] > least.get(part, 10), name


def test_only_the_log_service_reaches_redis(overlay: str) -> None:
    policies = of_kind(overlay, "NetworkPolicy")
    assert policies["deny"]["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    redis = {"errata/app": "redis"}
    open_to = [
        rule["from"]
        for policy in policies.values()
        for rule in policy["spec"].get("ingress", ())
        if policy["spec"]["podSelector"].get("matchLabels") == redis
    ]
    ((peer,),) = open_to
    wanted = peer["podSelector"]["matchLabels"]
    let_in = [
        name for name, t in pods(overlay) if wanted.items() <= t["metadata"]["labels"].items()
    ]
    assert let_in == ["StatefulSet/log"]
    for policy in policies.values():
        chosen = policy["spec"]["podSelector"].get("matchExpressions", ())
        assert not any("redis" in expression["values"] for expression in chosen)


def test_who_calls_whom_is_let_in(overlay: str) -> None:
    policies = of_kind(overlay, "NetworkPolicy")
    for caller, called, port in (
        ("writer", "log", 7711),
        ("retrieval", "log", 7711),
        ("workers", "log", 7711),
        ("gateway", "log", 7711),
        ("gateway", "writer", 7712),
        ("workers", "retrieval", 7713),
        ("catalog", "log", 7711),
        ("gateway", "catalog", 7714),
    ):
        (rule,) = policies[called]["spec"]["ingress"]
        (peer,) = rule["from"]
        selector = peer["podSelector"]
        names = [v for e in selector.get("matchExpressions", ()) for v in e["values"]]
        names.append(selector.get("matchLabels", {}).get("errata/app"))
        assert caller in names, f"{caller} may not call {called}"
        assert rule["ports"] == [{"protocol": "TCP", "port": port}]


def test_clients_are_let_in_where_the_gateway_listens(overlay: str) -> None:
    services = of_kind(overlay, "Service")
    served = {
        port["port"]
        for name in ("gateway", "gateway-http")
        for port in services[name]["spec"]["ports"]
        if port["name"] != "metrics"
    }
    (rule,) = of_kind(overlay, "NetworkPolicy")["clients"]["spec"]["ingress"]
    assert {port["port"] for port in rule["ports"]} == served == {7700, 7701}


def test_disruption_budgets_choose_pods_that_exist(overlay: str) -> None:
    budgets = of_kind(overlay, "PodDisruptionBudget")
    kinds = {"gateway", "retrieval", "catalog", "workers", "ray-head", "log", "redis", "writer"}
    assert budgets.keys() == kinds
    for name, budget in budgets.items():
        wanted = budget["spec"]["selector"]["matchLabels"]
        chosen = [n for n, t in pods(overlay) if wanted.items() <= t["metadata"]["labels"].items()]
        assert len(chosen) == 1, name


def test_kuberay_finds_its_head_and_has_what_it_asks_for(overlay: str) -> None:
    (workers,) = of_kind(overlay, "RayService").values()
    cluster = workers["spec"]["rayClusterConfig"]
    for name, template in pods(overlay):
        if name.startswith("RayService"):
            labels = template["metadata"]["labels"]
            assert "app.kubernetes.io/name" not in labels, "KubeRay selects its head by its own"
            (container,) = template["spec"]["containers"]
            assert container["readinessProbe"], "the one that KubeRay puts in needs wget"
    (head,) = cluster["headGroupSpec"]["template"]["spec"]["containers"]
    assert {"serve", "gcs-server", "dashboard"} <= {port["name"] for port in head["ports"]}
    if cluster.get("enableInTreeAutoscaling"):
        security = cluster["autoscalerOptions"]["securityContext"]
        assert security["runAsNonRoot"] is True
        assert security["allowPrivilegeEscalation"] is False


def test_ray_requires_one_token_of_workers_and_gateways(overlay: str) -> None:
    (workers,) = of_kind(overlay, "RayService").values()
    options = workers["spec"]["rayClusterConfig"]["authOptions"]
    assert options["mode"] == "token"
    made = {(thing["kind"], thing["metadata"]["name"]) for thing in rendered(overlay)}
    if overlay == "local":
        assert ("Secret", options["secretName"]) in made
    else:
        assert ("Secret", options["secretName"]) in OF_THE_OPERATOR
    gateway = of_kind(overlay, "Deployment")["gateway"]["spec"]["template"]["spec"]
    (volume,) = [v for v in gateway["volumes"] if "secret" in v]
    assert volume["secret"]["secretName"] == options["secretName"]
    (container,) = gateway["containers"]
    (mount,) = [m for m in container["volumeMounts"] if m["name"] == volume["name"]]
    path = _environment(overlay, container)[_OF_RAY]
    assert path == f"{mount['mountPath']}/auth_token", "the key that KubeRay asks for"


def test_pods_are_spread_among_their_own_kind(overlay: str) -> None:
    found = 0
    for name, template in pods(overlay):
        for constraint in template["spec"].get("topologySpreadConstraints", ()):
            wanted = constraint["labelSelector"]["matchLabels"]
            assert wanted.items() <= template["metadata"]["labels"].items(), name
            found += 1
    assert found >= 3
