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

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from errata.editing.artifact import Artifact
from errata.editing.causal_lm import CausalLM
from errata.editing.devices import has_fast_bf16
from errata.editing.recipe.encoder import Encoder
from errata.editing.recipe.examples import Draw, Example, epoch, split
from errata.editing.recipe.lane_model import LaneModel, Shape, place_behind_bos
from errata.editing.recipe.objective import LOSSES, Bank, Part, losses
from errata.editing.recipe.start import start_well
from errata.editing.recipe.training_config import TrainingConfig
from errata.editing.recipe.validation import Validation, validate
from errata.errors import FitError, PreconditionError

_CHECKPOINT = "checkpoint.safetensors"
_LOG = "training.csv"
_SMOOTHING = 0.95
_LOWEST_RATE = 0.05  # of the cosine schedule's highest


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
    stage_began: int = 0
    in_second_stage: bool = False
    smoothed: dict[str, float] = field(default_factory=dict)


def new_lane_model(llm: CausalLM, encoder: str | Path | None, config: TrainingConfig) -> LaneModel:
    """An untrained lane model for an LLM.

    Args:
        llm: unedited.
        encoder: folder or hub id; None makes a small one over the LLM's tokenizer.
        config: of the training; its seed decides the random weights.

    Raises:
        ModelNotFoundError, UnsupportedModelError: the encoder cannot be used.
    """
    torch.manual_seed(config.seed)
    if encoder is None:
        made = Encoder.small(llm, config.max_tokens, width=config.width, depth=config.depth)
    else:
        made = Encoder.load(encoder, config.max_tokens)
    shape = Shape(
        d_r=config.d_r,
        num_prompt=config.num_prompt,
        num_target=config.num_target,
        num_sentinel=config.num_sentinel,
        after=place_behind_bos(llm) if config.placement == "after_bos" else 0,
        d=llm.d,
        max_tokens=made.max_tokens,
    )
    model = LaneModel(made, shape, llm.digest)
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
        max_seconds: float = math.inf,
    ) -> None:
        """Prepares; `run` trains.

        Args:
            llm: unedited and frozen.
            model: from `new_lane_model`; trained in place.
            examples: of training and validation together.
            config: settings.
            out: gets the lane model, a log and checkpoints; what is there is gone on with.
            max_seconds: of training, all runs on the folder together. The schedule ends with it.

        Raises:
            InvalidRequestError: too few examples.
            PreconditionError: the folder holds another training.
        """
        self._llm, self.model, self._config, self._out = llm, model, config, out
        self._max_seconds = max_seconds
        self._train, self._held_out = split(examples, config.num_validation)
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
        self._bank = Bank(config.bank, config.d_r, llm.device)
        self._run = _Run()
        self._identity = _identity(llm, model, examples, config)
        if not self._resume() and config.start == "similar":
            self._reseed()
            scale = start_well(model, self._train)
            if config.scale == "learned":
                self._log_scale.data.fill_(math.log(scale))

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
        return validate(best, self._llm, self._held_out, self._bank.keys)

    @property
    def _part(self) -> Part:
        if self._config.stages == "joint":
            return "all"
        return "prompts" if self._run.in_second_stage else "retriever"

    def _begin_stage(self) -> None:
        """Goes over to the second stage when its time has come, with the best retriever."""
        run, config = self._run, self._config
        is_late = self._done >= config.retriever_share
        if config.stages == "apart" and is_late and not run.in_second_stage:
            if run.best_step:
                best = LaneModel.load(self._out, self._llm)
                self.model.load_state_dict(best.state_dict())
            run.in_second_stage = True
            run.stage_began = run.best_step = run.step
            run.best_score = -1.0

    @property
    def _done(self) -> float:
        by_steps = self._run.step / self._config.max_steps
        return min(1.0, max(by_steps, self._run.seconds / self._max_seconds))

    @property
    def _is_stuck(self) -> bool:
        """Whether nothing got better for too long; scores mean nothing while MLP_P waits."""
        patience = self._config.patience * self._config.evaluate_every
        return self._part != "retriever" and self._run.step - self._run.best_step > patience

    def _draws(self) -> Iterator[list[Draw]]:
        """Batches without end; the same ones for the same seed, however often it is resumed."""
        for number in itertools.count():
            rng = random.Random(f"{self._config.seed}/{number}")
            config = self._config
            yield from epoch(self._train, config.batch, rng, invented=config.invented)

    def _step(self, draws: Sequence[Draw]) -> None:
        for group, rate in zip(self._optimiser.param_groups, self._rates, strict=True):
            group["lr"] = rate * self._rate_share()
        self.model.train()
        if self._part == "prompts" or not self._config.dropout:
            self.model.encoder.eval()
        with _fast_arithmetic(self._config, self._llm.device):
            scale = self._log_scale.exp()
            found, keys = losses(
                self.model, self._llm, draws, self._bank, self._config, scale, self._part
            )
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
        if self._config.bank:
            subjects = [draw.example.subject_id for draw in draws]
            self._bank.add(keys, torch.tensor(subjects, device=keys.device))
        for name, value in found.items():
            now = value.item()
            before = self._run.smoothed.get(name, now)
            self._run.smoothed[name] = _SMOOTHING * before + (1 - _SMOOTHING) * now

    def _rate_share(self) -> float:
        if self._config.schedule == "constant":
            return 1.0
        run, share = self._run, self._config.retriever_share
        warm = (run.step - run.stage_began + 1) / max(1, self._config.warmup_steps)
        done = self._done
        if self._config.stages == "apart":
            done = (done - share) / (1 - share) if run.in_second_stage else done / share
        falling = 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
        return min(1.0, warm) * (_LOWEST_RATE + (1 - _LOWEST_RATE) * falling)

    def _validate(self) -> Validation:
        found = validate(self.model, self._llm, self._held_out, self._bank.keys)
        run = self._run
        score = found.retriever_score if self._part == "retriever" else found.score
        if score > run.best_score:
            run.best_score, run.best_step = score, run.step
            self.model.save(self._out)
        self._note(found)
        self._save_checkpoint()
        self._reseed()
        return found

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
        tensors |= {"bank.keys": self._bank.keys, "bank.subjects": self._bank.subjects}
        tensors["log_scale"] = self._log_scale.detach()
        run = {name: getattr(self._run, name) for name in _Run.__slots__}
        facts = {"training": self._identity, "run": json.dumps(run)}
        path = self._out / _CHECKPOINT
        path.with_suffix(".part").write_bytes(Artifact(tensors, facts).to_bytes())
        path.with_suffix(".part").replace(path)

    def _resume(self) -> bool:
        """Whether there was a checkpoint to go on from."""
        path = self._out / _CHECKPOINT
        if not path.exists():
            if self._out.exists() and any(self._out.iterdir()):
                raise PreconditionError(f"{self._out} is not empty; give a new folder.")
            self._out.mkdir(parents=True, exist_ok=True)
            return False
        saved = Artifact.from_bytes(path.read_bytes())
        if saved.metadata.get("training") != self._identity:
            raise PreconditionError(
                f"{self._out} holds a training with other settings, data, encoder or LLM; give a "
                "new folder."
            )
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
        self._bank.keys = saved.tensors["bank.keys"].to(self._llm.device)
        self._bank.subjects = saved.tensors["bank.subjects"].to(self._llm.device)
        self._log_scale.data.copy_(saved.tensors["log_scale"])
        return True


def _identity(
    llm: CausalLM, model: LaneModel, examples: Sequence[Example], config: TrainingConfig
) -> str:
    """What must be the same for a training to be gone on with."""
    encoder = model.encoder.model.config.to_json_string()
    facts = [config.model_dump(), llm.digest, encoder, [repr(example) for example in examples]]
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
