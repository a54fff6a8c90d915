"""Settings: addresses, limits, timeouts. What changes an answer is lane configuration instead.

Precedence: flag > environment (`ERRATA_WRITER__ADDRESS`) > file (TOML) > default. Unknown keys are
errors. Only this package reads settings from the environment.

| module | what it answers |
|---|---|
| `section`, `shared`, `security`, and one for each service | which settings there are |
| `root` | all of them in one object |
| `sources` | where values come from, and which source wins |
| `loading`, `problems` | reading them; what is wrong with them, in words |
| `report` | what `errata config` prints |
"""

from errata.platform.settings.catalog import CatalogSettings
from errata.platform.settings.client import ClientSettings
from errata.platform.settings.gateway import GatewaySettings
from errata.platform.settings.loading import load_client_settings, load_settings
from errata.platform.settings.log import LogSettings
from errata.platform.settings.masking import masked
from errata.platform.settings.replicas import (
    FollowerSettings,
    ReplicaSettings,
    RetrievalSettings,
    WorkerSettings,
)
from errata.platform.settings.root import Settings
from errata.platform.settings.security import SecuritySettings
from errata.platform.settings.shared import ArtifactSettings, ModelSettings, TracingSettings
from errata.platform.settings.writer import WriterSettings

__all__ = [
    "ArtifactSettings",
    "CatalogSettings",
    "ClientSettings",
    "FollowerSettings",
    "GatewaySettings",
    "LogSettings",
    "ModelSettings",
    "ReplicaSettings",
    "RetrievalSettings",
    "SecuritySettings",
    "Settings",
    "TracingSettings",
    "WorkerSettings",
    "WriterSettings",
    "load_client_settings",
    "load_settings",
    "masked",
]
