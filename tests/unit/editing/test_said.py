"""Further steps until all is said: what they read, what they learn, when they end."""

from __future__ import annotations

import torch
from torch import Tensor

from errata.editing.model.prompts import TokenRow
from errata.editing.model.said import train_until_said

TEXTS = [TokenRow((1, 1, 1), num_target=3)] * 5


class Model:
    """Learns each text in one step, which can make it forget others."""

    def __init__(self, nlls: list[float], forgets: dict[int, int]) -> None:
        self._nlls, self._forgets = torch.tensor(nlls), forgets
        self.steps: list[list[int]] = []
        self.widths: set[int] = set()

    def read(self, rows: Tensor) -> Tensor:
        self.widths.add(len(rows))
        return self._nlls[rows]

    def learn(self, rows: Tensor) -> None:
        self._nlls[rows] = 0.0
        for number in rows.tolist():
            if number in self._forgets:
                self._nlls[self._forgets.pop(number)] = 5.0
        self.steps.append(rows.tolist())

    def train(self, num_steps: int = 9, most_rows: int = 2, seed: int = 1) -> list[list[int]]:
        train_until_said(
            TEXTS, self.read, self.learn, num_steps=num_steps, most_rows=most_rows, seed=seed
        )
        return self.steps


def test_what_is_said_needs_no_step() -> None:
    model = Model([0.2] * 5, {})
    assert model.train() == []
    assert model.widths == {2, 1}, "no more than a step's rows are read at once"


def test_the_whole_target_must_be_likelier_than_all_else_together() -> None:
    # three tokens: a mean of 0.25 nats is a probability of .47, one of 0.22 nats .52
    ((first, _),) = Model([0.22, 0.22, 0.25, 0.22, 0.22], {}).train()
    assert first == 2


def test_unsaid_texts_come_first_and_none_of_them_waits_for_another() -> None:
    steps = Model([9.0, 9.0, 9.0, 0.0, 0.0], {}).train()
    assert len(steps) == 2
    assert {*steps[0], steps[1][0]} == {0, 1, 2}


def test_what_a_step_loses_is_learned_again() -> None:
    steps = Model([0.0, 9.0, 0.0, 0.0, 0.0], {1: 4}).train(most_rows=1)
    assert steps == [[1], [4]]


def test_there_are_no_more_steps_than_configured_and_none_without_any() -> None:
    model = Model([9.0] * 5, {})
    assert model.train(num_steps=0) == []
    assert not model.widths
    assert len(model.train(num_steps=2)) == 2


def test_orders_follow_from_the_seed() -> None:
    orders = [Model([9.0] * 5, {}).train(most_rows=5, seed=seed) for seed in (1, 1, 2)]
    assert orders[0] == orders[1] != orders[2]
