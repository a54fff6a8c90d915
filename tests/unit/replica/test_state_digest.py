"""The digest by which replicas of different versions compare their states."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest

from errata.editing.canaries import NO_CANARIES, Canaries, OpenCanary
from errata.replica.state_digest import state_digest

MODEL = "ab" * 32
CANARY = OpenCanary("canaries/spring", 7, "lanes/facts", "team", 100_000, ("acme", "beta"))
CHANGES: dict[str, object] = {
    "name": "canaries/autumn",
    "opened_seq": 8,
    "lane": "lanes/other",
    "namespace": "",
    "share_ppm": 100_001,
    "readers": ("acme",),
    "rolling_back": True,
}


def digest_of(*canaries: OpenCanary) -> str:
    return state_digest(MODEL, {}, Canaries({one.name: one for one in canaries}))


@pytest.mark.promise("P7")
def test_older_and_newer_versions_compute_the_same() -> None:
    """Whatever changes inside the code: these are what released versions report."""
    assert state_digest(MODEL, {}, NO_CANARIES) == (
        "271a413bd339c5709fdceaec41f14f11e9fbfb5042d72d331c65f32b284cd09a"
    )
    assert digest_of(CANARY) == ("3d0afdbbf3cd8c3d2aaa232f0539c30687f849b6a6695d3b9384010cc474eedb")


@pytest.mark.promise("P7")
@pytest.mark.parametrize("name", [field.name for field in fields(OpenCanary)])
def test_it_covers_everything_about_an_open_canary(name: str) -> None:
    changed = replace(CANARY, **{name: CHANGES[name]})  # type: ignore[arg-type]
    assert digest_of(changed) != digest_of(CANARY)
