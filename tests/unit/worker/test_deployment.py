"""The options of the Ray Serve deployment."""

from __future__ import annotations

from typing import Any

import pytest

from errata.platform.settings import load_settings

# Ray uses pydantic's deprecated API when it is imported.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def _deployment(**worker: Any) -> Any:
    from errata.worker.deployment import build_app

    return build_app(load_settings({"worker": worker}))._bound_deployment  # type: ignore[attr-defined] # Serve has no public accessor


def test_serve_forwards_what_the_engine_can_run_and_queue() -> None:
    deployment = _deployment(max_batch_size=8, max_queue=20, num_replicas=3)
    assert deployment.num_replicas == 3
    assert deployment.max_ongoing_requests == 28
    assert deployment._deployment_config.max_queued_requests == 20
    assert deployment._deployment_config.autoscaling_config is None


def test_a_replica_outlives_its_own_drain() -> None:
    config = _deployment(drain_seconds=25.0)._deployment_config
    assert config.graceful_shutdown_timeout_s > 25.0


def test_replicas_scale_with_the_load_if_configured() -> None:
    scaling = _deployment(num_replicas=2, max_replicas=6)._deployment_config.autoscaling_config
    assert (scaling.min_replicas, scaling.max_replicas) == (2, 6)
    assert scaling.target_ongoing_requests == 16
