"""Settings: addresses, limits, timeouts. What changes an answer is lane configuration instead.

Precedence: flag > environment (`ERRATA_WRITER__ADDRESS`) > file (TOML) > default. Unknown keys are
errors. Only this module and `settings_files` read the environment.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import platformdirs
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from errata.errors import StartupError
from errata.platform.addresses import host_and_port
from errata.platform.settings_files import (
    CONFIG_FILE_VARIABLE,
    file_source,
    short_variables,
    user_file,
)

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails


S = TypeVar("S", bound=BaseSettings)


def default_data_dir() -> Path:
    """Where one-box data lives unless a setting says otherwise."""
    return Path(platformdirs.user_data_dir("errata", appauthor=False))


def _address(instead: str | None = None) -> AfterValidator:
    """Refuses what is no host:port, nor what a setting allows instead."""

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


class ModelSettings(Section):
    """The base model, the same for writer and workers."""

    path: str = Field("", description="Folder or hub id; the demo model if empty.")
    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        "float32", description="Of the weights, and of what is computed with them."
    )
    device: str = Field("cpu", description="A torch device, such as cpu or cuda:0.")
    special_tokens: Literal["text", "parse"] = Field(
        "text",
        description="What a control token written out in a prompt or target is: `text` reads "
        "<|endoftext|> as those letters; `parse` as the control token, and a prompt may bring its "
        "own start of text. The same for writer and workers.",
    )


class ServiceSettings(Section):
    """What every service has."""

    metrics_address: OptionalAddress = Field(
        "", description="host:port where Prometheus reads this service's metrics; none if empty."
    )


class LogSettings(ServiceSettings):
    """The edit log service."""

    address: Address = Field("127.0.0.1:7711", description="Where the edit log listens.")
    redis_url: str = Field(
        "redis://127.0.0.1:6379/0",
        description="The log's Redis; where it is not set, `errata up` starts one of its own.",
    )
    redis_password_file: Path | None = Field(
        None, description="File with the password, if redis_url does not have it."
    )
    key_prefix: str = Field(
        "errata", min_length=1, description="Of all keys in Redis; another one is another log."
    )
    witness_path: Path = Field(
        default_factory=lambda: default_data_dir() / "witness",
        description="File that vouches for the log's head, kept apart from Redis; in data_dir if "
        "left out.",
    )
    allow_unsafe_redis: bool = Field(
        False, description="Start on a Redis that may lose acknowledged entries, with a warning."
    )
    adopt_unwitnessed: bool = Field(
        False, description="Accept a non-empty log whose witness is missing (after a restore)."
    )
    max_payload_bytes: int = Field(1_000_000, ge=1_000, description="Of one entry.")
    subscribe_batch: int = Field(
        500, ge=1, le=10_000, description="Entries that a subscriber gets at once, at most."
    )
    progress_interval_seconds: float = Field(
        1.0, gt=0, description="Between two messages to subscribers while nothing is appended."
    )
    replica_ttl_seconds: float = Field(
        30.0, gt=0, description="A replica that did not report for so long is no longer listed."
    )
    redis_timeout_seconds: float = Field(5.0, gt=0, description="For one command of Redis.")


class ArtifactSettings(Section):
    """The artifact store."""

    url: str = Field(
        "",
        description="fsspec URL shared by log service and writer; <data_dir>/artifacts if empty.",
    )
    worker_url: str = Field(
        "", description="The same as workers see it; if empty, they ask the log service."
    )


class WriterSettings(ServiceSettings):
    """The edit-writer."""

    address: Address = Field("127.0.0.1:7712", description="Where the edit-writer listens.")
    lanes_file: Path | None = Field(None, description="TOML, one table per lane; see docs.")
    default_lane: str = Field("lanes/main", description="Takes edits that name no lane.")
    statistics_text: Path | None = Field(
        None, description="Plain text, a paragraph a line; the demo corpus if unset."
    )
    num_threads: int = Field(0, ge=0, description="Torch threads for fits; 0 takes all cores.")
    max_edits_per_request: int = Field(100, ge=1, description="More are refused.")
    max_prompt_chars: int = Field(
        4_000, ge=1, description="Of each text of an edit: prompt, target, rephrase, probe."
    )
    max_target_tokens: int = Field(64, ge=1, description="Of an edit's target.")
    max_prompt_tokens: int = Field(256, ge=1, description="Of each prompt of an edit.")
    max_probes: int = Field(32, ge=0, description="Rephrases, and locality probes, of an edit.")
    max_batch_edits: int = Field(10, ge=1, description="Edits that are fitted together.")
    max_pending_edits: int = Field(
        10_000, ge=1, description="Edits that wait to be fitted; more are refused for the moment."
    )
    batch_window_seconds: float = Field(
        0.05, ge=0, description="How long the first edit of a batch waits for company."
    )
    min_reliability: float = Field(
        1.0, ge=0, le=1, description="Share of target tokens that an edit must get right."
    )
    min_locality: float = Field(
        0.5, ge=0, le=1, description="Share of probes that an edit must leave as they were."
    )


class ReplicaSettings(ServiceSettings):
    """What follows the log."""

    max_lag: int = Field(
        1_000, ge=1, description="Entries a replica may be behind before it reports unhealthy."
    )
    max_silence_seconds: float = Field(
        30.0, gt=0, description="How long a replica may not hear of the log."
    )


class WorkerSettings(ReplicaSettings):
    """The LLM worker pool."""

    ray_address: Address = Field(
        "127.0.0.1:6380", description="Where `errata serve workers` lets gateways join its Ray."
    )
    num_replicas: int = Field(2, ge=1, description="LLM workers, each with the whole model.")
    max_replicas: int = Field(
        0, ge=0, description="Scale with the load up to so many; 0 keeps num_replicas."
    )
    num_cpus: float = Field(0.5, ge=0, description="Ray CPUs of each replica.")
    num_gpus: float = Field(0.0, ge=0, description="Ray GPUs of each replica.")
    node_cpus: int = Field(
        0,
        ge=0,
        description="Ray CPUs of the node that Errata starts; 0 is enough for all replicas.",
    )
    num_threads: int = Field(1, ge=1, description="Torch threads of each replica, on CPU.")
    retrieval_address: OptionalAddress = Field(
        "", description="Retrieval service that decides claims; in each replica itself if empty."
    )
    retrieval_timeout_seconds: float = Field(
        2.0, gt=0, description="For the decisions on one batch; its requests fail after it."
    )
    max_batch_size: int = Field(16, ge=1, description="Generations that run at once.")
    max_queue: int = Field(256, ge=1, description="Requests that wait in a replica.")
    max_new_tokens: int = Field(512, ge=1, description="Of one continuation.")
    max_context: int = Field(
        0, ge=0, description="Longest prompt and continuation in tokens; 0 takes the model's."
    )
    prefill_tokens: int = Field(
        512, ge=16, description="Prompt tokens that are read between two steps of a batch."
    )
    weight_versions: int = Field(
        2,
        ge=1,
        description="Versions of edited weights that may serve rows at once; 1 lets a commit "
        "wait until the running rows are done.",
    )
    max_drain_seconds: float = Field(
        10.0, gt=0, description="How long a commit waits for rows before they begin anew."
    )
    drain_seconds: float = Field(
        10.0, ge=0, description="How long a replica that is told to end lets its rows go on."
    )

    @model_validator(mode="after")
    def _scales_up(self) -> WorkerSettings:
        if 0 < self.max_replicas < self.num_replicas:
            raise PydanticCustomError(
                "max_replicas",
                "max_replicas (ERRATA_WORKER__MAX_REPLICAS) must be 0 or at least num_replicas, "
                "which is {num_replicas}",
                {"num_replicas": self.num_replicas},
            )
        return self


class RetrievalSettings(ReplicaSettings):
    """The retrieval/routing service."""

    address: Address = Field("127.0.0.1:7713", description="Where the service listens.")
    device: str = Field("cpu", description="Where encoders run.")
    num_threads: int = Field(1, ge=1, description="Torch threads, on CPU.")
    max_prompts: int = Field(1_024, ge=1, description="Prompts of one request.")
    history: int = Field(
        256, ge=1, description="Positions as of which decisions stay possible, the newest ones."
    )
    snapshots: Path | None = Field(
        None, description="Folder for snapshots, from which a restart goes on; none if unset."
    )
    snapshot_every: int = Field(1_000, ge=1, description="Entries between two snapshots.")


class GatewaySettings(ServiceSettings):
    """The front door."""

    address: Address = Field("127.0.0.1:7700", description="Where clients connect.")
    ray_address: RayAddress = Field(
        "local",
        description="`local` starts Ray and the workers itself; host:port joins the cluster of "
        "`errata serve workers` or of KubeRay.",
    )
    application: str = Field("errata", description="Name of the workers' application in Ray Serve.")
    default_timeout_seconds: float = Field(
        30.0, gt=0, description="For calls that come without a deadline."
    )


class TracingSettings(Section):
    """OpenTelemetry traces of all services."""

    endpoint: str = Field(
        "",
        pattern="^(https?://.+)?$",
        description="OTLP collector (gRPC), such as http://collector:4317; off if empty.",
    )
    sample_ratio: float = Field(
        0.1, ge=0, le=1, description="Share of traces that begin here; others follow their caller."
    )


class ClientSettings(Section):
    """What commands that ask a running system take where no flag says otherwise."""

    target: str = Field(
        "127.0.0.1:7700", min_length=1, description="host:port of the gateway; also ERRATA_TARGET."
    )
    timeout_seconds: float | None = Field(
        None, gt=0, description="For a command; its own if unset. Also ERRATA_TIMEOUT."
    )
    author: str = Field(
        "", description="Who asks for edits; the login name if empty. Also ERRATA_AUTHOR."
    )


class Settings(BaseSettings):
    """All settings of all services; each reads its own section."""

    model_config = SettingsConfigDict(
        env_prefix="ERRATA_", env_nested_delimiter="__", frozen=True, extra="forbid"
    )

    data_dir: Path = Field(
        default_factory=default_data_dir, description="Where one box keeps everything."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="What the services log, and all that is worse."
    )
    log_format: Literal["console", "json"] = Field(
        "console", description="Lines for people or for machines."
    )
    tracing: TracingSettings = TracingSettings()
    model: ModelSettings = ModelSettings()
    log: LogSettings = Field(default_factory=LogSettings)
    artifacts: ArtifactSettings = ArtifactSettings()
    writer: WriterSettings = WriterSettings()
    worker: WorkerSettings = WorkerSettings()
    retrieval: RetrievalSettings = RetrievalSettings()
    gateway: GatewaySettings = GatewaySettings()
    client: ClientSettings = ClientSettings()

    @model_validator(mode="before")
    @classmethod
    def _put_witness_into_data_dir(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Two sets of data on one machine must not share one witness."""
        log = values.get("log", {})
        if "data_dir" not in values or not isinstance(log, Mapping) or "witness_path" in log:
            return values
        return {**values, "log": {**log, "witness_path": Path(values["data_dir"]) / "witness"}}

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags, environment, the TOML file that `ERRATA_CONFIG` or a flag names, the user's."""
        return _sources(settings_cls, init_settings, env_settings)

    @property
    def artifacts_url(self) -> str:
        """The store's URL, with its default."""
        return self.artifacts.url or str(self.data_dir / "artifacts")

    def environment(self) -> dict[str, str]:
        """Environment variables from which a child process gets the same settings.

        Defaults are among them: a flag that equals one must win over the child's own file.
        """
        found: dict[str, str] = {}
        for name, value in self.model_dump(mode="json").items():
            if isinstance(value, Mapping):
                for key, inner in value.items():
                    if inner is not None:
                        found[f"ERRATA_{name}__{key}".upper()] = str(inner)
            elif value is not None:
                found[f"ERRATA_{name}".upper()] = str(value)
        return found


