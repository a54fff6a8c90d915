"""A box signs its commits with a key that nobody had to make, and can be verified while it runs."""

from __future__ import annotations

import json
import stat

from errata.demo import Corpus
from errata.log.signing.keys import SigningKey
from errata_client import Client, EditSpec, EditState
from tests.command_line import run_here
from tests.integration.system.conftest import System


def test_a_box_signs_with_its_own_key_and_passes_verification(
    system: System, client: Client, corpus: Corpus
) -> None:
    path = system.data_dir / "signing-key.pem"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    key = SigningKey.read(path)
    edit = corpus.demo_edits()[-1]
    (asked,) = client.submit_edits([EditSpec(edit.prompt, edit.target)])
    (done,) = client.wait_edits([asked.name])
    assert done.state is EditState.COMMITTED
    first = next(iter(client.entries()))
    assert (first.kind, first.detail) == ("keys_trusted", f"trusts {key.key_id}")
    verified = run_here(["verify", "--data-dir", str(system.data_dir), "--json"])
    assert verified.returncode == 0, verified.stdout + verified.stderr
    found = json.loads(verified.stdout)
    assert found["ok"]
    assert found["head_seq"] >= done.commit_seq
    assert found["trusted_keys"] == [key.key_id]
    assert found["unsigned"] == 0
    assert found["checked"]["signatures"] >= 2
    assert found["checked"]["artifacts"] >= 1
    client.revert([done.name])
