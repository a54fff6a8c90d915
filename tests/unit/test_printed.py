"""The comparison that the tests of documentation rely on can fail."""

import pytest

from tests.integration.system.printed import matches

SAID = "first 1.0\nsecond\nthird  \n"


@pytest.mark.parametrize(
    "printed",
    [
        "first 1.0\nsecond\nthird\n",
        "first …\nsecond\nthird\n",
        "…\nthird\n",
        "first 1.0\n…\nsecond\n…\n",
        "…ir… 1…\n…\n",
    ],
)
def test_an_output_is_as_printed(printed: str) -> None:
    assert matches(printed, SAID)


@pytest.mark.parametrize(
    "printed",
    [
        "first 1.0\nsecond\n",
        "first 2…\nsecond\nthird\n",
        "first 1.0 … second\nthird\n",
        "second\n…\n",
        "…\nsecond\n",
        "first 1.0\nsecond\nthird\nfourth\n",
        "first 1x0\nsecond\nthird\n",
    ],
)
def test_an_output_differs_from_what_is_printed(printed: str) -> None:
    assert not matches(printed, SAID)
