"""Trains the demo model from scratch on its corpus."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from errata.demo.corpus import load_corpus

BOS, EOS = "<bos>", "<eos>"


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """Sizes and schedule; the defaults made the shipped model."""

    vocab_size: int = 2048
    hidden_size: int = 192
    intermediate_size: int = 576
    num_layers: int = 6
    num_heads: int = 4
    num_steps: int = 380
    rows_per_step: int = 32
    tokens_per_row: int = 64
    matrix_rate: float = 6e-3
    other_rate: float = 5e-3
    weight_decay: float = 0.5
    warmup_steps: int = 25
    num_threads: int = 2


@dataclass(frozen=True, slots=True)
class TrainReport:
    """What a training run did."""

    num_parameters: int
    num_steps: int
    final_loss: float
    seconds: float


def train_demo_model(
    output: Path,
    *,
    seed: int = 0,
    config: TrainConfig | None = None,
    on_progress: Callable[[int, int, float], None] | None = None,
) -> TrainReport:
    """Trains tokenizer and model and saves both to a folder that transformers can load.

    Determinism: the same seed, machine and thread count give the same bytes. The matrix products
    run in bfloat16, which is several times faster where the processor supports it.

    Args:
        output: created if missing; files of the same names are overwritten.
        seed: fixes text, initial weights and order.
        config: the shipped model's by default.
        on_progress: called after each step with steps done, total steps, and loss.
    """
    config = config or TrainConfig()
    started = time.monotonic()
    num_threads = torch.get_num_threads()
    torch.set_num_threads(config.num_threads)
    try:
        # 1. Text and tokenizer. No paragraph is used twice.
        num_rows = config.num_steps * config.rows_per_step
        paragraphs = load_corpus().training_text(seed, num_paragraphs=3 * num_rows)
        tokenizer = train_tokenizer(paragraphs, config.vocab_size)
        rows = pack_paragraphs(tokenizer, paragraphs, config.tokens_per_row)[:num_rows]
        # 2. Model.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = LlamaForCausalLM(_llama_config(config, tokenizer))
        # 3. Training.
        loss = math.nan
        for step, loss in enumerate(_steps(model, rows, config), start=1):
            if on_progress:
                on_progress(step, config.num_steps, loss)
    finally:
        torch.set_num_threads(num_threads)
    # 4. Half precision halves the package's size; loaders choose their own dtype.
    model.half().save_pretrained(output)
    tokenizer.save_pretrained(output)
    return TrainReport(
        num_parameters=model.num_parameters(),
        num_steps=config.num_steps,
        final_loss=loss,
        seconds=time.monotonic() - started,
    )


def train_tokenizer(paragraphs: list[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Trains a byte-level BPE that adds BOS before every text.

    It also adds a space before the text, so that a word has the same tokens at the beginning of a
    prompt as inside it.
    """
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[BOS, EOS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator(paragraphs, trainer)
    bpe.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, bpe.token_to_id(BOS))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=EOS,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def pack_paragraphs(
    tokenizer: PreTrainedTokenizerFast, paragraphs: list[str], tokens_per_row: int
) -> Tensor:
    """Packs paragraphs, each ended by EOS, into rows that begin with BOS.

    Returns:
        (rows, tokens_per_row) int64. Tokens beyond a row's end are dropped.
    """
    rows: list[list[int]] = []
    row: list[int] = []
    for ids in tokenizer(paragraphs)["input_ids"]:
        row = [*row, *ids, tokenizer.eos_token_id]
        if len(row) >= tokens_per_row:
            rows.append(row[:tokens_per_row])
            row = []
    return torch.tensor(rows)


def _llama_config(config: TrainConfig, tokenizer: PreTrainedTokenizerFast) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=config.num_layers,
        num_attention_heads=config.num_heads,
        num_key_value_heads=config.num_heads,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def _steps(model: LlamaForCausalLM, rows: Tensor, config: TrainConfig) -> Iterator[float]:
    """Takes one optimiser step per batch of rows and yields its loss."""
    matrices = [weight for weight in model.model.layers.parameters() if weight.ndim == 2]
    others = [weight for weight in model.parameters() if not any(weight is m for m in matrices)]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.Muon(
            matrices,
            lr=config.matrix_rate,
            weight_decay=config.weight_decay,
            adjust_lr_fn="match_rms_adamw",
        ),
        torch.optim.AdamW(
            others, lr=config.other_rate, betas=(0.9, 0.95), weight_decay=0.0, fused=True
        ),
    ]
    schedules = [
        torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, config))
        for optimizer in optimizers
    ]
    model.set_attn_implementation("eager")  # SDPA is slower on rows this short
    model.train()
    for first in range(0, len(rows), config.rows_per_step):
        batch = rows[first : first + config.rows_per_step]
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        for schedule in schedules:
            schedule.step()
        yield loss.item()
    model.train(False)


def _rate(step: int, config: TrainConfig) -> float:
    """Factor of the learning rate: a linear rise, then a linear fall to zero."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    return (config.num_steps - step) / (config.num_steps - config.warmup_steps)
