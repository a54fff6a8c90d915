"""Which engine a worker gets, and how its settings travel."""

from __future__ import annotations

import json

import pytest

from errata.editing.model.causal_lm import CausalLM
from errata.engine.engine import Engine
from errata.engine.limits import EngineLimits
from errata.errors import InvalidRequestError
from errata.evaluation.serve.http_client import check_http_url
from errata.platform.settings import load_settings
from errata.platform.settings.report import descriptions, leaves
from errata.worker.engines import engine_factory
from tests.unit.engine.helpers import EDITION


def test_the_embedded_engine_needs_no_package_and_takes_no_options(shared_model: CausalLM) -> None:
    make = engine_factory("errata")
    assert isinstance(make(shared_model, EDITION, EngineLimits(), {}), Engine)
    with pytest.raises(InvalidRequestError, match="no options, such as x"):
        make(shared_model, EDITION, EngineLimits(), {"x": "1"})


def test_an_engine_that_no_package_brings_is_refused_by_name() -> None:
    with pytest.raises(InvalidRequestError, match=r"ERRATA_WORKER__ENGINE.*'sglang', only errata"):
        engine_factory("sglang")


def test_engine_options_reach_child_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"kv_cache_gib": "0.5", "artifact_mib": "8"}
    monkeypatch.setenv("ERRATA_WORKER__ENGINE_OPTIONS", json.dumps(options))
    settings = load_settings()
    for name, value in settings.environment().items():
        monkeypatch.setenv(name, value)
    assert load_settings().worker.engine_options == options
    assert leaves(settings.model_dump()).keys() == descriptions().keys()


def test_a_running_system_needs_its_http_url() -> None:
    check_http_url("http://127.0.0.1:7701")
    with pytest.raises(InvalidRequestError, match="--http-url"):
        check_http_url("")
