"""The images' recipe and the compose file, checked without a container engine."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest

from errata.log.backend import REQUIRED_CONFIG
from errata.platform.addresses import host_and_port
from errata.platform.settings import Settings
from errata.platform.settings.report import leaves
from tests.unit.deploy.manifests import DEPLOY, ROOT, compose

DOCKERFILE = DEPLOY / "images/Dockerfile"
# Used by the images' health check alone.
_OF_THE_IMAGE = {"ERRATA_SERVICE_ADDRESS"}
_WITH_RAY = (["serve", "workers"], ["serve", "gateway"])
_OF_RAY = "RAY_AUTH_TOKEN_PATH"


def test_the_dockerfile_is_clean() -> None:
    # Found beside the interpreter, so that the tests run without an activated environment.
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run(
        [str(hadolint), str(DOCKERFILE)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_target_runs_as_a_user_and_starts_what_exists() -> None:
    text = DOCKERFILE.read_text("utf-8")
    stages = dict(re.findall(r"^FROM (\S+) AS (\S+)$", text, re.MULTILINE))
    assert stages, "stages are named"
    targets = {name for _, name in re.findall(r"^FROM (\S+) AS (\S+)$", text, re.MULTILINE)}
    assert {"services", "worker", "worker-cuda"} <= targets
    runtime = text[text.index("AS runtime") :]
    assert runtime.index("USER 10001") < runtime.index("AS services")
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert re.findall(r'^ENTRYPOINT \["(\w+)"\]$', text, re.MULTILINE) == list(scripts)
    sent = re.findall(r"^!(\S+)$", (ROOT / ".dockerignore").read_text("utf-8"), re.MULTILINE)
    for copied in re.findall(r"^COPY ([^-].*) \S+$", text, re.MULTILINE):
        for path in copied.split():
            assert (ROOT / path).exists(), path
            assert any(fnmatch(path, pattern) for pattern in sent), f"{path} is not sent"
    for installed in re.findall(r"^.*pip install .*$", text, re.MULTILINE):
        assert "--require-hashes" in installed or "--no-build-isolation" in installed
    known = {f"ERRATA_{n}".upper().replace(".", "__") for n in leaves(Settings().model_dump())}
    assert set(re.findall(r"\b(ERRATA_\w+)=", text)) <= known | _OF_THE_IMAGE


def test_requirements_are_those_of_the_projects_with_hashes() -> None:
    lines = (DEPLOY / "images/requirements.txt").read_text("utf-8").splitlines()
    pinned = dict(line.rstrip(" \\").split("==") for line in lines if re.match(r"[a-zA-Z]", line))
    allowed = dict(
        line.split("==")
        for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines()
        if "==" in line and not line.startswith("#")
    )
    names = {name.lower().replace("_", "-"): version for name, version in allowed.items()}
    for name, version in pinned.items():
        assert names.get(name.lower(), version) == version, name
    for project in ("pyproject.toml", "clients/python/pyproject.toml"):
        wanted = tomllib.loads((ROOT / project).read_text())["project"]["dependencies"]
        missing = {re.split(r"[\[<>=]", w)[0] for w in wanted} - pinned.keys()
        assert missing <= {"errata-client", "torch"}, project


def test_everything_is_pinned_with_hashes() -> None:
    locks = sorted((DEPLOY / "images").glob("requirements*.txt"))
    assert [path.name for path in locks] == [
        "requirements-cpu.txt",
        "requirements-cuda.txt",
        "requirements.txt",
    ]
    for path in locks:
        text = path.read_text("utf-8")
        assert all("--hash=sha256:" in block for block in text.split("==")[1:]), path.name
        if path.name != "requirements.txt":
            (torch,) = re.findall(r"^torch==([\d.]+)", text, re.MULTILINE)
            assert f"torch=={torch}\n" in (ROOT / "constraints.txt").read_text("utf-8")


def test_the_compose_file_fits_together() -> None:
    read = compose()
    services, volumes = read["services"], read["volumes"]
    known = {f"ERRATA_{n}".upper().replace(".", "__") for n in leaves(Settings().model_dump())}
    assert {
        "redis",
        "log",
        "writer",
        "retrieval",
        "catalog",
        "workers",
        "gateway",
    } <= services.keys()
    for name, service in services.items():
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            if source.startswith("."):
                assert (DEPLOY / "compose" / source).exists(), source
            else:
                assert source in volumes, f"{name}: {source}"
        assert set(service.get("secrets", ())) <= read["secrets"].keys()
        assert set(service.get("depends_on", ())) <= services.keys()
        environment = service.get("environment", {})
        assert environment.keys() <= known | _OF_THE_IMAGE | {_OF_RAY}
        for key, value in environment.items():
            if key.endswith("ADDRESS"):
                host, port = host_and_port(value)
                if host not in ("0.0.0.0", "127.0.0.1"):
                    assert port in _ports(services[host]["environment"]), f"{name}: {key}"


def test_the_gateway_of_the_compose_file_waits_for_no_healthy_catalog() -> None:
    waits_for = compose()["services"]["gateway"]["depends_on"]
    assert waits_for["catalog"] == {"condition": "service_started"}
    assert waits_for["writer"] == {"condition": "service_healthy"}


def _ports(environment: dict[str, str]) -> set[int]:
    found = {k: host_and_port(v) for k, v in environment.items() if k.endswith("ADDRESS")}
    return {port for host, port in found.values() if host == "0.0.0.0"}


def test_no_secret_is_written_into_a_root_file_system_that_is_read_only() -> None:
    for name, secret in compose()["secrets"].items():
        assert "file" in secret, f"{name}: Docker copies others into the container"


def test_no_ray_runs_without_tokens() -> None:
    runtime = DOCKERFILE.read_text("utf-8").partition("AS runtime")[2]
    assert re.findall(r"RAY_AUTH_MODE=(\w+)", runtime) == ["token"]
    services = compose()["services"]
    with_ray = {n for n, s in services.items() if s.get("command") in _WITH_RAY}
    assert with_ray == {"workers", "gateway"}
    for name in with_ray:
        assert services[name]["secrets"] == ["ray_token"]
        assert services[name]["environment"][_OF_RAY] == "/run/secrets/ray_token"


def test_volumes_are_mounted_where_the_image_has_folders_of_its_user() -> None:
    made = re.search(r"install -d -o 10001 -g 10001([^&]*)&&", DOCKERFILE.read_text("utf-8"))
    assert made is not None
    folders = set(re.sub(r"#.*|\\", "", made[1]).split())
    for name, service in compose()["services"].items():
        for volume in service.get("volumes", ()):
            source, _, path = volume.partition(":")
            if path.startswith("/var/lib/errata"):
                assert path in folders, f"{name}: {source}"


def test_health_checks_ask_the_address_that_is_served() -> None:
    for name in ("log", "writer", "retrieval", "catalog", "gateway"):
        environment = compose()["services"][name]["environment"]
        _, asked = host_and_port(environment["ERRATA_SERVICE_ADDRESS"])
        _, served = host_and_port(environment[f"ERRATA_{name.upper()}__ADDRESS"])
        assert asked == served


def test_docker_compose_takes_the_file(tmp_path: Path) -> None:
    docker = shutil.which("docker")
    if (
        docker is None
        or subprocess.run(
            [docker, "compose", "version"], capture_output=True, check=False
        ).returncode
    ):
        pytest.skip("docker compose is not installed")
    done = subprocess.run(
        [docker, "compose", "-f", str(DEPLOY / "compose/compose.yaml"), "config", "--quiet"],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": str(Path(docker).parent), "HOME": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr


def test_both_redises_are_what_the_log_relies_on() -> None:
    lines = (DEPLOY / "kubernetes/base/redis.conf").read_text("utf-8").splitlines()
    in_kubernetes = dict(line.split(maxsplit=1) for line in lines if not line.startswith("#"))
    command = compose()["services"]["redis"]["command"][-1]
    in_compose = dict(re.findall(r"--(\S+) (\S+)", command))
    for found in (in_kubernetes, in_compose):
        assert {name: found.get(name) for name in REQUIRED_CONFIG} == REQUIRED_CONFIG


def test_redis_refuses_writes_before_the_kernel_ends_it() -> None:
    text = (DEPLOY / "kubernetes/base/redis.conf").read_text("utf-8")
    most = re.search(r"^maxmemory (\d+)gb$", text, re.MULTILINE)
    limit = re.search(
        r"limits: {memory: (\d+)Gi}", (DEPLOY / "kubernetes/base/redis.yaml").read_text("utf-8")
    )
    assert most is not None
    assert limit is not None
    # A rewrite of the append-only file can copy every page.
    assert 2 * int(most[1]) <= int(limit[1])
