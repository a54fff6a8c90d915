"""The lane configuration: scaling with the model, and rejected values."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from errata.editing.adaple.config import AdapleConfig
from errata.errors import InvalidRequestError


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"layers": (3, 2)}, "ascending"),
        ({"layers": (2, 2)}, "ascending"),
        ({"layers": (-1, 2)}, "not negative"),
        ({"variant": "memit", "beta": 0.5}, "belongs to variant"),
        ({"variant": "erase", "beta": 1.0}, "less than 1"),
        ({"variant": "printed", "target": "hidden"}, "must be 'ffn'"),
        ({"optimise": "layers", "variant": "printed"}, "a change for each layer"),
        ({"optimise": "layers", "target": "hidden"}, "a change for each layer"),
        ({"fusion": "none", "drop": 0.5}, "drop needs fusion"),
        ({"fusion": "dr", "drop": 1.0}, "less than 1"),
        ({"templates": ("no place",)}, "exactly once"),
        ({"kl_prompt": "{} and {}"}, "exactly once"),
        ({"steps": 0}, "greater than or equal"),
        ({"lambda_": 1.0}, "Extra inputs"),
    ],
)
def test_inconsistent_values_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        AdapleConfig.model_validate(values)


def test_lambda_scales_with_the_models_width() -> None:
    config = AdapleConfig(gain=2.0)
    assert config.resolve_lambda(768) == 384.0
    assert config.resolve_lambda(11008) == 5504.0
    assert AdapleConfig(lam=15000.0).resolve_lambda(768) == 15000.0


def test_every_variant_has_its_own_default_gain() -> None:
    gains = {
        name: AdapleConfig.model_validate({"variant": name}).resolve_gain()
        for name in ("memit", "printed", "eq3", "erase")
    }
    assert all(gain > 0 for gain in gains.values())
    assert AdapleConfig(variant="printed", gain=0.125).resolve_gain() == 0.125


@pytest.mark.parametrize("depth", [1, 2, 4, 10, 28, 32, 80])
def test_automatic_layers_exist_and_are_contiguous(depth: int) -> None:
    for config in (AdapleConfig(), AdapleConfig(optimise="layers", num_layers=7)):
        layers = config.resolve_layers(depth)
        assert layers == tuple(range(layers[0], layers[-1] + 1))
        assert layers[0] >= 0
        assert layers[-1] < depth


def test_automatic_layers_of_llama2_7b_are_the_papers() -> None:
    assert AdapleConfig(num_layers=5).resolve_layers(32) == (4, 5, 6, 7, 8)


def test_with_a_change_for_each_layer_more_layers_share_the_work() -> None:
    config = AdapleConfig(optimise="layers", num_layers=7)
    assert config.resolve_layers(10) == (0, 1, 2, 3, 4, 5, 6)
    assert config.resolve_layers(32) == (2, 3, 4, 5, 6, 7, 8)
    assert AdapleConfig(num_layers=7).resolve_layers(10) == (0, 1, 2, 3, 4)


def test_layer_beyond_the_model_is_refused() -> None:
    assert AdapleConfig(layers=(3,)).resolve_layers(4) == (3,)
    with pytest.raises(InvalidRequestError, match="layers 0 to 3"):
        AdapleConfig(layers=(3, 4)).resolve_layers(4)


def test_a_later_attempt_is_for_attempt() -> None:
    config = AdapleConfig(gain=1.0)
    assert config.for_attempt(0) == config
    second = config.for_attempt(2)
    assert second.resolve_lambda(400) == pytest.approx(config.resolve_lambda(400) / 4)
    assert (second.clamp, second.step_size) == (4 * config.clamp, 4 * config.step_size)
    assert AdapleConfig(lam=8.0).for_attempt(1).resolve_lambda(400) == 4.0
