"""Reads settings from all their sources."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_settings import SettingsConfigDict, SettingsError

from errata.errors import StartupError
from errata.platform.settings.client import ClientSettings
from errata.platform.settings.problems import misnamed_variables, problem
from errata.platform.settings.root import Settings, sections
from errata.platform.settings.sources import CONFIG_FILE_VARIABLE, SourcedSettings

S = TypeVar("S", bound=SourcedSettings)


class _ClientPart(SourcedSettings):
    """The section `client` alone, so that errors in other sections do not matter."""

    model_config = SettingsConfigDict(extra="ignore")

    client: ClientSettings = ClientSettings()


def load_settings(flags: Mapping[str, Any] | None = None) -> Settings:
    """Reads all sources.

    Args:
        flags: nested values from the command line; None counts as not given.

    Raises:
        StartupError: an unknown key, a bad value, or a file that is missing or not TOML; the
            message names the key and what was expected.
    """
    if misnamed := misnamed_variables(os.environ):
        raise StartupError(
            f"bad settings: {', '.join(misnamed)} name no section; write ERRATA_SECTION__KEY, with "
            f"two underscores, where the section is one of {', '.join(sections())}. "
            "`errata config` lists what is known."
        )
    return _read(Settings, without_none(flags or {}))


def load_client_settings() -> ClientSettings:
    """Reads the defaults for commands that call a running system.

    Raises:
        StartupError: as above, but for the section `client` alone.
    """
    return _read(_ClientPart, {}).client


def _read(kind: type[S], flags: Mapping[str, Any]) -> S:
    file = os.environ.get(CONFIG_FILE_VARIABLE)
    if file and not Path(file).is_file():
        raise StartupError(
            f"the settings file {file} does not exist; {CONFIG_FILE_VARIABLE} names it."
        )
    try:
        return kind(**flags)
    except ValidationError as error:
        problems = "; ".join(problem(item) for item in error.errors())
        raise StartupError(
            f"bad settings: {problems}. `errata config` lists what is known."
        ) from error
    except SettingsError as error:  # a section's own variable, which would have to be JSON
        raise StartupError(
            f"bad settings: {error}; set its keys one by one, as ERRATA_SECTION__KEY."
        ) from error
    except ValueError as error:
        raise StartupError(f"the settings file {file} is not valid TOML: {error}.") from error


def without_none(values: Mapping[str, Any]) -> dict[str, Any]:
    """Nested values without None, and without groups that are empty then."""
    kept = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            value = without_none(value)
        if value is not None and value != {}:
            kept[key] = value
    return kept
