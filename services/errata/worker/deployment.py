"""The Ray Serve deployment of the workers: replicas, resources, queues and health checks."""

from __future__ import annotations

from typing import Any

from ray import serve
from ray.serve import Application

from errata.platform.settings import Settings
from errata.worker.service import Worker

DEPLOYMENT = "worker"


def build_app(settings: Settings) -> Application:
    """The Serve application for these settings."""
    worker = settings.worker
    deployment: Any = serve.deployment(Worker)
    scaling: dict[str, Any] = {"num_replicas": worker.num_replicas}
    if worker.max_replicas > worker.num_replicas:
        scaling = {
            "autoscaling_config": {
                "min_replicas": worker.num_replicas,
                "max_replicas": worker.max_replicas,
                "target_ongoing_requests": worker.max_batch_size,
            }
        }
    configured = deployment.options(
        name=DEPLOYMENT,
        **scaling,
        # All that the engine can run or queue: Serve holds further requests back, and refuses
        # them once its own queue is full.
        max_ongoing_requests=worker.max_batch_size + worker.max_queue,
        max_queued_requests=worker.max_queue,
        ray_actor_options={"num_cpus": worker.num_cpus, "num_gpus": worker.num_gpus},
        health_check_period_s=2.0,
        health_check_timeout_s=10.0,
        graceful_shutdown_timeout_s=worker.drain_seconds + 10.0,
        graceful_shutdown_wait_loop_s=0.5,
    )
    app: Application = configured.bind(settings.environment())
    return app
