"""Which texts the steps of an ELDER fit take, and when it has learned them."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from errata.editing.elder.config import ElderConfig
from errata.editing.elder.training import TrainingSet, _Progress, _StepSampler
from errata.editing.model.prompts import TokenRow

COUNTS = (6, 4, 1, 6, 3, 6)  # texts of each edit; the last three are replayed
FIRSTS = (0, 6, 10, 11, 17, 20)


def _steps(number: int, seed: int = 3, **values: float) -> list[tuple[Tensor, Tensor]]:
    texts = [[TokenRow((1,), num_target=1)] * count for count in COUNTS]
    data = TrainingSet(texts, torch.zeros(6, 1), torch.zeros(6, 1, 1), 3, [1, 1, 1])
    sampler = _StepSampler(data, ElderConfig.model_validate(values), seed)
    return [sampler.next() for _ in range(number)]


def _texts_of(edit: int, steps: list[tuple[Tensor, Tensor]]) -> list[int]:
    return [
        int(text) - FIRSTS[edit]
        for edits, texts in steps
        for found, text in zip(edits, texts, strict=True)
        if found == edit
    ]


@pytest.mark.parametrize("share", [0.2, 0.25, 0.7])
def test_an_edits_texts_come_evenly(share: float) -> None:
    steps = _steps(60, prompt_share=share, replay_ratio=0.6)
    for edit, count in enumerate(COUNTS):
        texts = _texts_of(edit, steps)
        if edit < 3:
            assert len(texts) == 60, "new edits are in every step"
        if count == 1:
            assert set(texts) == {0}
            continue
        prompts = texts.count(0)
        assert abs(prompts - share * len(texts)) <= 1
        others = Counter(text for text in texts if text)
        assert set(others) == set(range(1, count))
        assert max(others.values()) - min(others.values()) <= 1


def test_a_prompt_never_waits_longer_than_its_share_says() -> None:
    for edit in (0, 1):
        places = [
            i for i, text in enumerate(_texts_of(edit, _steps(40, prompt_share=0.25))) if not text
        ]
        assert places[0] < 4
        assert {b - a for a, b in pairwise(places)} == {4}


def test_edits_and_fits_start_their_turns_at_different_texts() -> None:
    draws = [tuple(_texts_of(0, _steps(8, seed))) for seed in range(12)]
    assert len(set(draws)) > 6
    assert len({draw.index(0) for draw in draws if 0 in draw}) > 1
    assert draws[3] == tuple(_texts_of(0, _steps(8, 3)))


def _progress(*num_own: int, replayed: int = 0) -> _Progress:
    """New edits of four texts each, of which they brought so many, and replayed edits."""
    texts = [[TokenRow((1,), num_target=1)] * 4] * (len(num_own) + replayed)
    nothing = torch.zeros(len(texts), 1), torch.zeros(len(texts), 1, 1)
    return _Progress(TrainingSet(texts, *nothing, len(num_own), num_own))


def _read(
    progress: _Progress, edit: int, text: int, nll: float = 0.01, after: float = 0.01
) -> None:
    texts = torch.tensor([4 * edit + text])
    progress.record(torch.tensor([edit]), texts, torch.tensor([nll]), torch.tensor([after]))


def test_a_fit_goes_on_until_what_follows_is_nearly_as_it_was() -> None:
    progress, config = _progress(1), ElderConfig()
    for text in (0, 2):
        assert not progress.is_enough(config)
        _read(progress, 0, text, after=0.2)
    assert not progress.is_enough(config)
    for text in (0, 2):
        _read(progress, 0, text, after=0.05)
    assert progress.is_enough(config)


@pytest.mark.parametrize(
    ("prompts", "others", "follow", "share", "is_enough"),
    [
        (1, 0, 0, 0.75, False),
        (0, 1, 0, 0.75, True),
        (0, 2, 0, 0.75, False),
        (0, 1, 0, 1.0, False),
        (0, 0, 1, 0.75, True),
        (0, 0, 3, 0.75, False),
    ],
)
def test_a_fit_needs_all_prompts_and_enough_of_the_rest(
    prompts: int, others: int, follow: int, share: float, is_enough: bool
) -> None:
    """Four edits, of which so many have not learned their prompt, another text, what follows."""
    progress = _progress(1, 1, 1, 1)
    for edit in range(4):
        after = 0.5 if edit < follow else 0.01
        _read(progress, edit, 0, 0.5 if edit < prompts else 0.01, after)
        _read(progress, edit, 3, 0.5 if edit < others else 0.01, after)
    assert progress.is_enough(ElderConfig(stop_share=share)) is is_enough


def test_replayed_edits_do_not_stand_in_for_a_new_one() -> None:
    """They count as learned before they are read, and one new edit is a small share of all."""
    progress, config = _progress(1, replayed=9), ElderConfig(stop_share=0.85)
    _read(progress, 0, 0)
    assert not progress.is_enough(config), "none of its other texts has been read"
    _read(progress, 0, 1, after=0.5)
    assert not progress.is_enough(config)
    _read(progress, 0, 1)
    assert progress.is_enough(config)
    _read(progress, 4, 0, 0.5)
    assert not progress.is_enough(config), "a replayed prompt is forgotten"


def test_every_rephrase_that_came_with_an_edit_has_to_be_learned() -> None:
    progress, config = _progress(3, 1), ElderConfig(stop_share=0.5)
    for edit in (0, 1):
        for text in (0, 3):
            _read(progress, edit, text)
    for text in (1, 2):
        assert not progress.is_enough(config)
        _read(progress, 0, text)
    assert progress.is_enough(config)
    _read(progress, 0, 1, 0.5)
    assert not progress.is_enough(config)


def test_new_edits_own_texts_and_earlier_prompts_must_be_learned() -> None:
    texts = [[TokenRow((1,), num_target=1)] * 4] * 4
    nothing = torch.zeros(4, 1), torch.zeros(4, 1, 1)
    edits, numbers = TrainingSet(texts, *nothing, 2, [2, 1]).needed
    assert (edits.tolist(), numbers.tolist()) == ([0, 0, 1, 2, 3], [0, 1, 4, 8, 12])
    edits, numbers = TrainingSet(texts, *nothing, 0, ()).needed
    assert (edits.tolist(), numbers.tolist()) == ([0, 1, 2, 3], [0, 4, 8, 12])
