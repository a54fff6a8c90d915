"""Settings of addresses as environment variables."""

from __future__ import annotations


def address_variables(addresses: dict[str, dict[str, str]]) -> dict[str, str]:
    """The environment variables of such settings."""
    return {
        f"ERRATA_{section}__{name}".upper(): address
        for section, values in addresses.items()
        for name, address in values.items()
    }
