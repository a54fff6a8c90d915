from pathlib import Path

import pytest

from errata.errors import StartupError
from errata.platform.settings import Settings, load_settings
from errata.platform.settings.report import leaves, origins


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ERRATA_CONFIG", raising=False)


def test_precedence_is_flag_environment_file_default(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "errata.toml"
    file.write_text('[log]\nkey_prefix = "file"\nsubscribe_batch = 7\nmax_payload_bytes = 2000\n')
    monkeypatch.setenv("ERRATA_CONFIG", str(file))
    monkeypatch.setenv("ERRATA_LOG__KEY_PREFIX", "environment")
    monkeypatch.setenv("ERRATA_LOG__SUBSCRIBE_BATCH", "8")
    flags = {"log": {"subscribe_batch": 9, "redis_url": None}}
    settings = load_settings(flags)
    assert settings.log.subscribe_batch == 9
    assert settings.log.key_prefix == "environment"
    assert settings.log.max_payload_bytes == 2000
    assert settings.log.redis_url == Settings().log.redis_url
    found = origins(flags)
    assert found["log.subscribe_batch"] == "flag"
    assert found["log.key_prefix"] == "environment"
    assert found["log.max_payload_bytes"] == "file"
    assert found["log.redis_url"] == "default"


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("ERRATA_WRITER__ADRESS", "x", r"no setting writer\.adress .*is it writer\.address\?"),
        ("ERRATA_WRITERS__ADDRESS", "x", r"ERRATA_WRITERS__ADDRESS name no section; .*writer"),
        ("ERRATA_LOG_REDIS_URL", "x", r"ERRATA_LOG_REDIS_URL name no section; .*two underscores"),
        (
            "ERRATA_WORKER__NUM_REPLICAS",
            "0",
            r"worker\.num_replicas .*than or equal to 1, found '0'",
        ),
        ("ERRATA_MODEL__DTYPE", "int3", r"model\.dtype .*'bfloat16' or 'float16', found 'int3'"),
        ("ERRATA_LOG__ADDRESS", "log", r"LOG__ADDRESS\): expected host:port, .* found 'log'"),
        ("ERRATA_WRITER__TARGET", "a:1,b:2", r"WRITER__TARGET\): expected .* several IPv4 addr"),
        ("ERRATA_LOG__TARGET", "10.0.0.1:1, 10.0.0.2:2", r"LOG__TARGET\): .* without spaces"),
        ("ERRATA_LOG__REDIS_SENTINELS", "a:1,b", r"REDIS_SENTINELS\): expected host:port, or"),
        ("ERRATA_LOG__METRICS_ADDRESS", "9711", r"METRICS_ADDRESS\): expected nothing or host"),
        ("ERRATA_GATEWAY__RAY_ADDRESS", "here", r"RAY_ADDRESS\): expected local or host:port"),
        ("ERRATA_TRACING__ENDPOINT", "tempo:4317", r"TRACING__ENDPOINT\): .*https.*'tempo:4317'"),
        ("ERRATA_LOG", "abc", r"log.*ERRATA_SECTION__KEY"),
        ("ERRATA_WORKER__MAX_REPLICAS", "1", r"MAX_REPLICAS\) must be 0 or at least .* is 2"),
        ("ERRATA_LOG__SUBSCRIBE_BATCH", "x", r"\(ERRATA_LOG__SUBSCRIBE_BATCH\).*found 'x'"),
    ],
)
def test_errors_name_the_setting_the_value_and_what_is_allowed(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, message: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(StartupError, match=message):
        load_settings()


def test_a_missing_or_broken_file_is_reported(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ERRATA_CONFIG", str(tmp_path / "none.toml"))
    with pytest.raises(StartupError, match="does not exist"):
        load_settings()
    broken = tmp_path / "broken.toml"
    broken.write_text("[log\n")
    monkeypatch.setenv("ERRATA_CONFIG", str(broken))
    with pytest.raises(StartupError, match="not valid TOML"):
        load_settings()


def test_a_child_gets_the_same_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    flags = {
        "data_dir": tmp_path,
        "log": {"witness_path": tmp_path / "witness", "adopt_unwitnessed": True},
        "worker": {"num_replicas": 5, "num_cpus": 0.25},
        "writer": {"lanes_file": tmp_path / "lanes.toml"},
    }
    settings = load_settings(flags)
    for name, value in settings.environment().items():
        monkeypatch.setenv(name, value)
    assert leaves(load_settings().model_dump()) == leaves(settings.model_dump())


def test_a_flag_that_equals_a_default_reaches_the_children(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "errata.toml"
    file.write_text("[worker]\nnum_replicas = 5\n")
    monkeypatch.setenv("ERRATA_CONFIG", str(file))
    parent = load_settings({"worker": {"num_replicas": 2}})
    for name, value in parent.environment().items():
        monkeypatch.setenv(name, value)
    assert load_settings() == parent


def test_the_witness_is_in_the_data_dir_by_default(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ERRATA_DATA_DIR", str(tmp_path / "one"))
    assert load_settings().log.witness_path == tmp_path / "one/witness"
    assert load_settings({"data_dir": tmp_path}).log.witness_path == tmp_path / "witness"
    monkeypatch.setenv("ERRATA_LOG__WITNESS_PATH", str(tmp_path / "another-disk/witness"))
    assert load_settings().log.witness_path == tmp_path / "another-disk/witness"


def test_variables_that_kubernetes_derives_from_services_are_ignored(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ERRATA_WORKERS_HEAD_SVC_PORT", "tcp://10.0.0.1:6379")
    assert load_settings() == Settings()


def test_errors_do_not_show_passwords_in_urls(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "errata.toml"
    file.write_text('[log]\nredis_url = ["redis://:secret@redis"]\n')
    monkeypatch.setenv("ERRATA_CONFIG", str(file))
    with pytest.raises(StartupError, match=r"log\.redis_url") as caught:
        load_settings()
    assert "secret" not in str(caught.value)
