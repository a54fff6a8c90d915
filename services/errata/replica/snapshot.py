"""Snapshots: files with a replica's state at a position of the log.

A replica that starts from a snapshot applies only the entries after it. A snapshot saves time but
is never the source of truth: if it is damaged or has another version, the log is replayed instead.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import structlog
from torch import Tensor

from errata.editing.artifact import Artifact
from errata.editing.lane.commits import LaneDump
from errata.errors import ArtifactCorruptError
from errata.log.chain import Position
from errata.log.entries import LaneConfigured
from errata.log.fold import LogFold
from errata.log.signing.trust import TrustState
from errata.platform.failpoints import failpoint

_log = structlog.get_logger(__name__)
_KIND = "replica-snapshot/2"
_SUFFIX = ".safetensors"
_KEPT = 2  # the newest may be damaged
_MAX_HEADER_BYTES = 100_000_000  # the library's own limit: the facts name every edit


@dataclass(frozen=True, eq=False, slots=True)
class CapturedState:
    """The state of a replica without LLM weights at one position of the log.

    Attributes:
        lanes: the applied lanes, each with its contents.
        left_out: names of the lanes that need weights, which are not applied.
        lane_of: active edits → their lane, in the order of their commits.
        commit_seq: active edits → position of their commit.
        reverted: names of the reverted edits.
        state_digest: SHA-256, hex, of the lanes' contents.
        trust: whom the log trusts.
    """

    lanes: tuple[tuple[LaneConfigured, LaneDump], ...]
    left_out: tuple[str, ...]
    lane_of: Mapping[str, str]
    commit_seq: Mapping[str, int]
    reverted: tuple[str, ...]
    state_digest: str
    trust: TrustState


@dataclass(frozen=True, eq=False, slots=True)
class Snapshot:
    """A captured state and its position in a log.

    Attributes:
        log_id: the log's identity.
        position: the last entry that the state contains.
        captured: the state there.
        fold: the entries up to there.
    """

    log_id: str
    position: Position
    captured: CapturedState
    fold: LogFold

    def to_bytes(self) -> bytes:
        """A safetensors file: the lanes' tensors, and everything else as JSON metadata."""
        captured, lanes = self.captured, []
        tensors: dict[str, Tensor] = {}
        for number, (configured, held) in enumerate(captured.lanes):
            lane: dict[str, object] = {
                "configured": asdict(configured),
                "model": held.model_digest,
                "edits": held.edits,
            }
            if held.repository is not None:
                lane["repository"] = held.repository.metadata
                named = held.repository.tensors.items()
                tensors |= {f"{number}.{name}": tensor for name, tensor in named}
            lanes.append(lane)
        facts = {
            "log_id": self.log_id,
            "seq": self.position.seq,
            "chain_digest": self.position.chain_digest.hex(),
            "lanes": lanes,
            "fold": self.fold.to_json(),
            "left_out": captured.left_out,
            "lane_of": list(captured.lane_of.items()),
            "commit_seq": dict(captured.commit_seq),
            "reverted": captured.reverted,
            "state_digest": captured.state_digest,
            "trust": captured.trust.to_json(),
        }
        return Artifact(tensors, {"kind": _KIND, "facts": json.dumps(facts)}).to_bytes()

    @classmethod
    def from_bytes(cls, data: bytes) -> Snapshot:
        """Reads a snapshot that `to_bytes` wrote.

        Raises:
            ArtifactCorruptError: this is not a snapshot of this version.
        """
        artifact = Artifact.from_bytes(data, max_header_bytes=_MAX_HEADER_BYTES)
        if artifact.metadata.get("kind") != _KIND:
            raise ArtifactCorruptError("the file is not a snapshot of this version.")
        try:
            facts = json.loads(artifact.metadata["facts"])
            lanes = []
            for number, lane in enumerate(facts["lanes"]):
                configured, repository = LaneConfigured(**lane["configured"]), None
                if "repository" in lane:
                    tensors = _of_lane(artifact, f"{number}.")
                    repository = Artifact(tensors, lane["repository"])
                held = LaneDump(lane["model"], tuple(lane["edits"]), repository)
                lanes.append((configured, held))
            captured = CapturedState(
                lanes=tuple(lanes),
                left_out=tuple(facts["left_out"]),
                lane_of=dict(facts["lane_of"]),
                commit_seq=facts["commit_seq"],
                reverted=tuple(facts["reverted"]),
                state_digest=facts["state_digest"],
                trust=TrustState.from_json(facts["trust"]),
            )
            position = Position(facts["seq"], bytes.fromhex(facts["chain_digest"]))
            fold = LogFold.from_json(facts["fold"])
            return cls(facts["log_id"], position, captured, fold)
        except (KeyError, TypeError, ValueError) as error:
            raise ArtifactCorruptError(f"the snapshot cannot be read: {error!r}.") from error


def _of_lane(artifact: Artifact, prefix: str) -> dict[str, Tensor]:
    named = artifact.tensors.items()
    return {name.removeprefix(prefix): t for name, t in named if name.startswith(prefix)}


class SnapshotFolder:
    """The newest snapshots of one kind of replica; several replicas may share the folder."""

    def __init__(self, path: Path) -> None:
        """Creates the folder when the first snapshot is saved."""
        self.path = path

    def save(self, snapshot: Snapshot) -> Path:
        """Writes a snapshot atomically and removes all but the newest ones."""
        self.path.mkdir(parents=True, exist_ok=True)
        path = self.path / f"{snapshot.position.seq:020d}{_SUFFIX}"
        part = path.with_suffix(f".{os.getpid()}.part")
        with part.open("wb") as file:
            file.write(snapshot.to_bytes())
            file.flush()
            failpoint("retrieval.snapshot.before_sync")
            os.fsync(file.fileno())
        failpoint("retrieval.snapshot.before_rename")
        part.replace(path)
        for old in self._files()[_KEPT:]:
            old.unlink(missing_ok=True)
        return path

    def newest(self) -> Snapshot | None:
        """The newest readable snapshot; None if there is none."""
        for path in self._files():
            try:
                return Snapshot.from_bytes(path.read_bytes())
            except (OSError, ArtifactCorruptError) as error:
                _log.warning("snapshot skipped", path=str(path), reason=str(error))
        return None

    def _files(self) -> list[Path]:
        return sorted(self.path.glob(f"*{_SUFFIX}"), reverse=True)
