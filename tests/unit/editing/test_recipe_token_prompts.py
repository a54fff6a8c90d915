"""MLP_P by token: which positions of a continuous prompt each target token reaches."""

import pytest
import torch
from torch import Tensor

from errata.editing.retriever.heads import LaneModelShape
from errata.editing.retriever.token_prompts import TokenPromptMaker

D = 6


def _made(length: int, number: int, seed: int = 0) -> TokenPromptMaker:
    torch.manual_seed(seed)
    shape = LaneModelShape(
        d_r=4, num_prompt=length, deep=(2, 5), num_target=number, num_sentinel=1, after=0, d=D,
        max_tokens=8, by_token=True,
    )  # fmt: skip
    return TokenPromptMaker(shape)


def _changed(maker: TokenPromptMaker, targets: Tensor, token: int) -> list[int]:
    """The positions that change with a token."""
    other = targets.clone()
    other[:, token] += 1
    keys = torch.zeros(len(targets), 4)
    difference = (maker(keys, other) - maker(keys, targets)).abs().amax(dim=(0, 1, 3))
    return difference.nonzero()[:, 0].tolist()


@pytest.mark.parametrize(
    ("length", "number", "token", "reached"),
    [
        (5, 5, 2, [1, 2, 3]),
        (5, 5, 0, [0, 1]),
        (5, 5, 4, [3, 4]),
        (3, 6, 2, [0, 1]),
        (3, 6, 3, [1, 2]),
        (3, 7, 6, [1, 2]),
        (1, 4, 3, [0]),
        (4, 2, 1, [0, 1, 2]),
    ],
)
def test_a_token_reaches_its_position_and_the_next_ones(
    length: int, number: int, token: int, reached: list[int]
) -> None:
    maker, targets = _made(length, number), torch.randn(2, number, D)
    made = maker(torch.zeros(2, 4), targets)
    assert made.shape == (2, 3, length, D)
    assert _changed(maker, targets, token) == reached


def test_one_map_serves_all_positions() -> None:
    maker = _made(6, 6)
    with torch.no_grad():
        maker.place.zero_()
    word = torch.randn(1, 2, D)
    early, late = torch.zeros(1, 6, D), torch.zeros(1, 6, D)
    early[:, 1:3], late[:, 3:5] = word, word
    keys = torch.zeros(1, 4)
    torch.testing.assert_close(maker(keys, early)[:, :, 0:4], maker(keys, late)[:, :, 2:6])


def test_vectors_have_the_scale_of_the_llm_and_begin_as_copies() -> None:
    maker, targets = _made(4, 4), torch.randn(3, 4, D)
    keys = torch.zeros(3, 4)
    with torch.no_grad():
        maker.second.weight.zero_()
        maker.second.bias.zero_()
        torch.testing.assert_close(maker(keys, targets)[:, 0], targets)
        assert not maker(keys, targets)[:, 1:].any()
        maker.second.bias.fill_(1)
        maker.scale[2] = 5
        torch.testing.assert_close(maker(keys, targets)[:, 2], torch.full((3, 4, D), 5.0))
