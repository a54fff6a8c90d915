"""`errata canary` and the options about canaries of other commands, against a small server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from grpc_status import rpc_status
from typer.testing import CliRunner

import errata_client
from errata import errors
from errata.cli import app
from errata.errors import InvalidRequestError, PreconditionError
from errata.platform.status_convert import to_status
from errata_client import NotFoundError
from errata_client._gen.errata.v1 import (
    editing_pb2,
    editing_pb2_grpc,
    inference_pb2,
    inference_pb2_grpc,
    types_pb2,
)

RUN = CliRunner()


class Editing(editing_pb2_grpc.EditingServiceServicer):
    """Keeps canaries, as an edit-writer does that checks nothing."""

    def __init__(self) -> None:
        self.canaries: dict[str, editing_pb2.Canary] = {}
        self.set: list[editing_pb2.SetCanaryRequest] = []
        self.submitted: list[types_pb2.EditSpec] = []
        self.listed: list[editing_pb2.ListEditsRequest] = []

    def SetCanary(self, request: Any, context: Any) -> Any:
        if request.must_be_new and request.name in self.canaries:
            refused = PreconditionError(f"{request.name} is open already.")
            context.abort_with_status(rpc_status.to_status(to_status(refused)))
        self.set.append(request)
        known = self.canaries.setdefault(
            request.name,
            editing_pb2.Canary(name=request.name, opened_seq=7, author=request.author),
        )
        known.state = editing_pb2.Canary.STATE_OPEN
        known.set_seq = 6 + len(self.set)
        known.lane, known.namespace = request.lane, request.namespace
        known.share, known.comment = request.share, request.comment or known.comment
        known.open_time.CopyFrom(Timestamp(seconds=1_900_000_000))
        known.readers[:] = request.readers
        known.ClearField("rule")
        if request.HasField("rule"):
            known.rule.CopyFrom(request.rule)
        return editing_pb2.SetCanaryResponse(seq=known.set_seq, canary=known)

    def EndCanary(self, request: Any, context: Any) -> Any:
        known = self.canaries[request.name]
        promotes = request.outcome == editing_pb2.EndCanaryRequest.OUTCOME_PROMOTE
        known.state = (
            editing_pb2.Canary.STATE_PROMOTED if promotes else editing_pb2.Canary.STATE_ROLLED_BACK
        )
        known.ended_seq, known.ended_by, known.comment = 40, request.author, request.comment
        return editing_pb2.EndCanaryResponse(seq=40, canary=known)

    def ListCanaries(self, request: Any, context: Any) -> Any:
        if request.name and request.name not in self.canaries:
            missing = errors.NotFoundError(f"there is no canary {request.name}.")
            context.abort_with_status(rpc_status.to_status(to_status(missing)))
        wanted = [request.name] if request.name else list(self.canaries)
        found = [self.canaries[name] for name in wanted]
        if request.only_open:
            found = [each for each in found if each.state == editing_pb2.Canary.STATE_OPEN]
        return editing_pb2.ListCanariesResponse(canaries=found)

    def SubmitEdits(self, request: Any, context: Any) -> Any:
        self.submitted += request.edits
        made = editing_pb2.Edit(
            name="edits/9-0",
            lane=request.lane,
            state=editing_pb2.Edit.STATE_REQUESTED,
            spec=request.edits[0],
        )
        return editing_pb2.SubmitEditsResponse(edits=[made])

    def WaitEdits(self, request: Any, context: Any) -> Any:
        made = editing_pb2.Edit(
            name="edits/9-0",
            lane="lanes/facts",
            state=editing_pb2.Edit.STATE_COMMITTED,
            spec=self.submitted[0],
            commit_seq=12,
        )
        return editing_pb2.WaitEditsResponse(edits=[made])

    def ListEdits(self, request: Any, context: Any) -> Any:
        self.listed.append(request)
        return editing_pb2.ListEditsResponse()


class Inference(inference_pb2_grpc.InferenceServiceServicer):
    """Every request is in one canary."""

    def Generate(self, request: Any, context: Any) -> Any:
        provenance = inference_pb2.Provenance(
            canaries=["canaries/july"], canary_key=request.canary_key
        )
        return inference_pb2.GenerateResponse(text=" 8 pm", provenance=provenance)

    def Score(self, request: Any, context: Any) -> Any:
        provenance = inference_pb2.Provenance(canary_key=request.canary_key)
        tokens = [inference_pb2.TokenScore(token=" 8", log_probability=-0.5)]
        return inference_pb2.ScoreResponse(tokens=tokens, provenance=provenance)

    def GenerateEverywhere(self, request: Any, context: Any) -> Any:
        answer = self.Generate(request, context)
        if not request.canary_key:
            answer.ClearField("provenance")
        found = inference_pb2.ReplicaAnswer(replica="worker-0", response=answer)
        return inference_pb2.GenerateEverywhereResponse(answers=[found])


@pytest.fixture
def editing() -> Editing:
    return Editing()


@pytest.fixture(autouse=True)
def _system(editing: Editing, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    server = grpc.server(futures.ThreadPoolExecutor(4))
    editing_pb2_grpc.add_EditingServiceServicer_to_server(editing, server)
    inference_pb2_grpc.add_InferenceServiceServicer_to_server(Inference(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    monkeypatch.setenv("ERRATA_TARGET", f"127.0.0.1:{port}")
    monkeypatch.setenv("ERRATA_AUTHOR", "ann")
    monkeypatch.setenv("ERRATA_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "200")
    yield
    server.stop(None).wait()


def _run(*arguments: str) -> str:
    done = RUN.invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_a_canary_is_opened_with_its_audience_and_rule(editing: Editing) -> None:
    shown = _run(
        *("canary", "open", "july", "--share", "10%", "--lane", "lanes/facts"),
        *("--namespace", "acme", "--reader", "beta", "--reader", "staff", "--min-requests", "200"),
        *("--max-error-increase", "2%", "--promote-after", "1h30m", "--comment", "ticket 12"),
    )
    (sent,) = editing.set
    assert (sent.name, sent.share, sent.author) == ("canaries/july", 0.1, "ann")
    assert (sent.lane, sent.namespace) == ("lanes/facts", "acme")
    assert (list(sent.readers), sent.comment) == (["beta", "staff"], "ticket 12")
    assert sent.rule == types_pb2.CanaryRule(
        min_requests=200, max_error_increase=0.02, promote_after_seconds=5_400
    )
    for said in (
        "canaries/july open in lanes/facts, namespace acme",
        "10% of the requests that read the namespace, and those that also read beta or staff",
        "from 200 requests on: rolls back if its share of errors is more than 2 points above",
        "promotes after 1h30m with this audience",
        "ticket 12",
        "no replica has counted a request yet",
    ):
        assert said in shown


@pytest.mark.parametrize("name", ["july", "canaries/july"])
def test_opening_changes_no_canary_that_is_there(editing: Editing, name: str) -> None:
    _run("canary", "open", "july", "--share", "0.1")
    with pytest.raises(errata_client.PreconditionError, match="is open already"):
        _run("canary", "open", name, "--share", "1")
    assert len(editing.set) == 1
    _run("canary", "set", name, "--share", "1")
    assert [each.must_be_new for each in editing.set] == [True, False]


@pytest.mark.parametrize(
    "command",
    [["set", "", "--share", "1"], ["show", " "], ["promote", ""], ["rollback", ""]],
    ids=lambda command: command[0],
)
def test_no_name_is_not_all_of_them(editing: Editing, command: list[str]) -> None:
    _run("canary", "open", "july", "--share", "0.1")
    with pytest.raises(InvalidRequestError, match="there is no name of a canary") as caught:
        _run("canary", *command)
    assert caught.value.field == "name"
    assert len(editing.set) == 1


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--share", "10%"],
        ["--reader", "beta", "--reader", "acme", "--min-requests", "5"],
        ["--comment", "ticket 12"],
    ],
)
def test_what_changes_nothing_is_refused(editing: Editing, options: list[str]) -> None:
    _run(
        *("canary", "open", "july", "--share", "10%", "--reader", "acme", "--reader", "beta"),
        *("--min-requests", "5", "--comment", "ticket 12"),
    )
    with pytest.raises(InvalidRequestError, match="is so already"):
        _run("canary", "set", "july", *options)
    assert len(editing.set) == 1
    _run("canary", "set", "july", *options, "--comment", "another")
    assert len(editing.set) == 2


def test_one_option_of_a_rule_makes_one_and_without_any_there_is_none(editing: Editing) -> None:
    _run("canary", "open", "july", "--share", "0.1")
    _run("canary", "open", "may", "--share", "0.1", "--max-error-increase", "0")
    without, with_ = editing.set
    assert not without.HasField("rule")
    assert with_.rule == types_pb2.CanaryRule(min_requests=100)
    _run("canary", "open", "june", "--share", "0.1", "--promote-after", "2d")
    assert editing.set[-1].rule == types_pb2.CanaryRule(
        min_requests=100, max_error_increase=0.01, promote_after_seconds=172_800
    )


def test_what_is_not_given_stays_as_it_is(editing: Editing) -> None:
    _run(
        *("canary", "open", "july", "--share", "10%", "--lane", "lanes/facts"),
        *("--namespace", "acme", "--reader", "beta", "--min-requests", "5"),
    )
    _run("canary", "set", "canaries/july", "--share", "50%", "--comment", "wider")
    sent = editing.set[-1]
    assert (sent.share, list(sent.readers), sent.rule.min_requests) == (0.5, ["beta"], 5)
    assert (sent.lane, sent.namespace, sent.comment) == ("lanes/facts", "acme", "wider")
    _run("canary", "set", "july", "--no-readers", "--promote-after", "1h")
    sent = editing.set[-1]
    assert (sent.share, list(sent.readers)) == (0.5, [])
    assert (sent.rule.min_requests, sent.rule.promote_after_seconds) == (5, 3_600)
    shown = _run("canary", "set", "july", "--no-rule", "--share", "0")
    assert not editing.set[-1].HasField("rule")
    assert editing.set[-1].share == 0
    assert "as it is since seq 10" in shown


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["open", "july", "--share", "ten"], "--share: 'ten' is no share; write it as 10% or 0.1"),
        (["open", "july", "--share", "10"], "did you mean 10%"),
        (["open", "july", "--share", "1%", "--promote-after", "1 h"], "is no span of time"),
        (["open", "july", "--share", "1%", "--max-error-increase", "few"], "is no share"),
        (["set", "july", "--no-rule", "--min-requests", "3"], "or --no-rule, not both"),
        (["set", "july", "--no-readers", "--reader", "a"], "or --no-readers, not both"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_is_sent(
    editing: Editing, options: list[str], said: str
) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        _run("canary", *options)
    assert said in caught.value.message
    assert not editing.set


def test_changing_what_is_not_there_opens_nothing(editing: Editing) -> None:
    with pytest.raises(NotFoundError):
        _run("canary", "set", "july", "--share", "1")
    assert not editing.set


@pytest.mark.parametrize(
    ("command", "state"), [("promote", "promoted"), ("rollback", "rolled back")]
)
def test_a_canary_ends_with_a_comment(command: str, state: str) -> None:
    _run("canary", "open", "july", "--share", "0.1", "--lane", "lanes/facts")
    shown = _run("canary", command, "july", "--comment", "as measured")
    assert f"canaries/july {state} in lanes/facts" in shown
    assert "ended at seq 40 by ann" in shown
    assert "as measured" in shown


def _counted(editing: Editing) -> None:
    _run("canary", "open", "july", "--share", "0.1", "--lane", "lanes/facts")
    known = editing.canaries["canaries/july"]
    known.edits.extend(f"edits/9-{index}" for index in range(6))
    known.comparison.canary.CopyFrom(
        types_pb2.CanaryCounts(
            requests=1_200, claims=204, shaped=300, errors=6, tokens=9_000, microseconds=240_000_000
        )
    )
    known.comparison.rest.CopyFrom(types_pb2.CanaryCounts(requests=10_800, shaped=1_080))


def test_both_arms_stand_side_by_side(editing: Editing) -> None:
    _counted(editing)
    shown = _run("canary", "show", "july")
    rows = {line.split("│")[1].strip(): line for line in shown.splitlines() if "│" in line}
    assert "1,200" in rows["requests"]
    assert "10,800" in rows["requests"]
    assert "204 (17.00%)" in rows["claimed by its edits"]
    assert "1,080 (10.00%)" in rows["shaped"]
    assert "6 (0.50%)" in rows["errors"]
    assert "9,000" in rows["tokens"]
    assert "200.0 ms" in rows["mean time"]
    assert "edits/9-3, … (6); all of them: errata edits --canary july" in shown
    as_json = json.loads(_run("canary", "show", "july", "--json"))
    assert as_json["comparison"]["canary"]["claims"] == 204
    assert as_json["state"] == "open"
    assert len(as_json["edits"]) == 6


def test_canaries_are_listed_with_both_arms(editing: Editing) -> None:
    _counted(editing)
    _run("canary", "open", "may", "--share", "2.5%", "--reader", "beta")
    _run("canary", "promote", "may")
    shown = _run("canary", "list")
    (july,) = (line for line in shown.splitlines() if " july " in line)
    assert "1,200 / 10,800" in july
    assert "0.50% / 0.00%" in july
    (may,) = (line for line in shown.splitlines() if " may " in line)
    assert "2.5% + beta" in may
    assert "promoted" in may
    only_open = json.loads(_run("canary", "list", "--open", "--json"))
    assert [each["name"] for each in only_open] == ["canaries/july"]


def test_an_edit_is_submitted_to_a_canary_and_shown_with_it(editing: Editing) -> None:
    shown = _run("edit", "We close at", "8 pm", "--lane", "lanes/facts", "--canary", "july")
    assert editing.submitted[0].canary == "canaries/july"
    assert "of canaries/july" in shown


def test_an_edit_of_a_canary_is_in_effect_for_its_requests(editing: Editing) -> None:
    said = "every replica answers with it from seq 12 on"
    assert f"{said}, for the requests in canaries/july until that ends" in _run(
        "edit", "We close at", "8 pm", "--canary", "july", "--wait"
    )
    editing.submitted.clear()
    shown = _run("edit", "We close at", "8 pm", "--wait")
    assert said in shown
    assert "for the requests" not in shown


def test_edits_of_a_canary_are_listed(editing: Editing) -> None:
    _run("edits", "--canary", "july")
    _run("edits")
    assert [each.canary for each in editing.listed] == ["canaries/july", ""]


def test_rows_of_a_file_go_to_a_canary(editing: Editing, tmp_path: Path) -> None:
    file = tmp_path / "edits.csv"
    file.write_text("prompt,target,canary\nWe close at,8 pm,\nWe open at,9 am,may\n")
    _run("import", str(file), "--canary", "july", "--no-wait")
    assert sorted(spec.canary for spec in editing.submitted) == ["canaries/july", "canaries/may"]


def test_an_answer_tells_its_canaries_and_key() -> None:
    shown = _run("ask", "We close at", "--canary-key", "user 7")
    assert "in canaries/july (canary key user 7)" in shown
    as_json = json.loads(_run("ask", "We close at", "--canary-key", "user 7", "--json"))
    assert as_json["provenance"]["canaries"] == ["canaries/july"]
    assert as_json["provenance"]["canary_key"] == "user 7"


def test_a_score_and_all_replicas_tell_canaries_and_key() -> None:
    scored = _run("score", "We close at", " 8 pm", "--canary-key", "user 7")
    assert "in no canary (canary key user 7)" in scored
    assert "canary" not in _run("score", "We close at", " 8 pm")
    everywhere = _run("ask", "We close at", "--everywhere", "--canary-key", "user 7")
    assert "canaries/july (canary key user 7)" in everywhere
    assert "canar" not in _run("ask", "We close at", "--everywhere")
