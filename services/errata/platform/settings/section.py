"""Base classes of the groups of settings, and types of addresses that are checked."""

from __future__ import annotations

from ipaddress import IPv4Address
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


def _addresses(value: str) -> str:
    """Accepts several host:port, separated by commas, or nothing."""
    try:
        for each in value.split(",") if value else ():
            host_and_port(each)
    except StartupError as error:
        message = "expected host:port, or several separated by commas without spaces"
        raise PydanticCustomError("address", message) from error
    return value


def _target(value: str) -> str:
    """Accepts what `open_channel` can dial: gRPC resolves one name, or takes several IPs."""
    try:
        several = value.split(",") if value else []
        hosts = [host_and_port(each)[0] for each in several]
        if len(several) > 1:
            for host in hosts:
                IPv4Address(host)
    except (StartupError, ValueError) as error:
        message = (
            "expected host:port, dns:///host:port, or several IPv4 addresses with ports, separated "
            "by commas without spaces, such as 10.0.0.1:7712,10.0.0.2:7712"
        )
        raise PydanticCustomError("address", message) from error
    return value


Address = Annotated[str, _address()]
OptionalAddress = Annotated[str, _address("")]
OptionalAddresses = Annotated[str, AfterValidator(_addresses)]
Target = Annotated[str, AfterValidator(_target)]
RayAddress = Annotated[str, _address("local")]


class Section(BaseModel):
    """One group of settings."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ServiceSettings(Section):
    """Settings that every service has."""

    metrics_address: OptionalAddress = Field(
        "", description="host:port where Prometheus reads this service's metrics; none if empty."
    )
