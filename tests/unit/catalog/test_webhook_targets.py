"""The file of webhooks, and how long a target that fails is left alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from errata.catalog.happenings import Kind
from errata.catalog.webhooks.delivery import delay_after
from errata.catalog.webhooks.targets import new_secret, read_secret, read_targets
from errata.errors import InvalidRequestError, StartupError

GOOD = '[[target]]\nurl = "https://hooks.example/errata"\nsecret_file = "secret"\n'


def written(folder: Path, text: str, secret: str = "s" * 32) -> Path:
    (folder / "secret").write_text(secret)
    path = folder / "webhooks.toml"
    path.write_text(text)
    return path


def test_targets_are_read_with_their_secrets(tmp_path: Path) -> None:
    more = 'events = ["edit.committed", "replica.left"]\nallow_private = true\nname = "ops"\n'
    first, second = read_targets(written(tmp_path, GOOD + GOOD + more))
    assert (first.name, first.url, first.secret) == (first.url, first.url, b"s" * 32)
    assert (first.kinds, first.allow_private) == (frozenset(), False)
    assert second.name == "ops"
    assert second.kinds == {Kind.COMMITTED, Kind.REPLICA_LEFT}
    assert second.allow_private


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "target"),
        ("x = 1", "target"),
        ("[[target]\n", "cannot be read"),
        ('[[target]]\nurl = "https://a.example"\n', "secret_file: Field required"),
        (GOOD + "colour = 1\n", "target.0.colour: Extra inputs"),
        (GOOD + 'events = ["edit.eaten"]\n', r"target\.0\.events\.0.*edit\.committed"),
        (GOOD + GOOD, "two targets"),
        (GOOD.replace("https", "ftp"), "is no URL"),
        (GOOD.replace("https://", "https://me:pw@"), "without a password"),
        (GOOD.replace("hooks.example", ""), "is no URL"),
        (GOOD.replace("hooks.example", "hooks.example:99999"), "is no URL"),
        (GOOD.replace('"secret"', '"nothing"'), "nothing cannot be read"),
    ],
)
def test_a_wrong_file_says_where_and_why(tmp_path: Path, text: str, message: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(StartupError, match=message) as caught:
        read_targets(path)
    assert str(path) in caught.value.message


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match="cannot be read"):
        read_targets(tmp_path / "none.toml")


def test_secrets_are_base64_behind_their_prefix_and_else_text(tmp_path: Path) -> None:
    text, secret = new_secret()
    path = tmp_path / "secret"
    path.write_text(f"{text}\n")
    assert read_secret(path) == secret
    path.write_text("a plain secret of some length\n")
    assert read_secret(path) == b"a plain secret of some length"
    for short in ("short", "whsec_c2hvcnQ="):
        path.write_text(short)
        with pytest.raises(InvalidRequestError, match="give at least 16"):
            read_secret(path)
    path.write_text("whsec_???")
    with pytest.raises(InvalidRequestError, match="cannot be read"):
        read_secret(path)


def test_waits_double_up_to_the_longest_with_jitter_below() -> None:
    longest = [delay_after(failures, 1.0, 60.0, 1.0) for failures in range(1, 9)]
    assert longest == [1, 2, 4, 8, 16, 32, 60, 60]
    assert delay_after(3, 1.0, 60.0, 0.0) == 2.0
    assert delay_after(10**6, 1.0, 60.0, 1.0) == 60.0
