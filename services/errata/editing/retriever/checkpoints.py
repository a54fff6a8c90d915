"""The folder of a training: the checkpoint that it resumes from, and its log."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from errata.editing.artifact import Artifact
from errata.editing.model.causal_lm import CausalLM
from errata.editing.retriever.examples import Example
from errata.editing.retriever.lane_model import LaneModel
from errata.editing.retriever.training_config import TrainingConfig
from errata.errors import PreconditionError

_CHECKPOINT = "checkpoint.safetensors"
_LOG = "training.csv"

Stage = Literal["all", "retriever", "scope", "prompts"]


@dataclass(slots=True)
class Run:
    """The progress of a training, without weights and optimiser state; JSON in checkpoints.

    Attributes:
        step: completed optimiser steps.
        seconds: wall-clock time of all runs.
        best_score: the best validation score of the current stage.
        best_step: the step of that validation.
        stage: the current stage.
        stage_began: completed steps when the stage began.
        validated: the step of the latest validation.
        smoothed: exponential moving averages of the losses, by name.
    """

    step: int = 0
    seconds: float = 0.0
    best_score: float = -1.0
    best_step: int = 0
    stage: Stage = "all"
    stage_began: int = 0
    validated: int = 0
    smoothed: dict[str, float] = field(default_factory=dict)


class TrainingFolder:
    """Checkpoint and log of one training."""

    def __init__(self, path: Path, identity: str) -> None:
        """Opens or creates the folder.

        Args:
            path: of the folder.
            identity: of the training, from `identity_of`.

        Raises:
            PreconditionError: the folder contains something else.
        """
        self._path, self._identity = path, identity
        self._saved: Artifact | None = None
        if (path / _CHECKPOINT).exists():
            self._saved = Artifact.from_bytes((path / _CHECKPOINT).read_bytes())
            if self._saved.metadata.get("training") != identity:
                raise PreconditionError(
                    f"{path} contains a training with other settings, data, encoder or LLM; use a "
                    "new folder."
                )
        elif path.exists() and any(path.iterdir()):
            raise PreconditionError(f"{path} is not empty; use a new folder.")
        path.mkdir(parents=True, exist_ok=True)

    def save(
        self, run: Run, model: LaneModel, optimiser: torch.optim.Optimizer, log_scale: Tensor
    ) -> None:
        """Replaces the checkpoint."""
        tensors = {f"model.{name}": t.detach() for name, t in model.state_dict().items()}
        for number, values in optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser.{number}.{name}": t for name, t in values.items()}
        tensors["log_scale"] = log_scale.detach()
        progress = {name: getattr(run, name) for name in Run.__slots__}
        metadata = {"training": self._identity, "run": json.dumps(progress)}
        path = self._path / _CHECKPOINT
        path.with_suffix(".part").write_bytes(Artifact(tensors, metadata).to_bytes())
        path.with_suffix(".part").replace(path)

    def restore(
        self, model: LaneModel, optimiser: torch.optim.Optimizer, log_scale: Tensor
    ) -> Run | None:
        """Loads the checkpoint that existed when the folder was opened; None without one."""
        saved = self._saved
        if saved is None:
            return None
        state: dict[int, dict[str, Tensor]] = {}
        weights: dict[str, Tensor] = {}
        for name, tensor in saved.tensors.items():
            kind, _, rest = name.partition(".")
            if kind == "model":
                weights[rest] = tensor
            elif kind == "optimiser":
                number, _, what = rest.partition(".")
                state.setdefault(int(number), {})[what] = tensor
        model.load_state_dict(weights)
        optimiser.load_state_dict({**optimiser.state_dict(), "state": state})
        log_scale.data.copy_(saved.tensors["log_scale"])
        return Run(**json.loads(saved.metadata["run"]))

    def log(self, row: Mapping[str, float]) -> None:
        """Appends a row to the log; the first row also writes the header."""
        path = self._path / _LOG
        is_new = not path.exists()
        with path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, row)
            if is_new:
                writer.writeheader()
            writer.writerow(row)


def identity_of(
    llm: CausalLM, model: LaneModel, examples: Sequence[Example], config: TrainingConfig
) -> str:
    """A digest of everything that must be the same for a training to be resumed."""
    encoder = model.encoder.model.config.to_json_string()
    # The sentinel identifies a reused retriever; a new retriever follows from the seed.
    sentinel = model.sentinel.detach().flatten().tolist()
    data = [repr(example) for example in examples]
    identity = [config.model_dump(), llm.digest, encoder, sentinel, data]
    return hashlib.sha256(json.dumps(identity).encode()).hexdigest()
