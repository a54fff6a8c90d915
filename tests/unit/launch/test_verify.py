"""`errata verify` finds what was tampered with, and where; `errata keys` makes what it trusts."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from errata.artifacts.store import ArtifactStore
from errata.cli import app
from errata.errors import InvalidRequestError, StartupError
from errata.launch.verify.sources import exported
from errata.log.chain import ChainedEntry
from errata.log.entries import ArtifactRef, EditsCommitted, Signed
from errata.log.signing.keys import SigningKey
from tests.unit.log.signed_log import COMMITS, LANE, SignedLog, chained, trusting

RUN = CliRunner()
KEY, NEW = SigningKey.generate(), SigningKey.generate()


@pytest.fixture(autouse=True)
def _settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ERRATA_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "200")


class Case:
    """A signed log with every kind of commit and a rotation, its store, and its export."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = ArtifactStore(str(folder / "artifacts"))
        self.log = SignedLog()
        self.log.append(LANE)
        self.log.append(self._stored(COMMITS[0]))  # from before trust began: entry 2
        self.log.sign(trusting(KEY), KEY)
        for commit in COMMITS:  # entries 4, 5, 6, 7
            self.log.sign(self._stored(commit), KEY)
        self.log.sign(trusting(NEW, distrusted=(KEY.key_id,)), KEY)
        self.log.sign(self._stored(COMMITS[0]), NEW)

    def _stored(self, commit: Signed) -> Signed:
        """The commit with artifacts that exist, other ones for each place in the log."""
        changes = {}
        for name in ("artifact", "memory", "model", "repository", "manifest"):
            if isinstance(getattr(commit, name, None), ArtifactRef):
                data = f"{name} of {len(self.log.entries)}".encode()
                changes[name] = ArtifactRef(self.store.save(data), len(data))
        return replace(commit, **changes)  # type: ignore[arg-type]

    def path_of(self, seq: int) -> Path:
        """The file of the artifact of a commit."""
        payload = self.log.entries[seq - 1].payload
        assert isinstance(payload, EditsCommitted)
        return Path(self.store.path_of(payload.artifact.digest))

    def verify(self, entries: list[ChainedEntry] | None = None) -> tuple[int, dict[str, object]]:
        """Exit code and JSON of the command."""
        path = self.folder / "log.jsonl"
        with path.open("w") as file:
            for entry in chained(self.log.entries) if entries is None else entries:
                exported(entry, file)
        done = RUN.invoke(app, ["verify", str(path), "--json"], catch_exceptions=False)
        return done.exit_code, json.loads(done.stdout)

    def first_problem(self, entries: list[ChainedEntry] | None = None) -> tuple[int, str, str]:
        """Position, check and message of the first problem of a log that must not pass."""
        code, found = self.verify(entries)
        assert code == 1
        assert found["ok"] is False
        problems = found["problems"]
        assert isinstance(problems, list)
        return problems[0]["seq"], problems[0]["check"], problems[0]["message"]


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return Case(tmp_path)


def test_an_intact_log_passes(case: Case) -> None:
    code, found = case.verify()
    assert code == 0, found
    assert found["ok"] is True
    assert found["head_seq"] == 9
    assert found["checked"] == {"chain": 9, "signatures": 7, "artifacts": 10}
    assert found["unsigned"] == 1
    assert found["trusted_keys"] == [NEW.key_id]


def test_a_tampered_artifact_is_found(case: Case) -> None:
    path = case.path_of(9)
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    seq, check, message = case.first_problem()
    assert (seq, check) == (9, "artifacts")
    assert "damaged" in message


@pytest.mark.parametrize("content", [b"", b"longer than the log announces"])
def test_an_artifact_of_another_size_is_found(case: Case, content: bytes) -> None:
    case.path_of(4).write_bytes(content)
    seq, check, message = case.first_problem()
    assert (seq, check) == (4, "artifacts")
    assert "is damaged" in message


def test_a_missing_artifact_is_found(case: Case) -> None:
    case.path_of(2).unlink()
    assert case.first_problem()[:2] == (2, "artifacts")


def test_a_tampered_entry_is_found(case: Case) -> None:
    entries = chained(case.log.entries)
    other = chained([*case.log.entries[:3], *case.log.entries[5:6]])[-1]
    entries[3] = replace(entries[3], payload=other.payload)
    seq, check, message = case.first_problem(entries)
    assert (seq, check) == (4, "chain")
    assert "changed after it was written" in message


def test_an_entry_that_was_changed_with_the_whole_chain_is_found(case: Case) -> None:
    bad = case.log.entries[3]
    assert isinstance(bad.payload, EditsCommitted)
    entries = list(case.log.entries)
    entries[3] = replace(bad, payload=replace(bad.payload, seed=7))
    seq, check, message = case.first_problem(chained(entries))
    assert (seq, check) == (4, "signatures")
    assert "changed after it was signed" in message


def test_a_left_out_entry_is_found(case: Case) -> None:
    entries = chained(case.log.entries)
    assert case.first_problem(entries[:4] + entries[5:])[:2] == (6, "chain")


def test_pinned_keys_count_for_verify_too(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    pins = case.folder / "pins"
    monkeypatch.setenv("ERRATA_WORKER__TRUSTED_KEYS_FILE", str(pins))
    monkeypatch.setenv("ERRATA_WORKER__UNSIGNED_UNTIL_SEQ", "2")
    pins.write_text(NEW.key_id)
    assert case.first_problem()[:2] == (3, "signatures")
    pins.write_text(KEY.key_id)
    assert case.verify()[0] == 0


def test_the_table_names_the_first_problem(case: Case) -> None:
    case.path_of(4).unlink()
    case.verify()
    done = RUN.invoke(app, ["verify", str(case.folder / "log.jsonl")], catch_exceptions=False)
    assert done.exit_code == 1
    assert "first problem, at 4 (artifacts)" in done.output
    assert NEW.key_id in done.output


def test_a_file_that_is_no_export_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x"
    with pytest.raises(InvalidRequestError, match="cannot be read"):
        RUN.invoke(app, ["verify", str(path)], catch_exceptions=False)
    for line in ("x", "{}", '{"seq":1,"payload":"!","chain_digest":""}', "[1]"):
        path.write_text(line)
        with pytest.raises(InvalidRequestError, match="line 1 is not an exported entry"):
            RUN.invoke(app, ["verify", str(path)], catch_exceptions=False)


def test_a_folder_without_a_log_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match="holds no log"):
        RUN.invoke(app, ["verify", "--data-dir", str(tmp_path)], catch_exceptions=False)


def test_keys_are_made_and_shown(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    made = RUN.invoke(app, ["keys", "new", str(path), "--json"], catch_exceptions=False)
    shown = RUN.invoke(app, ["keys", "show", str(path), "--json"], catch_exceptions=False)
    assert json.loads(made.output) == json.loads(shown.output)
    key = SigningKey.read(path)
    assert json.loads(shown.output)["key_id"] == key.key_id
    assert key.key_id in RUN.invoke(app, ["keys", "show", str(path)]).output
    assert "PRIVATE" not in made.output
    with pytest.raises(StartupError, match="never overwritten"):
        RUN.invoke(app, ["keys", "new", str(path)], catch_exceptions=False)
