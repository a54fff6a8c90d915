"""What `errata config` tells of settings: value, origin, description."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic_settings import EnvSettingsSource, InitSettingsSource

from errata.platform.settings.loading import load_settings, without_none
from errata.platform.settings.masking import masked
from errata.platform.settings.root import Settings, sections
from errata.platform.settings.sources import file_source, short_variables, user_file


@dataclass(frozen=True, slots=True)
class SettingReport:
    """One setting.

    Attributes:
        setting: dotted name.
        value: in effect; passwords in URLs are masked.
        origin: `flag`, `environment`, `file`, `user's file` or `default`.
        variable: that sets it.
        description: what it is.
    """

    setting: str
    value: Any
    origin: str
    variable: str
    description: str


def report_settings() -> list[SettingReport]:
    """Every setting, as it is in effect.

    Raises:
        StartupError: as `load_settings`.
    """
    found, told = origins(), descriptions()
    return [
        SettingReport(
            name,
            masked(value) if isinstance(value, str) else value,
            found[name],
            variable_of(name),
            told[name],
        )
        for name, value in leaves(load_settings().model_dump(mode="json")).items()
    ]


def origins(flags: Mapping[str, Any] | None = None) -> dict[str, str]:
    """For each setting by dotted name, where its value comes from.

    Returns:
        `flag`, `environment`, `file`, `user's file` or `default` for each leaf of `Settings`.
    """
    sources = {
        "flag": InitSettingsSource(Settings, init_kwargs=without_none(flags or {}))(),
        "environment": _over(EnvSettingsSource(Settings)(), short_variables()),
        "file": file_source(Settings)(),
        "user's file": user_file(),
    }
    found = {}
    for dotted in leaves(load_settings(flags).model_dump()):
        section, _, key = dotted.rpartition(".")
        found[dotted] = "default"
        for origin, values in sources.items():
            inside = values.get(section, {}) if section else values
            if isinstance(inside, Mapping) and key in inside:
                found[dotted] = origin
                break
    return found


def _over(values: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    return {**values, **{name: {**values.get(name, {}), **more[name]} for name in more}}


def descriptions() -> dict[str, str]:
    """What each setting is, by dotted name."""
    found = {}
    for name, field in Settings.model_fields.items():
        section = sections().get(name)
        if section is None:
            found[name] = field.description or ""
        else:
            for key, inner in section.model_fields.items():
                found[f"{name}.{key}"] = inner.description or ""
    return found


def variable_of(dotted: str) -> str:
    """The environment variable of a setting."""
    return f"ERRATA_{dotted.replace('.', '__')}".upper()


def leaves(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flattens nested settings to dotted names."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= leaves(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
