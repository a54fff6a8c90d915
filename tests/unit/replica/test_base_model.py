"""The base model that the settings name, and what is told while it loads."""

from __future__ import annotations

import structlog

from errata import demo
from errata.platform.settings import load_settings
from errata.replica.base_model import load_base_model


def test_loading_is_announced_and_its_seconds_told() -> None:
    with structlog.testing.capture_logs() as events:
        load_base_model(load_settings())
    begun, ended = events
    assert begun["event"] == "loading the model"
    assert begun["path"] == str(demo.model_path())
    assert ended["event"] == "model loaded"
    assert 0 <= ended["seconds"] < 300
