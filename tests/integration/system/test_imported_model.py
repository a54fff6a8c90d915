"""From a GGUF to the answers of a running system."""

from __future__ import annotations

from pathlib import Path

from errata.launch.box import Box, free_addresses
from errata.launch.ports import with_flags
from errata_client import Client
from tests.command_line import run_here
from tests.unit.editing.tiny_models import TEXT
from tests.unit.launch import tiny_gguf
from tests.waiting import PATIENCE


def test_an_imported_gguf_is_served_with_its_own_tokens(tmp_path: Path) -> None:
    tokenizer = tiny_gguf.make_tokenizer()
    model = tiny_gguf.make_model(tokenizer)
    tiny_gguf.write_gguf(tmp_path / "tiny.gguf", model, tokenizer)
    done = run_here(["model", "import", str(tmp_path / "tiny.gguf"), str(tmp_path / "model")])
    assert done.returncode == 0, done.stderr
    text = tmp_path / "text"
    text.write_text("\n".join(TEXT * 8) + "\n", "utf-8")
    flags = {
        "data_dir": tmp_path / "data",
        "model": {"path": str(tmp_path / "model")},
        "writer": {"statistics_text": text},
        "worker": {"num_replicas": 1},
    }
    prompt = "The capital  of 1969 is"
    ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
    made = model.generate(ids, max_new_tokens=12, do_sample=False)
    own = made[0, ids.shape[1] :].tolist()
    with Box(with_flags(flags, free_addresses())) as box, Client(box.target) as client:
        answer = client.generate(prompt, max_tokens=12, timeout=PATIENCE)
    assert answer.text == tokenizer.decode(own, skip_special_tokens=True)
