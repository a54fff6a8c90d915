"""Snapshots: the fold of the log's entries up to a position, as artifacts that a manifest names.

Every reader starts from the same snapshot, whatever it holds: workers all lanes, the retrieval
service those that route, the writer also the memories of its lanes and its ledger of edits.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from errata.artifacts.source import check_digest
from errata.editing.artifact import Artifact
from errata.editing.lane.commits import LaneDump
from errata.errors import (
    ArtifactCorruptError,
    BaseModelMismatchError,
    ErrataError,
    PreconditionError,
)
from errata.log.chain import Position
from errata.log.entries import ArtifactRef, SnapshotTaken
from errata.log.fold import LogFold

FORMAT = "errata-snapshot"
VERSION = 4
"""The newest one. Earlier releases would overlook the policies of version 2, the namespaces of
version 3, and the canaries of version 4."""
FOLD, LEDGER = "fold", "ledger"
"""Names of groups of parts; those of a lane are `contents_of` and `memory_of` it."""


def contents_of(lane: str) -> str:
    """The group of parts with a lane's contents."""
    return f"{lane}/contents"


def memory_of(lane: str) -> str:
    """The group of parts with a lane's memory."""
    return f"{lane}/memory"


@dataclass(frozen=True, eq=False, slots=True)
class Manifest:
    """What a snapshot is of, and its parts.

    Attributes:
        log_id: the log's identity when it was made; a restore of the log changes that.
        position: the last entry that it contains.
        base_model_digest: of the LLM.
        state_digest: SHA-256, hex, of the state of every lane.
        routed_digest: the same without lanes that change weights, as retrieval replicas have it.
        lane_models: digest of each lane's model; empty without one.
        parts: groups of artifacts, in order.
        version: of the format.
    """

    log_id: str
    position: Position
    base_model_digest: str
    state_digest: str
    routed_digest: str
    lane_models: Mapping[str, str]
    parts: Mapping[str, tuple[ArtifactRef, ...]]
    version: int = 1

    def to_bytes(self) -> bytes:
        """JSON; equal manifests give equal bytes."""
        values = {
            "format": FORMAT,
            "version": self.version,
            "log_id": self.log_id,
            "seq": self.position.seq,
            "chain_digest": self.position.chain_digest.hex(),
            "base_model_digest": self.base_model_digest,
            "state_digest": self.state_digest,
            "routed_digest": self.routed_digest,
            "lane_models": dict(self.lane_models),
            "parts": {
                group: [[ref.digest, ref.size_bytes] for ref in refs]
                for group, refs in self.parts.items()
            },
        }
        return json.dumps(values, sort_keys=True, separators=(",", ":")).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Manifest:
        """Reads what `to_bytes` wrote.

        Raises:
            PreconditionError: a newer version wrote it.
            ArtifactCorruptError: it is not a manifest.
        """
        try:
            values: dict[str, Any] = json.loads(data)
            if values["format"] == FORMAT and int(values["version"]) > VERSION:
                raise PreconditionError(
                    f"the snapshot has format version {int(values['version'])}, and this process "
                    f"reads up to {VERSION}. Upgrade it."
                )
            if values["format"] != FORMAT or values["version"] not in range(1, VERSION + 1):
                raise ValueError("of another format")
            return cls(
                log_id=str(values["log_id"]),
                position=Position(int(values["seq"]), bytes.fromhex(values["chain_digest"])),
                base_model_digest=str(values["base_model_digest"]),
                state_digest=str(values["state_digest"]),
                routed_digest=str(values["routed_digest"]),
                lane_models={str(k): str(v) for k, v in values["lane_models"].items()},
                parts={str(group): _refs(refs) for group, refs in values["parts"].items()},
                version=int(values["version"]),
            )
        except PreconditionError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError, ErrataError) as error:
            raise ArtifactCorruptError(
                f"the snapshot's manifest cannot be read ({type(error).__name__})."
            ) from error

    def artifacts(self) -> Iterator[str]:
        """Digests of everything that the snapshot needs beside the manifest itself."""
        yield from (digest for digest in self.lane_models.values() if digest)
        yield from (ref.digest for refs in self.parts.values() for ref in refs)

    def check(self, named: SnapshotTaken, base_model: str | None) -> None:
        """Returns if this is the snapshot that an entry names, of the process's model.

        Args:
            named: the entry.
            base_model: digest of the LLM; None in processes that have none.

        Raises:
            BaseModelMismatchError: it is of another base model.
            ArtifactCorruptError: it is of another log, position or state.
        """
        if base_model not in (None, self.base_model_digest):
            raise BaseModelMismatchError(
                f"the snapshot is of base model {self.base_model_digest[:16]}…, but this process "
                f"runs {str(base_model)[:16]}…; load the model and dtype that the log was made "
                "with.",
                expected=self.base_model_digest,
                found=str(base_model),
            )
        own = (self.position.seq, self.position.chain_digest, self.state_digest)
        if own != (named.seq, named.chain_digest, named.state_digest) or (
            self.base_model_digest != named.base_model_digest
        ):
            raise ArtifactCorruptError(
                f"the manifest is of entry {self.position.seq} of log {self.log_id}, and not the "
                f"snapshot that the log names at entry {named.seq}.",
                seq=named.seq,
            )


@dataclass(frozen=True, eq=False, slots=True)
class CapturedState:
    """The lanes of a process that holds all of them, with memories, at one position.

    Attributes:
        lanes: contents and memory of each lane that is open.
        commit_seq: edits → position of their commit.
        state_digest: of all lanes.
        routed_digest: of the lanes that leave weights alone.
    """

    lanes: Mapping[str, LaneDump]
    commit_seq: Mapping[str, int]
    state_digest: str
    routed_digest: str


@dataclass(frozen=True, eq=False, slots=True)
class HeldLane:
    """A lane's dump, and its lane model."""

    dump: LaneDump
    model: Artifact | None


@dataclass(frozen=True, eq=False, slots=True)
class Snapshot:
    """A snapshot that was loaded, as far as its process needs it.

    Attributes:
        named: the entry that names it.
        manifest: checked against the entry.
        fold: the entries up to its position.
        commit_seq: edits → position of their commit.
        lanes: those that the process holds.
    """

    named: SnapshotTaken
    manifest: Manifest
    fold: LogFold
    commit_seq: Mapping[str, int]
    lanes: Mapping[str, HeldLane]

    @property
    def position(self) -> Position:
        """The last entry that it contains."""
        return self.manifest.position


def _refs(values: Iterable[Any]) -> tuple[ArtifactRef, ...]:
    return tuple(ArtifactRef(check_digest(digest), int(size)) for digest, size in values)
