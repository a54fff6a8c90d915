"""Base classes of the groups of settings, and types of addresses that are checked."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import platformdirs
from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError

from errata.errors import StartupError
from errata.platform.addresses import host_and_port


def default_data_dir() -> Path:
    """The default folder for the data of a system on one machine."""
    return Path(platformdirs.user_data_dir("errata", appauthor=False))


def _address(instead: str | None = None) -> AfterValidator:
    """Accepts host:port, or the one other value that a setting allows."""

    def check(value: str) -> str:
        try:
            if value != instead:
                host_and_port(value)
        except StartupError as error:
            also = "" if instead is None else f"{instead or 'nothing'} or "
            message = "expected {also}host:port, such as 127.0.0.1:7700"
            raise PydanticCustomError("address", message, {"also": also}) from error
        return value

    return AfterValidator(check)


Address = Annotated[str, _address()]
OptionalAddress = Annotated[str, _address("")]
RayAddress = Annotated[str, _address("local")]


class Section(BaseModel):
    """One group of settings."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ServiceSettings(Section):
    """Settings that every service has."""

    metrics_address: OptionalAddress = Field(
        "", description="host:port where Prometheus reads this service's metrics; none if empty."
    )
