"""Meta-training of a lane model: the loop, its log, and checkpoints from which it goes on."""

from __future__ import annotations

import csv
import hashlib
import itertools
import json
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from errata.editing.artifact import Artifact
from errata.editing.causal_lm import CausalLM
from errata.editing.devices import has_fast_bf16
from errata.editing.recipe.encoder import Encoder
from errata.editing.recipe.examples import Deck, Draw, Example, split
from errata.editing.recipe.lane_model import LaneModel, Shape, knowledge, place_behind_bos
from errata.editing.recipe.objective import LOSSES, Pooled, losses, scope_losses
from errata.editing.recipe.start import likes_of, start_prompts, start_retriever
from errata.editing.recipe.training_config import TrainingConfig
from errata.editing.recipe.validation import Validation, calibrated, validate
from errata.errors import FitError, InvalidRequestError, PreconditionError

_CHECKPOINT = "checkpoint.safetensors"
_LOG = "training.csv"
_SMOOTHING = 0.95
_LOWEST_RATE = 0.05  # of the cosine schedule's highest
_MOST_POOLED = 16_384  # facts whose pooled vectors are held in memory
_NUM_DISTRACTORS = 4_096  # keys among which validation has to find the right one

Stage = Literal["all", "retriever", "scope", "prompts"]


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a training stands.

    Attributes:
        step: optimiser steps done.
        done: share of the whole, 0 to 1, by steps or by time, whichever is further.
        losses: smoothed, by name of `LOSSES`.
        validation: of the latest validation.
    """

    step: int
    done: float
    losses: Mapping[str, float]
    validation: Validation | None


@dataclass(slots=True)
class _Run:
    """What of a training is neither weights nor optimiser state; lies in checkpoints as JSON."""

    step: int = 0
    seconds: float = 0.0
    best_score: float = -1.0
    best_step: int = 0
    stage: Stage = "all"
    stage_began: int = 0
    validated: int = 0
    smoothed: dict[str, float] = field(default_factory=dict)


def new_lane_model(
    llm: CausalLM,
    encoder: str | Path | None,
    config: TrainingConfig,
    retriever: LaneModel | None = None,
) -> LaneModel:
    """An untrained lane model for an LLM.

    Args:
        llm: unedited.
        encoder: folder or hub id; None makes a small one over the LLM's tokenizer.
        config: of the training; its seed decides the random weights.
        retriever: for `stages="prompts"`, a lane model whose encoder, MLP_K, MLP_Q and sentinel
            are taken over; it says `d_r`, `num_sentinel` and `max_tokens`, too.

    Raises:
        ModelNotFoundError, UnsupportedModelError: the encoder cannot be used.
        InvalidRequestError: a retriever is missing, or there is no use for it.
    """
    if (retriever is not None) != (config.stages == "prompts"):
        raise InvalidRequestError(
            "a retriever goes with stages 'prompts', and stages 'prompts' with a retriever.",
            field="retriever",
        )
    torch.manual_seed(config.seed)
    if retriever is not None:
        made = retriever.encoder
    elif encoder is None:
        made = Encoder.small(llm, config.max_tokens, width=config.width, depth=config.depth)
    else:
        made = Encoder.load(encoder, config.max_tokens)
    known = retriever.shape if retriever is not None else config
    shape = Shape(
        d_r=known.d_r,
        num_prompt=config.num_prompt,
        num_target=config.num_target,
        num_sentinel=known.num_sentinel,
        after=place_behind_bos(llm) if config.placement == "after_bos" else 0,
        d=llm.d,
        max_tokens=made.max_tokens,
    )
    model = LaneModel(made, shape, llm.digest)
    if retriever is not None:
        model.key_mlp, model.query_mlp = retriever.key_mlp, retriever.query_mlp
        model.sentinel, model.calibration = retriever.sentinel, retriever.calibration
    model.prompt_mlp.scale.fill_(float(llm.embeddings.get_parameter("weight").float().std()))
    return model.to(llm.device)


class Trainer:
    """Trains one lane model; `run` may be interrupted and called again on the same folder."""

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
            examples: of training and, without `held_out`, of validation.
            config: settings.
            out: gets the lane model, a log and checkpoints; what is there is gone on with.
            held_out: of validation, about subjects of training, too: validation then has no other
                keys in store. Without it subjects are held out.
            max_seconds: of training, all runs on the folder together. The schedule ends with it.

        Raises:
            InvalidRequestError: too few examples.
            PreconditionError: the folder holds another training.
        """
        self._llm, self.model, self._config, self._out = llm, model, config, out
        self._max_seconds = max_seconds
        self._knows_subjects = held_out is not None
        if held_out is None:
            self._train, self._held_out = split(examples, config.num_validation)
        else:
            self._train, self._held_out = list(examples), list(held_out)
        # The logarithm of the scores' scale; no part of the lane model, for it decides no claim.
        self._log_scale = nn.Parameter(
            torch.tensor(math.log(_first_scale(config)), device=llm.device)
        )
        body = list(model.encoder.parameters())
        prompts = list(model.prompt_mlp.parameters())
        known = {id(parameter) for parameter in (*body, *prompts)}
        heads = [p for p in model.parameters() if id(p) not in known]
        if config.scale == "learned":
            heads.append(self._log_scale)
        self._rates = (
            config.learning_rate,
            config.encoder_learning_rate,
            config.prompt_learning_rate,
        )
        groups = [{"params": group} for group in (heads, body, prompts)]
        self._optimiser = torch.optim.Adam(groups)
        self._pooled: Pooled | None = None
        self._run = _Run(stage=next(iter(self._bounds)))
        self._identity = _identity(llm, model, examples, config)
        saved = self._open_folder()
        self._reseed()
        if config.start == "similar":
            start_prompts(model)
            if config.stages != "prompts":
                scale = start_retriever(model, self._train)
                if config.scale == "learned":
                    self._log_scale.data.fill_(math.log(scale))
        self._deck = Deck(
            self._train,
            likes=likes_of(model, self._train) if config.alike > 1 else (),
            group=config.alike,
            borrowed=config.borrowed,
            invented=config.invented,
        )
        if saved is not None:
            self._resume(saved)

    def run(self, on_progress: Callable[[Progress], None] | None = None) -> Validation:
        """Trains to the last step, the last second, or until nothing gets better any more.

        Afterwards the folder holds, and `model` is, the best lane model by validation.

        Raises:
            FitError: a loss is not finite; the folder holds the best lane model of the
                validations until then, if there were any.
        """
        config, run = self._config, self._run
        validation: Validation | None = None
        started = perf_counter() - run.seconds
        self._reseed()
        for draws in itertools.islice(self._draws(), run.step, None):
            if self._done >= 1 or self._is_stuck:
                break
            self._begin_stage()
            self._step(draws)
            run.step += 1
            run.seconds = perf_counter() - started
            if run.step % config.evaluate_every == 0 or self._done >= 1:
                validation = self._validate()
            if on_progress is not None:
                on_progress(Progress(run.step, self._done, dict(run.smoothed), validation))
        best = LaneModel.load(self._out, self._llm)
        self.model.load_state_dict(best.state_dict())
        return validate(best, self._llm, self._held_out, self._distractors(best))

    @property
    def _bounds(self) -> Mapping[Stage, tuple[float, float]]:
        """Which part of the whole training belongs to which stage."""
        if self._config.stages == "joint":
            return {"all": (0.0, 1.0)}
        if self._config.stages == "prompts":
            return {"prompts": (0.0, 1.0)}
        second = self._config.retriever_share
        third = second + self._config.scope_share
        return {"retriever": (0.0, second), "scope": (second, third), "prompts": (third, 1.0)}

    def _begin_stage(self) -> None:
        """Goes over to the next stage when its time has come, with the best model of the last."""
        run, done = self._run, self._done
        stage = next(name for name, (_, end) in self._bounds.items() if done < end)
        if stage != run.stage:
            if run.validated < run.step:
                self._validate()
            best = LaneModel.load(self._out, self._llm)
            self.model.load_state_dict(best.state_dict())
            run.stage, run.best_score = stage, -1.0
            if stage == "prompts" and self._config.calibrate:
                distractors = self._distractors(self.model)
                self.model.calibration.fill_(calibrated(self.model, self._held_out, distractors))
            run.stage_began = run.best_step = run.step
            self._reseed()

    def _pooled_facts(self) -> Pooled:
        """What the encoder, which stays as it is now, makes of the facts of training."""
        if self._pooled is None:
            rng = random.Random(f"{self._config.seed}/pooled")
            facts = [
                Draw(e, rng.choice(e.rephrases), rng.choice(e.locality))
                for e in self._train[:_MOST_POOLED]
            ]
            self.model.eval()
            with _fast_arithmetic(self._config, self._llm.device):
                self._pooled = Pooled.of(self.model.encoder, facts)
        return self._pooled

    @property
    def _done(self) -> float:
        by_steps = self._run.step / self._config.max_steps
        return min(1.0, max(by_steps, self._run.seconds / self._max_seconds))

    @property
    def _is_stuck(self) -> bool:
        """Whether nothing got better for too long; scores mean nothing while MLP_P waits."""
        patience = self._config.patience * self._config.evaluate_every
        is_last = self._run.stage in ("all", "prompts")
        return is_last and self._run.step - self._run.best_step > patience

    def _draws(self) -> Iterator[list[Draw]]:
        """Batches without end; the same ones for the same seed, however often it is resumed."""
        for number in itertools.count():
            rng = random.Random(f"{self._config.seed}/{number}")
            yield from self._deck.epoch(self._config.batch, rng)

    def _step(self, draws: Sequence[Draw]) -> None:
        for group, rate in zip(self._optimiser.param_groups, self._rates, strict=True):
            group["lr"] = rate * self._rate_share()
        learns = self._run.stage in ("all", "retriever")
        self.model.train()
        self.model.encoder.requires_grad_(learns)
        if not learns or not self._config.dropout:
            self.model.encoder.eval()
        with _fast_arithmetic(self._config, self._llm.device):
            found = self._losses(draws, self._log_scale.exp())
        total = torch.stack(list(found.values())).sum()
        if not bool(torch.isfinite(total)):
            raise FitError(
                f"the loss is not finite after {self._run.step:,} steps; use a smaller learning "
                f"rate. {self._out} holds the best lane model of the validations until then."
            )
        self._optimiser.zero_grad(set_to_none=True)
        total.backward()
        if self._config.max_norm:
            # Group by group: a jolt in the retriever must not make the prompts' steps smaller.
            for group in self._optimiser.param_groups:
                nn.utils.clip_grad_norm_(group["params"], self._config.max_norm)
        self._optimiser.step()
        for name, value in found.items():
            now = value.item()
            before = self._run.smoothed.get(name, now)
            self._run.smoothed[name] = _SMOOTHING * before + (1 - _SMOOTHING) * now

    def _losses(self, draws: Sequence[Draw], scale: Tensor) -> dict[str, Tensor]:
        config, stage = self._config, self._run.stage
        if stage != "scope":
            return losses(self.model, self._llm, draws, config, scale, stage)
        pooled = self._pooled_facts()
        chosen = torch.Generator().manual_seed(config.seed * 1_000_003 + self._run.step)
        rows = torch.randperm(len(pooled.subjects), generator=chosen)[: config.candidates]
        asked = max(1, len(rows) // 8)
        rows = rows.to(pooled.subjects.device)
        return scope_losses(self.model, pooled, rows, asked, config, scale)

    def _rate_share(self) -> float:
        if self._config.schedule == "constant":
            return 1.0
        run, (begin, end) = self._run, self._bounds[self._run.stage]
        warm = (run.step - run.stage_began + 1) / max(1, self._config.warmup_steps)
        done = (self._done - begin) / (end - begin)
        falling = 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
        return min(1.0, warm) * (_LOWEST_RATE + (1 - _LOWEST_RATE) * falling)

    def _validate(self) -> Validation:
        distractors = self._distractors(self.model)
        found = validate(self.model, self._llm, self._held_out, distractors)
        run = self._run
        run.validated = run.step
        score = found.retriever_score if run.stage in ("retriever", "scope") else found.score
        if score > run.best_score:
            run.best_score, run.best_step = score, run.step
            self.model.save(self._out)
        self._note(found)
        self._save_checkpoint()
        self._reseed()
        return found

    @torch.no_grad()
    def _distractors(self, model: LaneModel) -> Tensor:
        """Keys of training facts, (n, d_r), as the model makes them now."""
        if self._knows_subjects:
            return torch.zeros(0, model.shape.d_r, device=self._llm.device)
        if self._run.stage in ("scope", "prompts"):
            pooled = self._pooled_facts().statements[:_NUM_DISTRACTORS]
        else:
            facts = self._train[:_NUM_DISTRACTORS]
            model.eval()
            with _fast_arithmetic(self._config, self._llm.device):
                pooled = model.encoder.in_parts([knowledge(f.prompt, f.target) for f in facts])
        made: Tensor = model.key_mlp(pooled)
        return made

    def _note(self, found: Validation) -> None:
        row = {"step": self._run.step, "seconds": round(self._run.seconds, 1)}
        smoothed = self._run.smoothed
        row |= {f"loss.{name}": round(smoothed.get(name, math.nan), 4) for name in LOSSES}
        row |= {name: round(value, 4) for name, value in found.figures().items()}
        path = self._out / _LOG
        is_new = not path.exists()
        with path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, row)
            if is_new:
                writer.writeheader()
            writer.writerow(row)

    def _reseed(self) -> None:
        """Dropout after a checkpoint is the same whether training was interrupted there or not."""
        torch.manual_seed(self._config.seed * 1_000_003 + self._run.step)

    def _save_checkpoint(self) -> None:
        tensors = {f"model.{name}": t.detach() for name, t in self.model.state_dict().items()}
        for number, values in self._optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser.{number}.{name}": t for name, t in values.items()}
        tensors["log_scale"] = self._log_scale.detach()
        run = {name: getattr(self._run, name) for name in _Run.__slots__}
        facts = {"training": self._identity, "run": json.dumps(run)}
        path = self._out / _CHECKPOINT
        path.with_suffix(".part").write_bytes(Artifact(tensors, facts).to_bytes())
        path.with_suffix(".part").replace(path)

    def _open_folder(self) -> Artifact | None:
        """The checkpoint to go on from; None if the folder is new.

        Raises:
            PreconditionError: the folder holds something else.
        """
        path = self._out / _CHECKPOINT
        if not path.exists():
            if self._out.exists() and any(self._out.iterdir()):
                raise PreconditionError(f"{self._out} is not empty; give a new folder.")
            self._out.mkdir(parents=True, exist_ok=True)
            return None
        saved = Artifact.from_bytes(path.read_bytes())
        if saved.metadata.get("training") != self._identity:
            raise PreconditionError(
                f"{self._out} holds a training with other settings, data, encoder or LLM; give a "
                "new folder."
            )
        return saved

    def _resume(self, saved: Artifact) -> None:
        self._run = _Run(**json.loads(saved.metadata["run"]))
        state: dict[int, dict[str, Tensor]] = {}
        weights: dict[str, Tensor] = {}
        for name, tensor in saved.tensors.items():
            kind, _, rest = name.partition(".")
            if kind == "model":
                weights[rest] = tensor
            elif kind == "optimiser":
                number, _, what = rest.partition(".")
                state.setdefault(int(number), {})[what] = tensor
        self.model.load_state_dict(weights)
        optimiser = self._optimiser.state_dict()
        self._optimiser.load_state_dict({**optimiser, "state": state})
        self._log_scale.data.copy_(saved.tensors["log_scale"])


def _identity(
    llm: CausalLM, model: LaneModel, examples: Sequence[Example], config: TrainingConfig
) -> str:
    """What must be the same for a training to be gone on with."""
    encoder = model.encoder.model.config.to_json_string()
    # The sentinel tells the retriever that is taken over; a new one follows from the seed.
    sentinel = model.sentinel.detach().flatten().tolist()
    told = [repr(example) for example in examples]
    facts = [config.model_dump(), llm.digest, encoder, sentinel, told]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _first_scale(config: TrainingConfig) -> float:
    return 1.0 if config.scale == "one" else config.d_r**-0.5


@contextmanager
def _fast_arithmetic(config: TrainingConfig, device: torch.device) -> Iterator[None]:
    """bf16 where wanted, and on a CPU attention without the fused kernel.

    That kernel is made for long texts: on a few dozen tokens, with a mask and gradients, it takes
    more time than all the rest of a step.
    """
    with ExitStack() as stack:
        wanted = config.precision == "auto" and has_fast_bf16(device)
        if wanted or config.precision == "bf16":
            stack.enter_context(torch.autocast(device.type, dtype=torch.bfloat16))
        if device.type == "cpu":
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        yield