def _sources(
    kind: type[BaseSettings],
    flags: PydanticBaseSettingsSource,
    environment: PydanticBaseSettingsSource,
) -> tuple[PydanticBaseSettingsSource, ...]:
    """What goes first comes first."""
    short = InitSettingsSource(kind, init_kwargs=short_variables())
    user = InitSettingsSource(kind, init_kwargs=user_file())
    return flags, short, environment, file_source(kind), user


class _ClientPart(BaseSettings):
    """The section `client` alone, whatever is wrong with the others."""

    model_config = SettingsConfigDict(
        env_prefix="ERRATA_", env_nested_delimiter="__", frozen=True, extra="ignore"
    )

    client: ClientSettings = ClientSettings()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """As for all settings."""
        return _sources(settings_cls, init_settings, env_settings)


def load_settings(flags: Mapping[str, Any] | None = None) -> Settings:
    """Reads all sources.

    Args:
        flags: nested values from the command line; None values are as if not given.

    Raises:
        StartupError: an unknown key, a bad value, or a file that is missing or no TOML; the
            message names the key and what was expected.
    """
    strange = [name for name in os.environ if _names_no_section(name)]
    if strange:
        raise StartupError(
            f"bad settings: {', '.join(sorted(strange))} name no section; write "
            f"ERRATA_SECTION__KEY, with two underscores, where the section is one of "
            f"{', '.join(sections())}. `errata config` lists what is known."
        )
    return _read(Settings, without_none(flags or {}))


