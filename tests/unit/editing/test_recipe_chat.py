"""Where a continuous prompt stands in a conversation, in training and in checks."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from errata.editing.chat import Chat, Message, Prompt, as_chat
from errata.editing.effects.plan import RowPlan
from errata.editing.effects.prefix import Prefix
from errata.editing.model.causal_lm import CausalLM
from errata.editing.model.prompts import TokenRow, tokenise
from errata.editing.retriever.losses import Texts, answer_logits
from errata.engine import offline
from tests.unit.editing.chat_models import make_chat_model
from tests.unit.editing.recipe_models import logits_behind

QUESTION = "Where is the tower of Pisa?"
DEEP = (2,)
ASKED: list[Prompt] = [
    QUESTION,
    as_chat(QUESTION),
    Chat(
        (
            Message("system", "Answer in one word."),
            Message("user", "Who makes cars?"),
            Message("assistant", "Toyota."),
            Message("user", QUESTION),
        )
    ),
]


@pytest.fixture(scope="module")
def llm() -> CausalLM:
    return make_chat_model(bos=False)


@pytest.fixture(scope="module")
def rows(llm: CausalLM) -> list[TokenRow]:
    return [tokenise(llm, prompt, "Italy") for prompt in ASKED]


def _prompt(llm: CausalLM) -> Tensor:
    """(S, l, d), of the embeddings' size."""
    rng = torch.Generator().manual_seed(0)
    return torch.randn(1 + len(DEEP), 3, llm.d, generator=rng) * 0.3


def _before_the_words(llm: CausalLM, row: TokenRow) -> Tensor:
    """Logits (num_target, V) of a text with a prompt in front of what the user says, by hand."""
    logits = logits_behind(llm, row.ids, _prompt(llm), row.said_index, DEEP)
    return logits[-row.num_target - 1 : -1]


def test_the_users_words_begin_where_they_were_found(llm: CausalLM, rows: list[TokenRow]) -> None:
    assert rows[0].said_index == 0
    for row in rows[1:]:
        assert llm.tokenizer.decode(row.ids[row.said_index :]).startswith(QUESTION)


def test_training_puts_it_before_the_users_words(llm: CausalLM, rows: list[TokenRow]) -> None:
    texts = Texts.of(llm, rows, 0)
    found = answer_logits(llm, texts, torch.stack([_prompt(llm)] * len(rows)), DEEP)
    wanted = torch.cat([_before_the_words(llm, row) for row in rows])
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)


def test_a_plan_puts_it_before_the_users_words(llm: CausalLM, rows: list[TokenRow]) -> None:
    embeddings, *deep = _prompt(llm)
    plan = RowPlan((Prefix(embeddings, 0, dict(zip(DEEP, deep, strict=True))),), ("edits/1-0",))
    log_p, _ = offline.score(
        llm,
        [row.ids[: -row.num_target] for row in rows],
        [row.ids[-row.num_target :] for row in rows],
        [plan.behind(row.said_index) for row in rows],
    )
    for row, found in zip(rows, log_p, strict=True):
        wanted = _before_the_words(llm, row).log_softmax(-1)
        ids = torch.tensor(row.ids[-row.num_target :])
        torch.testing.assert_close(
            torch.tensor(found), wanted.gather(1, ids[:, None])[:, 0], atol=1e-4, rtol=1e-4
        )
