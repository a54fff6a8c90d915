"""Training of a lane model: steps, stages, validation, checkpoints."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn

from errata.editing.model.causal_lm import CausalLM
from errata.editing.model.devices import fast_training, has_fast_bf16
from errata.editing.retriever.batches import BatchSampler
from errata.editing.retriever.checkpoints import Run, TrainingFolder, identity_of
from errata.editing.retriever.examples import Example, Sample, frames_of, split, wordings_of
from errata.editing.retriever.lane_model import LaneModel, knowledge
from errata.editing.retriever.objective import LOSSES, PooledFacts, losses, scope_losses
from errata.editing.retriever.questions import Varier
from errata.editing.retriever.schedule import Schedule
from errata.editing.retriever.start import initialise_prompts, initialise_retriever, neighbours_of
from errata.editing.retriever.training_config import TrainingConfig
from errata.editing.retriever.validation import Validation, calibrated, validate
from errata.errors import FitError

_SMOOTHING = 0.95
_MOST_POOLED = 16_384  # facts whose pooled vectors are kept in memory
_NUM_DISTRACTORS = 4_096  # keys of training facts that compete in validation


@dataclass(frozen=True, slots=True)
class Progress:
    """The progress of a training.

    Attributes:
        step: completed optimiser steps.
        done: completed share, 0 to 1, by steps or by time, whichever is further.
        losses: exponential moving averages, by name of `LOSSES`.
        validation: the latest validation of this run; None before the first.
    """

    step: int
    done: float
    losses: Mapping[str, float]
    validation: Validation | None


class Trainer:
    """Trains one lane model; an interrupted training resumes from its folder."""

    def __init__(
        self,
        llm: CausalLM,
        model: LaneModel,
        examples: Sequence[Example],
        config: TrainingConfig,
        out: Path,
        *,
        held_out: Sequence[Example] | None = None,
        max_seconds: float = math.inf,
    ) -> None:
        """Prepares; `run` trains.

        Args:
            llm: unedited and frozen.
            model: from `new_lane_model`; trained in place.
            examples: for training and, without `held_out`, for validation.
            config: settings.
            out: folder of the lane model, log and checkpoint; a checkpoint is resumed.
            held_out: for validation, if its subjects also occur in training; validation then
                stores no keys of training facts. By default, subjects are held out.
            max_seconds: limit of the wall-clock time of all runs; the schedule adapts to it.

        Raises:
            InvalidRequestError: too few examples.
            PreconditionError: the folder contains another training.
        """
        self._llm, self.model, self._config, self._out = llm, model, config, out
        self._schedule = Schedule(config, max_seconds)
        self._knows_subjects = held_out is not None
        if held_out is None:
            self._train, self._held_out = split(examples, config.num_validation)
        else:
            self._train, self._held_out = list(examples), list(held_out)
        # The logarithm of the scale of scores; not part of the lane model: it affects no claim.
        self._log_scale = nn.Parameter(
            torch.tensor(math.log(_first_scale(config)), device=llm.device)
        )
        # A lane model from a gate starts with the gate's frames.
        frames = model.frames.merged(frames_of(self._train))
        model.note_training(frames, wordings_of(self._train))
        self._optimiser = torch.optim.Adam(_groups(model, config, self._log_scale))
        self._pooled: PooledFacts | None = None
        self._others: Tensor | None = None
        self._run = Run(stage=self._schedule.first)
        self._folder = TrainingFolder(out, identity_of(llm, model, examples, config))
        self._reseed()
        if config.start == "similar":
            self._initialise()
        self._sampler = _sampler(model, self._train, config)
        self._varier = Varier(
            self._train,
            questioned=config.questioned,
            preceded=config.preceded,
            named=config.named,
        )
        self._varied = _varied(self._held_out, config)
        self._run = self._folder.restore(model, self._optimiser, self._log_scale) or self._run

    def run(self, on_progress: Callable[[Progress], None] | None = None) -> Validation:
        """Trains until the last step, the time limit, or early stopping.

        Afterwards, `model` and the folder hold the best lane model by validation score.

        Raises:
            FitError: a loss is not finite; the folder holds the best lane model of the
                validations so far, if there were any.
        """
        config, run, schedule = self._config, self._run, self._schedule
        validation: Validation | None = None
        started = perf_counter() - run.seconds
        self._reseed()
        for samples in itertools.islice(self._samples(), run.step, None):
            if schedule.done(run) >= 1 or schedule.is_stuck(run):
                break
            self._begin_stage()
            self._step(samples)
            run.step += 1
            run.seconds = perf_counter() - started
            if run.step % config.evaluate_every == 0 or schedule.done(run) >= 1:
                validation = self._validate()
            if on_progress is not None:
                on_progress(Progress(run.step, schedule.done(run), dict(run.smoothed), validation))
        best = LaneModel.load(self._out, self._llm)
        if run.stage == "all":
            self._calibrate(best)
            best.save(self._out)
        self.model.load_state_dict(best.state_dict())
        distractors = self._distractors(best)
        return validate(best, self._llm, self._held_out, distractors, self._varied)

    def _initialise(self) -> None:
        initialise_prompts(self.model)
        if self._config.stages != "prompts":
            scale = initialise_retriever(self.model, self._train)
            if self._config.scale == "learned":
                self._log_scale.data.fill_(math.log(scale))

    def _begin_stage(self) -> None:
        """Enters the next stage when it is due, with the best model of the previous one."""
        run = self._run
        stage = self._schedule.stage(run)
        if stage != run.stage:
            if run.validated < run.step:
                self._validate()
            best = LaneModel.load(self._out, self._llm)
            self.model.load_state_dict(best.state_dict())
            run.stage, run.best_score = stage, -1.0
            if stage == "prompts":
                self._calibrate(self.model)
            run.stage_began = run.best_step = run.step
            self._reseed()

    def _calibrate(self, model: LaneModel) -> None:
        if self._config.calibrate:
            model.calibration.fill_(1)
            distractors = self._distractors(model)
            model.calibration.fill_(calibrated(model, self._held_out, distractors))

    def _pooled_facts(self) -> PooledFacts:
        """Pooled vectors of the training facts; the encoder must be final."""
        if self._pooled is None:
            rng = random.Random(f"{self._config.seed}/pooled")
            facts = self._sampler.first(_MOST_POOLED, rng)
            self.model.eval()
            with _fast_arithmetic(self._config, self._llm.device):
                self._pooled = PooledFacts.of(self.model.encoder, facts)
        return self._pooled

    def _samples(self) -> Iterator[list[Sample]]:
        """An endless sequence of batches; the same for the same seed, also when resumed."""
        for number in itertools.count():
            rng = random.Random(f"{self._config.seed}/{number}")
            yield from self._sampler.epoch(self._config.batch, rng)

    def _step(self, samples: Sequence[Sample]) -> None:
        rate = self._schedule.rate(self._run)
        for group in self._optimiser.param_groups:
            group["lr"] = group["highest"] * rate
        learns = self._run.stage in ("all", "retriever")
        self.model.train()
        self.model.encoder.requires_grad_(learns)
        if not learns or not self._config.dropout:
            self.model.encoder.eval()
        with _fast_arithmetic(self._config, self._llm.device):
            found = self._losses(samples, self._log_scale.exp())
        total = torch.stack(list(found.values())).sum()
        if not bool(torch.isfinite(total)):
            raise FitError(
                f"the loss is not finite after {self._run.step:,} steps; use a smaller learning "
                f"rate. {self._out} holds the best lane model of the validations so far."
            )
        self._optimiser.zero_grad(set_to_none=True)
        total.backward()
        if self._config.max_norm:
            # Per group: a large gradient in the retriever must not shrink the step of the prompts.
            for group in self._optimiser.param_groups:
                nn.utils.clip_grad_norm_(group["params"], self._config.max_norm)
        self._optimiser.step()
        for name, value in found.items():
            now = value.item()
            before = self._run.smoothed.get(name, now)
            self._run.smoothed[name] = _SMOOTHING * before + (1 - _SMOOTHING) * now

    def _losses(self, samples: Sequence[Sample], scale: Tensor) -> dict[str, Tensor]:
        config, stage = self._config, self._run.stage
        if stage == "prompts":
            rng = random.Random(f"{config.seed}/varied/{self._run.step}")
            samples = [self._varier.varied(sample, rng) for sample in samples]
        if stage != "scope":
            return losses(self.model, self._llm, samples, config, scale, stage)
        pooled = self._pooled_facts()
        chosen = torch.Generator().manual_seed(config.seed * 1_000_003 + self._run.step)
        rows = torch.randperm(len(pooled.subjects), generator=chosen)[: config.candidates]
        asked = max(1, len(rows) // 8)
        rows = rows.to(pooled.subjects.device)
        return scope_losses(self.model, pooled, rows, asked, config, scale)

    def _validate(self) -> Validation:
        distractors = self._distractors(self.model)
        found = validate(self.model, self._llm, self._held_out, distractors, self._varied)
        run = self._run
        run.validated = run.step
        score = found.retriever_score if run.stage in ("retriever", "scope") else found.score
        if score > run.best_score:
            run.best_score, run.best_step = score, run.step
            self.model.save(self._out)
        self._log(found)
        self._folder.save(run, self.model, self._optimiser, self._log_scale)
        self._reseed()
        return found

    @torch.no_grad()
    def _distractors(self, model: LaneModel) -> Tensor:
        """Keys of training facts, (n, d_r), by the model as it is now."""
        if self._knows_subjects:
            return torch.zeros(0, model.shape.d_r, device=self._llm.device)
        frozen = self._run.stage in ("scope", "prompts")
        if self._others is None or not frozen:
            facts = self._train[:_NUM_DISTRACTORS]
            model.eval()
            with _fast_arithmetic(self._config, self._llm.device):
                self._others = model.encoder.in_parts(
                    [knowledge(f.prompt, f.target) for f in facts]
                )
        made: Tensor = model.key_mlp(self._others)
        return made

    def _log(self, found: Validation) -> None:
        row = {"step": self._run.step, "seconds": round(self._run.seconds, 1)}
        smoothed = self._run.smoothed
        row |= {f"loss.{name}": round(smoothed.get(name, math.nan), 4) for name in LOSSES}
        row |= {name: round(value, 4) for name, value in found.figures().items()}
        self._folder.log(row)

    def _reseed(self) -> None:
        """Makes dropout after a checkpoint independent of an interruption there."""
        torch.manual_seed(self._config.seed * 1_000_003 + self._run.step)


def _sampler(model: LaneModel, examples: Sequence[Example], config: TrainingConfig) -> BatchSampler:
    # Similar facts make the retriever's task harder, not MLP_P's.
    group = 1 if config.stages == "prompts" else config.alike
    return BatchSampler(
        examples,
        neighbours=neighbours_of(model, examples) if group > 1 else (),
        group=group,
        borrowed=config.borrowed,
        invented=config.invented,
        answered=config.answered,
        digressing=config.digressing,
    )


def _varied(examples: Sequence[Example], config: TrainingConfig) -> list[Sample]:
    """Other facts for validation, of the kinds that MLP_P is trained on."""
    kinds = {"questioned": config.questioned, "preceded": config.preceded, "named": config.named}
    if not any(kinds.values()):
        return []
    varier = Varier(examples, **{kind: float(share > 0) for kind, share in kinds.items()})
    rng = random.Random("validation")
    samples = [Sample(e, e.rephrases[0], e.locality[0]) for e in examples]
    return [varier.varied(sample, rng) for sample in samples]


def _groups(
    model: LaneModel, config: TrainingConfig, log_scale: nn.Parameter
) -> list[dict[str, Any]]:
    """The optimiser's groups, each with its maximum learning rate: retriever, encoder, MLP_P."""
    body = list(model.encoder.parameters())
    prompts = list(model.prompt_mlp.parameters())
    others = {id(parameter) for parameter in (*body, *prompts)}
    heads = [p for p in model.parameters() if id(p) not in others]
    if config.scale == "learned":
        heads.append(log_scale)
    rates = (config.learning_rate, config.encoder_learning_rate, config.prompt_learning_rate)
    return [
        {"params": group, "highest": rate}
        for group, rate in zip((heads, body, prompts), rates, strict=True)
    ]


def _first_scale(config: TrainingConfig) -> float:
    return 1.0 if config.scale == "one" else config.d_r**-0.5


def _fast_arithmetic(config: TrainingConfig, device: torch.device) -> AbstractContextManager[None]:
    wanted = config.precision == "auto" and has_fast_bf16(device)
    return fast_training(device, bf16=wanted or config.precision == "bf16")
