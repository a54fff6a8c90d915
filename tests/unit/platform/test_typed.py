"""What people type: shares, spans of time, names of canaries."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from errata.errors import InvalidRequestError
from errata.platform.typed import canary_of, seconds_of, share_of, share_text, span_text


@pytest.mark.parametrize(
    ("typed", "share"),
    [
        *[("10%", 0.1), ("0.1", 0.1), (" 2.5 % ", 0.025), (".5", 0.5), ("0", 0.0), ("1", 1.0)],
        *[("100%", 1.0), ("0%", 0.0), ("0.07%", 0.0007), ("1.", 1.0)],
    ],
)
def test_a_share_is_a_percentage_or_a_number(typed: str, share: float) -> None:
    assert share_of(typed, "share") == share


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        *[("", "is no share"), ("ten", "is no share"), ("-1%", "is no share")],
        *[("nan", "is no share"), ("1e-2", "is no share"), ("٣%", "is no share")],
        ("10", "10 is more than all requests; did you mean 10%?"),
        ("101%", "101% is more than all requests."),
        ("1000", "1000 is more than all requests."),
    ],
)
def test_what_is_no_share_is_refused_with_a_way_out(typed: str, said: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        share_of(typed, "--share")
    assert said in caught.value.message
    assert caught.value.message.startswith("--share: ")
    assert caught.value.field == "--share"


@given(st.integers(0, 1_000_000))
def test_a_share_in_parts_per_million_is_shown_as_it_can_be_typed(ppm: int) -> None:
    typed = share_of(share_text(ppm / 1_000_000), "share")
    assert round(typed * 1_000_000) == ppm


@pytest.mark.parametrize(
    ("typed", "seconds"),
    [("0", 0), ("90s", 90), ("30m", 1_800), ("1h30m", 5_400), ("2d", 172_800), (" 1h ", 3_600)],
)
def test_a_span_of_time_has_units(typed: str, seconds: int) -> None:
    assert seconds_of(typed, "promote_after") == seconds


@pytest.mark.parametrize("typed", ["", " ", "1", "h", "30m1h", "1.5h", "-1h", "1 h", "1w", "١h"])
def test_what_is_no_span_of_time_is_refused(typed: str) -> None:
    with pytest.raises(InvalidRequestError, match="is no span of time; write it as 90s"):
        seconds_of(typed, "promote_after")


@given(st.integers(0, 10**9))
def test_a_span_of_time_is_shown_as_it_can_be_typed(seconds: int) -> None:
    assert seconds_of(span_text(seconds), "promote_after") == seconds


@pytest.mark.parametrize(
    ("typed", "name"),
    [("july", "canaries/july"), ("canaries/july", "canaries/july"), (" july ", "canaries/july")],
)
def test_a_canary_is_named_with_or_without_its_collection(typed: str, name: str) -> None:
    assert canary_of(typed) == name


def test_no_name_is_no_canary() -> None:
    assert canary_of(" ") == ""
