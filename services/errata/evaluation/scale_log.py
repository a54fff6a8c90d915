"""A log of random edits, as bytes and artifacts that every reader takes for a real one."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterator
from pathlib import Path

import torch

from errata.artifacts.store import ArtifactStore
from errata.editing.artifact import Artifact
from errata.editing.edit import Edit
from errata.editing.model.causal_lm import CausalLM
from errata.editing.retriever.gate import Gate
from errata.editing.retriever.lane_model import read_bytes
from errata.evaluation.memory.fill import Filling, random_artifact
from errata.log.chain import ORIGIN, ChainedEntry, extend
from errata.log.entries import (
    ArtifactRef,
    EditsCommitted,
    EditsRequested,
    Figures,
    LaneConfigured,
    LaneModelCommitted,
    Payload,
)
from errata.log.payload_convert import encode
from errata.log.request_convert import edit_name

LANE = "lanes/scale"
_FIGURES = Figures(1.0, None, 1.0, False)
_AUTHOR = "scale"


def prompt_of(number: int) -> str:
    """The prompt of an edit of the log."""
    return f"The mother tongue of person {number} is"


class ScaleLog:
    """Entries that configure a lane and commit N edits to it.

    Attributes:
        entries: as a log stores them, chained.
        names: of the edits.
        store: holds the artifacts.
    """

    def __init__(self, model: CausalLM, filling: Filling, folder: Path) -> None:
        """Makes the entries, and puts their artifacts into the store in `folder`.

        Args:
            model: of the lane.
            filling: of the lane: method, configuration, lane model, N and edits of a commit.
            folder: of an artifact store.
        """
        self.entries: list[ChainedEntry] = []
        self.names: list[str] = []
        self.store = ArtifactStore(str(folder))
        self._position = ORIGIN
        config = filling.config.model_dump_json()
        digest = hashlib.sha256(config.encode()).hexdigest()
        self.append(LaneConfigured(LANE, filling.method.name, config, digest, model.digest))
        gate = None
        if filling.lane_model is not None:
            data = read_bytes(filling.lane_model)
            gate = Gate.of_bytes(data, model)
            ref = self.put(data)
            self.append(LaneModelCommitted(LANE, ref, (), None, model.digest))
        rng = torch.Generator().manual_seed(0)
        for numbers in _batches(filling.num_edits, filling.batch):
            seq = self._position.seq + 1
            names = tuple(edit_name(seq, index) for index in range(len(numbers)))
            self.append(_request(names, numbers))
            artifact: Artifact = random_artifact(model, filling, gate, names, rng)
            self.append(
                EditsCommitted(
                    lane=LANE,
                    edits=names,
                    figures=(_FIGURES,) * len(names),
                    artifact=self.put(artifact.to_bytes()),
                    memory=None,
                    seed=0,
                    base_model_digest=model.digest,
                    lane_config_digest=digest,
                )
            )
            self.names += names

    def append(self, payload: Payload) -> ChainedEntry:
        """Appends an entry with this content."""
        seq = self._position.seq + 1
        message = encode(payload, _AUTHOR)
        message.request_id = str(uuid.UUID(int=seq))
        message.append_time.FromSeconds(seq)
        data = message.SerializeToString(deterministic=True)
        self._position = extend(self._position, data)
        entry = ChainedEntry(seq, data, self._position.chain_digest)
        self.entries.append(entry)
        return entry

    def put(self, data: bytes) -> ArtifactRef:
        """Stores an artifact."""
        return ArtifactRef(self.store.save(data), len(data))


def _batches(number: int, size: int) -> Iterator[range]:
    for start in range(0, number, size):
        yield range(start, min(start + size, number))


def _request(names: tuple[str, ...], numbers: range) -> EditsRequested:
    edits = tuple(
        Edit(name, prompt_of(number), "Latin", f"person {number}")
        for name, number in zip(names, numbers, strict=True)
    )
    return EditsRequested(LANE, edits, ("",) * len(edits), (True,) * len(edits))
