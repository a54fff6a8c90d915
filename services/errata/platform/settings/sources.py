"""Where settings come from: flags, the environment, files; the first source that has one wins."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Any

import platformdirs
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from errata.errors import StartupError

CONFIG_FILE_VARIABLE = "ERRATA_CONFIG"
_SHORT = {
    "target": "ERRATA_TARGET",
    "timeout_seconds": "ERRATA_TIMEOUT",
    "author": "ERRATA_AUTHOR",
    "token_file": "ERRATA_TOKEN_FILE",
    "tls_ca": "ERRATA_TLS_CA",
    "tls_cert": "ERRATA_TLS_CERT",
    "tls_key": "ERRATA_TLS_KEY",
}


class SourcedSettings(BaseSettings):
    """Settings that are read from all sources."""

    model_config = SettingsConfigDict(
        env_prefix="ERRATA_", env_nested_delimiter="__", frozen=True, extra="forbid"
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags, environment, the TOML file that `ERRATA_CONFIG` names, the user's file."""
        short = InitSettingsSource(settings_cls, init_kwargs=short_variables())
        user = InitSettingsSource(settings_cls, init_kwargs=user_file())
        return init_settings, short, env_settings, file_source(settings_cls), user


def client_file() -> Path:
    """A user's file with defaults for commands that call a running system; it is optional."""
    return Path(platformdirs.user_config_dir("errata", appauthor=False)) / "client.toml"


def short_variables() -> dict[str, Any]:
    """The values of the SDK's own variables; an empty variable counts as unset."""
    values = {name: os.environ.get(variable) for name, variable in _SHORT.items()}
    found = {name: value for name, value in values.items() if value}
    return {"client": found} if found else {}


def user_file() -> dict[str, Any]:
    """The table `client` of the user's file.

    Raises:
        StartupError: the file cannot be read, or has anything else in it.
    """
    path = client_file()
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return {}  # the file is optional, and a service's account may have no home folder
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or f"it is not valid TOML ({error})"
        raise StartupError(f"the settings file {path} cannot be read: {why}.") from error
    if other := sorted(values.keys() - {"client"}):
        raise StartupError(
            f"the settings file {path} has {', '.join(other)}; only the table [client] belongs "
            f"there. Put settings of services into a file that {CONFIG_FILE_VARIABLE} names."
        )
    return values


def file_source(settings_cls: type[BaseSettings]) -> TomlConfigSettingsSource:
    """The TOML file that ERRATA_CONFIG names."""
    file = os.environ.get(CONFIG_FILE_VARIABLE)
    return TomlConfigSettingsSource(settings_cls, toml_file=file)
