"""A system whose catalog cannot start: it answers and edits, and gets its catalog later."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from errata.demo import Corpus
from errata.errors import StartupError
from errata.launch.box import Box, free_addresses
from errata.launch.health import health_of
from errata.launch.progress import Steps
from errata_client import Client, UnavailableError
from tests.waiting import PATIENCE, wait

# It is refused, because its address is private.
_WEBHOOKS = '[[target]]\nurl = "http://127.0.0.1:9/"\nsecret_file = "hook.secret"\n'


def test_a_catalog_that_cannot_start_takes_nothing_else_down(
    tmp_path: Path, statistics_cache: Path, corpus: Corpus
) -> None:
    (tmp_path / "statistics").symlink_to(statistics_cache)
    webhooks = tmp_path / "webhooks.toml"
    webhooks.write_text("[[target]\n")
    flags = {"data_dir": tmp_path, "worker": {"num_replicas": 1}, **free_addresses()}
    flags["catalog"] = {**flags["catalog"], "webhooks_file": webhooks}
    shown = io.StringIO()
    edit = corpus.demo_edits()[0]
    with (
        Box(flags, steps=Steps(Console(file=shown, width=1_000))) as box,
        Client(box.target, timeout=PATIENCE) as client,
    ):
        assert str(webhooks) in shown.getvalue(), "why the catalog ended"
        assert "starts catalog again" in shown.getvalue()
        assert client.edit(edit.prompt, edit.target, subject=edit.subject).commit_seq
        assert client.generate(edit.prompt, max_tokens=4).text.strip().startswith(edit.target)
        with pytest.raises(UnavailableError):
            list(client.find_edits(edit.subject, timeout=1.0))

        (tmp_path / "hook.secret").write_text("a secret of the test")
        webhooks.write_text(_WEBHOOKS)
        wait(lambda: _is_up(box), "the catalog to be started again")
        wait(lambda: _finds(client, edit.subject), "the gateway to reach it")
        processes = dict(box.processes)
        processes["writer"].kill()
        with pytest.raises(StartupError, match="writer ended"):
            box.check()
    assert not any(process.running for process in processes.values())


def _is_up(box: Box) -> bool:
    box.check()
    return health_of(box.settings.catalog.address, 1.0) == "SERVING"


def _finds(client: Client, text: str) -> bool:
    try:
        return bool(list(client.find_edits(text)))
    except UnavailableError:  # its channel tries again after a while
        return False