def load_client_settings() -> ClientSettings:
    """What a command that asks a running system takes where no flag says otherwise.

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
        problems = "; ".join(_problem(item) for item in error.errors())
        raise StartupError(
            f"bad settings: {problems}. `errata config` lists what is known."
        ) from error
    except SettingsError as error:  # a section's own variable, which would have to be JSON
        raise StartupError(
            f"bad settings: {error}; set its keys one by one, as ERRATA_SECTION__KEY."
        ) from error
    except ValueError as error:
        raise StartupError(f"the settings file {file} is not valid TOML: {error}.") from error


def sections() -> dict[str, type[Section]]:
    """The groups of settings, by name."""
    kinds = {name: field.annotation for name, field in Settings.model_fields.items()}
    return {
        name: kind
        for name, kind in kinds.items()
        if isinstance(kind, type) and issubclass(kind, Section)
    }


def _names_no_section(variable: str) -> bool:
    """Whether an environment variable must be meant for a setting of a section, but is for none.

    Other names without two underscores pass: Kubernetes makes some of the names of services.
    """
    prefix, _, rest = variable.lower().partition("_")
    if prefix != "errata" or rest in Settings.model_fields:
        return False
    section, inside, _ = rest.partition("__")
    if inside:
        return section not in sections()
    return any(
        rest == f"{name}_{key}" for name, kind in sections().items() for key in kind.model_fields
    )


def _problem(item: ErrorDetails) -> str:
    """One line on one setting: its name, its variable, what was found and what is allowed."""
    *path, key = (str(part) for part in item["loc"])
    dotted = ".".join([*path, key])
    variable = "__".join(["ERRATA", *path, key]).upper().replace("ERRATA__", "ERRATA_", 1)
    if item["type"] == "extra_forbidden":
        section = sections()[path[0]] if path else Settings
        near = difflib.get_close_matches(key, section.model_fields, n=1)
        hint = f"; is it {'.'.join([*path, near[0]])}?" if near else ""
        return f"there is no setting {dotted} ({variable}){hint}"
    return f"{dotted} ({variable}): {item['msg']}, found {masked(repr(item['input']))}"


def masked(text: str) -> str:
    """A password inside a URL is nobody's business."""
    return re.sub(r"(://[^/:@]*):[^/@]*@", r"\1:***@", text)


def without_none(values: Mapping[str, Any]) -> dict[str, Any]:
    """Nested values without those that were not given."""
    kept = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            value = without_none(value)
        if value is not None and value != {}:
            kept[key] = value
    return kept
