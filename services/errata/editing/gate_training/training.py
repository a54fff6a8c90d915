"""Training of a gate: no LLM takes part, so that one gate serves lanes on any LLM.

1. The encoder's upper layers, MLP_K, MLP_Q and the sentinel are trained on batches of groups that
   are hard to tell apart.
2. With a frozen encoder, MLP_K, MLP_Q and the sentinel are trained among thousands of keys.
3. The sentinel's key is calibrated on held-out records.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import torch
from torch import Tensor, nn

from errata.editing.gate_training.batches import Batch, batch_of, batches
from errata.editing.gate_training.config import GateTrainingConfig
from errata.editing.gate_training.facts import Fact, FactSource
from errata.editing.gate_training.objective import (
    batch_losses,
    identity_numbers,
    retrieval_losses,
)
from errata.editing.gate_training.relations import GAP, Relation, load_relations
from errata.editing.gate_training.validation import Claims, Scores, calibrated
from errata.editing.retriever import gate_file
from errata.editing.retriever.encoder import Encoder
from errata.editing.retriever.examples import Example, frames_of, split, wordings_of
from errata.editing.retriever.frames import Frames
from errata.editing.retriever.gate_model import GateModel
from errata.editing.retriever.heads import GateShape
from errata.editing.retriever.lane_model import knowledge
from errata.editing.retriever.start import initialise_retriever, scale_of
from errata.errors import FitError, PreconditionError

_LOWEST_RATE = 0.05  # of the maximum, at the end of the cosine schedule
_SMOOTHING = 0.95
_MAX_NORM = 1.0
_NUM_INVENTED = 150  # groups of invented facts of validation
_NUM_SCALED = 256  # statements whose keys give the first scale of scores
_SCALE_RATE = 1e-2  # of one number, the logarithm of the scale


@dataclass(frozen=True, slots=True)
class GateProgress:
    """The progress of a training.

    Attributes:
        step: completed optimiser steps.
        done: completed share, 0 to 1.
        loss: exponential moving average of the sum of losses, in nats.
    """

    step: int
    done: float
    loss: float


@dataclass(frozen=True, slots=True)
class GateReport:
    """The claims of a trained gate in validation.

    Attributes:
        records: on held-out records, whose subjects were not in the training.
        relations: on facts of relations that no training reads.
        calibration: factor on the sentinel's key.
    """

    records: Claims
    relations: Claims
    calibration: float


class GateTrainer:
    """Trains one gate."""

    def __init__(
        self,
        start: Encoder | GateModel,
        examples: Sequence[Example],
        config: GateTrainingConfig,
        out: Path,
        *,
        max_seconds: float = math.inf,
    ) -> None:
        """Prepares; `run` trains.

        Args:
            start: a pretrained encoder, or a gate to train further; trained in place.
            examples: records, for training and validation.
            config: settings.
            out: new folder of the gate.
            max_seconds: wall-clock time after which training ends; the schedule adapts to it.

        Raises:
            InvalidRequestError: too few records.
            PreconditionError: the folder is not empty.
        """
        if out.exists() and any(out.iterdir()):
            raise PreconditionError(f"{out} is not empty; use a new folder.")
        self._config, self._out, self._max_seconds = config, out, max_seconds
        train, held_out = split(examples, config.num_validation)
        relations = load_relations()
        self._source = _source([r for r in relations if not r.held_out], train, config)
        self._validation = (
            _validation(FactSource(held_out, relations, varied_share=0.0), len(held_out)),
            _validation(_source([r for r in relations if r.held_out], held_out, config), 0),
        )
        torch.manual_seed(config.seed)
        if isinstance(start, GateModel):
            self.model = start.requires_grad_(True)
            self.model.calibration.fill_(1)
            statements = [knowledge(e.prompt, e.target) for e in train[:_NUM_SCALED]]
            with torch.no_grad():
                scale = scale_of(self.model.keys(statements))
        else:
            sizes = GateShape(config.d_r, config.num_sentinel, start.max_tokens)
            self.model = GateModel(start, sizes)
            scale = initialise_retriever(self.model, train)
        trained = [relation.wordings for relation in relations if not relation.held_out]
        frames = frames_of(train).merged(Frames.of_wordings(trained, GAP))
        self.model.note_training(frames, wordings_of(train))
        self._log_scale = nn.Parameter(torch.tensor(math.log(scale)))
        _freeze(self.model.encoder, config.frozen_layers)
        self._optimiser = torch.optim.Adam(_groups(self.model, config, self._log_scale))

    def run(self, on_progress: Callable[[GateProgress], None] | None = None) -> GateReport:
        """Trains until the last step or the time limit, calibrates, and writes the gate.

        Raises:
            FitError: a loss is not finite; nothing is written.
        """
        config, started, smoothed = self._config, perf_counter(), math.nan
        rng = random.Random(f"{config.seed}/gate")
        source = batches(self._source, config.batch, config.records, config.stored, rng)
        self.model.eval()  # keys are computed without dropout
        pooled: _Pooled | None = None
        bounds = (1 - config.scope_share, 1.0)
        began = 0.0
        for step in itertools.count():
            done = self._done(step, started)
            if done >= 1:
                break
            is_scope = done >= bounds[0]
            if is_scope and pooled is None:
                self.model.encoder.requires_grad_(False)
                pooled = _Pooled.of(self.model, itertools.islice(source, config.pool))
                began = done = min(1.0, self._done(step, started))
            end = bounds[1] if is_scope else bounds[0]
            self._set_rates(step, (done - began) / max(1e-9, end - began))
            losses = (
                batch_losses(self.model, next(source), self._log_scale.exp())
                if pooled is None
                else pooled.losses(self.model, config, step, self._log_scale.exp())
            )
            loss = self._update(step, losses)
            smoothed = loss if step == 0 else _SMOOTHING * smoothed + (1 - _SMOOTHING) * loss
            if on_progress is not None:
                on_progress(GateProgress(step + 1, done, smoothed))
        return self._finish()

    def _done(self, step: int, started: float) -> float:
        """The completed share, by steps or by time, whichever is further."""
        by_time = (perf_counter() - started) / self._max_seconds
        return max(by_time, step / self._config.max_steps)

    def _finish(self) -> GateReport:
        """Writes the gate; what its file holds, rounded to 8 bits, is calibrated and evaluated."""
        artifact = gate_file.to_artifact(self.model)
        written = gate_file.from_artifact(artifact, self.model.encoder.device)
        records, relations = (Scores.of(written, batch) for batch in self._validation)
        factor = calibrated(records, self._config.false_claims)
        written.calibration.fill_(factor)
        gate_file.save(written, self._out)
        return GateReport(records.claims(factor), relations.claims(factor), factor)

    def _set_rates(self, step: int, done: float) -> None:
        warm = min(1.0, (step + 1) / max(1, self._config.warmup_steps))
        falling = 0.5 * (1 + math.cos(math.pi * min(1.0, max(0.0, done))))
        for group in self._optimiser.param_groups:
            group["lr"] = group["highest"] * warm * (_LOWEST_RATE + (1 - _LOWEST_RATE) * falling)

    def _update(self, step: int, losses: dict[str, Tensor]) -> float:
        total = torch.stack(list(losses.values())).sum()
        if not bool(torch.isfinite(total)):
            raise FitError(
                f"the loss is not finite after {step:,} steps; use smaller learning rates."
            )
        self._optimiser.zero_grad(set_to_none=True)
        total.backward()
        for group in self._optimiser.param_groups:
            nn.utils.clip_grad_norm_(group["params"], _MAX_NORM)
        self._optimiser.step()
        return float(total.detach())


@dataclass(frozen=True, eq=False, slots=True)
class _Pooled:
    """Pooled vectors of many batches, from a frozen encoder; owners are indices into statements."""

    statements: Tensor
    queries: Tensor
    owners: Tensor
    key_identities: Tensor
    query_identities: Tensor

    @classmethod
    @torch.no_grad()
    def of(cls, model: GateModel, made: itertools.islice[Batch]) -> _Pooled:
        statements: list[str] = []
        texts: list[str] = []
        owners: list[int] = []
        known: dict[str, int] = {}
        key_ids: list[str] = []
        query_ids: list[str] = []
        for batch in made:
            owners += [q.key + len(statements) if q.key >= 0 else -1 for q in batch.queries]
            statements += batch.statements
            key_ids += batch.identities
            texts += [query.text for query in batch.queries]
            query_ids += [query.identity for query in batch.queries]
        return cls(
            model.encoder.in_parts(statements),
            model.encoder.in_parts(texts),
            torch.tensor(owners),
            identity_numbers(key_ids, known),
            identity_numbers(query_ids, known),
        )

    def losses(
        self, model: GateModel, config: GateTrainingConfig, step: int, scale: Tensor
    ) -> dict[str, Tensor]:
        """The losses of some queries among many keys, without queries whose key is not drawn."""
        rng = torch.Generator().manual_seed(config.seed * 1_000_003 + step)
        keys = torch.randperm(len(self.statements), generator=rng)[: config.candidates]
        place = torch.full((len(self.statements) + 1,), -1)
        place[keys] = torch.arange(len(keys))
        asked = torch.randperm(len(self.queries), generator=rng)[: config.candidates // 2]
        owners = self.owners[asked]
        here = place[owners]  # owner −1 reads the last place, which is −1
        asked, here = asked[(owners < 0) | (here >= 0)], here[(owners < 0) | (here >= 0)]
        return retrieval_losses(
            model,
            model.key_mlp(self.statements[keys]),
            model.query_mlp(self.queries[asked]),
            here,
            self.key_identities[keys],
            self.query_identities[asked],
            scale,
        )


def _source(
    relations: Sequence[Relation], examples: Sequence[Example], config: GateTrainingConfig
) -> FactSource:
    return FactSource(examples, relations, varied_share=config.varied)


def _validation(source: FactSource, num_records: int) -> Batch:
    """All records, or facts of the source's relations about invented subjects."""
    rng = random.Random("validation")
    facts: list[Fact] = []
    if num_records:
        for number in range(num_records):
            facts += source.record(number, rng)
    else:
        for _ in range(_NUM_INVENTED):
            facts += source.invented(rng)
    return batch_of(facts, 0.8, rng)


def _freeze(encoder: Encoder, num_layers: int) -> None:
    """Freezes the embeddings and the first layers; an encoder without a list of layers trains all.

    Layers are the longest list of modules, which all of `Encoder`'s architectures have.
    """
    lists = [module for module in encoder.model.modules() if isinstance(module, nn.ModuleList)]
    layers = max(lists, key=len, default=nn.ModuleList())
    encoder.model.embeddings.requires_grad_(num_layers == 0)
    for layer in layers[:num_layers]:
        layer.requires_grad_(False)


def _groups(
    model: GateModel, config: GateTrainingConfig, log_scale: nn.Parameter
) -> list[dict[str, object]]:
    """The optimiser's groups: heads with sentinel and scale, and the encoder's trained layers."""
    body = [p for p in model.encoder.parameters() if p.requires_grad]
    ids = {id(p) for p in model.encoder.parameters()}
    heads = [p for p in model.parameters() if id(p) not in ids]
    return [
        {"params": heads, "highest": config.learning_rate},
        {"params": [log_scale], "highest": _SCALE_RATE},
        {"params": body, "highest": config.encoder_learning_rate},
    ]
