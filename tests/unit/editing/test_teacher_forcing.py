"""Losses of texts with targets do not depend on the other texts of a batch."""

from __future__ import annotations

import torch

from errata.editing.model.causal_lm import CausalLM
from errata.editing.model.prompts import tokenise
from errata.editing.model.teacher_forcing import TeacherForcing


def test_parts_by_length_have_the_losses_of_the_whole_with_less_padding(
    llama: CausalLM,
) -> None:
    texts = [
        tokenise(llama, "the town of " * (1 + n * 7 % 10) + "Nokia is", "Lyon") for n in range(45)
    ]
    forced = TeacherForcing(llama, texts, 1, bf16=False)
    rows = torch.tensor([number for number in range(44, -1, -1) if number % 9])
    parts = forced.alike(rows)
    assert torch.equal(torch.cat(tuple(parts)).sort().values, torch.arange(len(rows)))
    lengths = torch.tensor([len(text.ids) for text in texts])
    longest = [int(lengths[rows[part]].max()) for part in parts]
    assert longest == sorted(longest)
    assert longest[0] < longest[-1]
    with torch.no_grad():
        apart = torch.zeros(len(rows))
        for part in parts:
            apart[part] = forced.losses(rows[part])[0]
        torch.testing.assert_close(apart, forced.losses(rows)[0], atol=1e-5, rtol=1e-5)
