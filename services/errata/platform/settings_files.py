"""Where settings come from besides flags and their own variables: files, the SDK's variables."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Any

import platformdirs
from pydantic_settings import BaseSettings, TomlConfigSettingsSource

from errata.errors import StartupError

CONFIG_FILE_VARIABLE = "ERRATA_CONFIG"
_SHORT = {"target": "ERRATA_TARGET", "timeout_seconds": "ERRATA_TIMEOUT", "author": "ERRATA_AUTHOR"}


def client_file() -> Path:
    """A user's own file for commands that ask a running system; it need not exist."""
    return Path(platformdirs.user_config_dir("errata", appauthor=False)) / "client.toml"


def short_variables() -> dict[str, Any]:
    """What the SDK's own variables say; an empty one says nothing."""
    values = {name: os.environ.get(variable) for name, variable in _SHORT.items()}
    found = {name: value for name, value in values.items() if value}
    return {"client": found} if found else {}


def user_file() -> dict[str, Any]:
    """The table `client` of the user's file.

    Raises:
        StartupError: it cannot be read, or has something else in it.
    """
    path = client_file()
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return {}  # it is optional, and a service's account may have no home folder of its own
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or f"no valid TOML ({error})"
        raise StartupError(f"the settings file {path} cannot be read: {why}.") from error
    if other := sorted(values.keys() - {"client"}):
        raise StartupError(
            f"the settings file {path} has {', '.join(other)}; only the table [client] belongs "
            f"there. Settings of services go into a file that {CONFIG_FILE_VARIABLE} names."
        )
    return values


def file_source(settings_cls: type[BaseSettings]) -> TomlConfigSettingsSource:
    """The TOML file that ERRATA_CONFIG names."""
    file = os.environ.get(CONFIG_FILE_VARIABLE)
    return TomlConfigSettingsSource(settings_cls, toml_file=file)
