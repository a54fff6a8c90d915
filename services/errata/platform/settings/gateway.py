"""Settings of the gateway."""

from __future__ import annotations

from pydantic import Field

from errata.platform.settings.section import Address, RayAddress, ServiceSettings


class GatewaySettings(ServiceSettings):
    """The gateway."""

    address: Address = Field("127.0.0.1:7700", description="host:port where clients connect.")
    ray_address: RayAddress = Field(
        "local",
        description="`local` starts Ray and the workers here; host:port joins the cluster of "
        "`errata serve workers` or of KubeRay.",
    )
    application: str = Field("errata", description="The workers' application in Ray Serve.")
    default_timeout_seconds: float = Field(
        30.0, gt=0, description="Timeout of calls without a deadline."
    )
