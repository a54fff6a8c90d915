"""Who is in a canary: the same on every replica, in the share that was asked for."""

from __future__ import annotations

import itertools
import subprocess
import sys

import pytest

from errata.editing.canaries import WHOLE, Canaries, OpenCanary
from errata.editing.namespaces import ALL, DEFAULT_ONLY

KEYS = [f"user-{number}" for number in range(10_000)]


def canary(share: float = 0.1, name: str = "canaries/spring", **changes: object) -> OpenCanary:
    values: dict[str, object] = {"namespace": "", "readers": (), "opened_seq": 7, **changes}
    ppm = round(share * WHOLE)
    return OpenCanary(name=name, lane="lanes/facts", share_ppm=ppm, **values)  # type: ignore[arg-type]


def members(one: OpenCanary) -> set[str]:
    return {key for key in KEYS if one.takes(DEFAULT_ONLY, key)}


@pytest.mark.parametrize("share", [0.001, 0.1, 0.5])
def test_the_share_of_requests_is_the_one_that_was_asked_for(share: float) -> None:
    """Within five standard deviations of a fair draw of each of 10,000 keys."""
    spread = 5 * (len(KEYS) * share * (1 - share)) ** 0.5
    assert len(members(canary(share))) == pytest.approx(len(KEYS) * share, abs=spread)


def test_nobody_leaves_a_canary_whose_share_grows() -> None:
    grown = [members(canary(share)) for share in (0, 0.01, 0.1, 0.4, 1)]
    assert all(small <= large for small, large in itertools.pairwise(grown))
    assert (len(grown[0]), len(grown[-1])) == (0, len(KEYS))


def test_canaries_draw_independently() -> None:
    """Nobody gets every experiment: the overlap is that of independent draws."""
    both = members(canary(0.1)) & members(canary(0.1, "canaries/autumn"))
    later = members(canary(0.1)) & members(canary(0.1, opened_seq=8))
    for overlap in (both, later):
        assert len(overlap) == pytest.approx(100, abs=50)


@pytest.mark.promise("P7")
def test_another_process_decides_the_same() -> None:
    """Whatever the seed of its hashes: the draw depends on the log and the key alone."""
    told = canary(0.1)
    code = (
        "import sys; from errata.editing.canaries import OpenCanary\n"
        f"c = {told!r}\n"
        "print([k for k in sys.stdin.read().split() if c.takes(('',), k)])"
    )
    found = subprocess.run(
        [sys.executable, "-c", code],
        input=" ".join(KEYS[:500]),
        env={"PYTHONHASHSEED": "77", "PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.strip() == str([k for k in KEYS[:500] if told.takes(DEFAULT_ONLY, k)])


def test_named_readers_are_in_it_whatever_their_key() -> None:
    one = canary(0, readers=("acme", "globex"))
    assert all(one.takes(("", "acme"), key) for key in KEYS[:50])
    assert not any(one.takes(DEFAULT_ONLY, key) for key in KEYS[:50])
    assert not one.takes(("acme",), "user-1"), "who does not read the namespace is never in it"
    assert one.takes(ALL, "user-1"), "* reads acme as well"


def test_a_canary_concerns_only_who_reads_its_namespace() -> None:
    one = canary(1, namespace="acme")
    assert not one.takes(DEFAULT_ONLY, "k")
    assert one.takes(("acme",), "k")
    canaries = Canaries({one.name: one})
    assert canaries.reading(DEFAULT_ONLY, "k") == DEFAULT_ONLY
    assert canaries.reading(("acme",), "k") == ("acme", "acme~spring")
    assert canaries.arms(DEFAULT_ONLY, "k") == {}
    assert canaries.arms(("acme",), "k") == {one.name: True}


def test_a_request_reads_the_places_of_all_canaries_that_it_is_in() -> None:
    first, second = canary(1), canary(0, "canaries/zero")
    third = canary(1, "canaries/third", namespace="acme")
    canaries = Canaries({one.name: one for one in (first, second, third)})
    assert canaries.reading(("", "acme"), "k") == ("", "acme", "acme~third", "~spring")
    assert canaries.arms(ALL, "k") == {
        "canaries/spring": True,
        "canaries/zero": False,
        "canaries/third": True,
    }
