"""What `errata config` shows: each setting with its value, origin and description."""

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
        value: the effective one; passwords in URLs are masked.
        origin: `flag`, `environment`, `file`, `user's file` or `default`.
        variable: environment variable that sets it.
        description: what it means.
    """

    setting: str
    value: Any
    origin: str
    variable: str
    description: str


def report_settings() -> list[SettingReport]:
    """Every setting with its effective value.

    Raises:
        StartupError: as `load_settings`.
    """
    found, described = origins(), descriptions()
    return [
        SettingReport(
            name,
            masked(value) if isinstance(value, str) else value,
            found[name],
            variable_of(name),
            described[name],
        )
        for name, value in leaves(load_settings().model_dump(mode="json")).items()
    ]


def origins(flags: Mapping[str, Any] | None = None) -> dict[str, str]:
    """Where each setting's value comes from, by dotted name.

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
    """What each setting means, by dotted name."""
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


def leaves(values: Mapping[str, Any]) -> dict[str, Any]:
    """Flattens sections to dotted names; a setting that is a table itself stays one value."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= {f"{name}.{key}": inner for key, inner in value.items()}
        else:
            flat[name] = value
    return flat
