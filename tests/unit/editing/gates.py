"""Small gates with random weights, and packages that bring one."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from errata.editing.model.causal_lm import CausalLM
from errata.editing.retriever import gate_file
from errata.editing.retriever.encoder import Encoder
from errata.editing.retriever.gate_model import GateModel
from errata.editing.retriever.heads import GateShape


def make_gate(llm: CausalLM, *, seed: int = 0) -> GateModel:
    """Equal arguments give equal weights; the tokenizer is the LLM's."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        encoder = Encoder.small(llm, 32, width=32, depth=2)
        return GateModel(encoder, GateShape(24, 4, 32)).eval().requires_grad_(False)


def install_gate(
    gate: GateModel | None, folder: Path, monkeypatch: pytest.MonkeyPatch, name: str = "tiny"
) -> Path:
    """Makes a package importable that brings a gate; None leaves its file out."""
    package = folder / f"gate_of_{name}"
    if gate is None:
        package.mkdir(parents=True)
    else:
        gate_file.save(gate, package)
    (package / "__init__.py").write_text(
        "from pathlib import Path\n\n\ndef path():\n"
        "    return Path(__file__).parent / 'gate.safetensors'\n"
    )
    info = folder / f"gate_of_{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: gate-of-{name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[errata.gates]\n{name} = gate_of_{name}:path\n")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, package.name, raising=False)  # an earlier test's
    return package / "gate.safetensors"
