"""Every method, asked with every credential: exactly those that the table allows get through."""

from __future__ import annotations

import itertools
import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import jwt
import pytest

from errata.gateway.http.rest_convert import ROUTES
from errata.launch.box import Box
from errata.launch.certs import DevelopmentCa, make_token
from errata.platform.security.rules import RULES, SERVICES, Role
from errata_client import (
    Client,
    Credentials,
    EditSpec,
    PermissionDeniedError,
    UnauthenticatedError,
)
from errata_client._gen.errata.v1 import edit_log_pb2
from tests.integration.security.conftest import audit_lines
from tests.waiting import PATIENCE

PEOPLE = sorted(set(Role) - SERVICES)
REFUSED = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)
STREAMS = ("StreamGenerate", "Subscribe", "GetArtifact", "WatchEvents")
INFERENCE, EDITING = "/errata.v1.InferenceService/", "/errata.v1.EditingService/"
LOG, RETRIEVAL = "/errata.v1.EditLogService/", "/errata.v1.RetrievalService/"
CATALOG = "/errata.v1.CatalogService/"
FORWARDED = {f"{LOG}{name}" for name in ("GetHead", "ListEntries", "ListReplicas", *STREAMS[1:3])}
FORWARDED |= {f"{CATALOG}{name}" for name in ("FindEdits", "ShapedAnswers", "WatchEvents")}
KINDS = ("none", "expired", "audience", "other key", "right")


@contextmanager
def _channel(box: Box, address: str, ca: DevelopmentCa, certificate: str = "") -> Iterator[Any]:
    key, chain = (
        (ca.key(certificate).read_bytes(), ca.certificate(certificate).read_bytes())
        if certificate
        else (None, None)
    )
    credentials = grpc.ssl_channel_credentials(ca.ca.read_bytes(), key, chain)
    with grpc.secure_channel(address, credentials) as channel:
        yield channel


def _code(channel: Any, method: str, token: str = "") -> grpc.StatusCode:
    """The code of a call with an empty request."""
    metadata = (("authorization", f"Bearer {token}"),) if token else ()
    streams = method.rpartition("/")[2] in STREAMS
    try:
        if streams:
            call = channel.unary_stream(method)(b"", timeout=PATIENCE, metadata=metadata)
            next(call)
            call.cancel()
        else:
            channel.unary_unary(method)(b"", timeout=PATIENCE, metadata=metadata)
    except StopIteration:
        pass
    except grpc.RpcError as error:
        return error.code()
    return grpc.StatusCode.OK


def _token(ca: DevelopmentCa, role: str, kind: str) -> str:
    if kind == "none":
        return ""
    if kind == "expired":
        return make_token(ca, "someone", [role], hours=-1.0)
    if kind == "audience":
        return make_token(ca, "someone", [role], audience="billing")
    if kind == "other key":
        claims = {
            "sub": "someone",
            "aud": "errata",
            "exp": datetime.now(UTC) + timedelta(hours=1),
            "errata_roles": [role],
        }
        return jwt.encode(claims, ca.key("operator").read_bytes(), "ES256", {"kid": "development"})
    return make_token(ca, "someone", [role])


def test_the_gateway_admits_who_has_the_role_and_a_valid_token(box: Box, ca: DevelopmentCa) -> None:
    methods = [m for m in RULES if m.startswith((INFERENCE, EDITING)) or m in FORWARDED]
    asked = 0
    with _channel(box, box.target, ca) as channel:
        for method, role, kind in itertools.product(methods, PEOPLE, KINDS):
            code = _code(channel, method, _token(ca, role, kind))
            asked += 1
            if kind != "right":
                assert code is grpc.StatusCode.UNAUTHENTICATED, (method, role, kind, code)
            elif role in RULES[method].roles:
                assert code not in REFUSED, (method, role, code)
            else:
                assert code is grpc.StatusCode.PERMISSION_DENIED, (method, role, code)
    assert asked == 28 * 4 * 5


def test_the_services_behind_it_admit_who_has_the_role_and_a_certificate(
    box: Box, ca: DevelopmentCa
) -> None:
    settings = box.settings
    behind = {LOG: settings.log.address, EDITING: settings.writer.address}
    behind[RETRIEVAL] = settings.retrieval.address
    behind[CATALOG] = settings.catalog.address
    for prefix, address in behind.items():
        methods = [method for method in RULES if method.startswith(prefix)]
        for name in ("writer", "gateway", "replica", "operator", "log"):
            role = Role(name) if name != "log" else None
            with _channel(box, address, ca, name) as channel:
                for method in methods:
                    if method.endswith("AcquireEpoch") and role is Role.WRITER:
                        continue  # it would fence this system's writer
                    code = _code(channel, method)
                    if role in RULES[method].roles:
                        assert code not in REFUSED, (method, name, code)
                    else:
                        assert code is grpc.StatusCode.PERMISSION_DENIED, (method, name, code)
        with _channel(box, address, ca) as channel:  # nobody without a certificate gets so far
            token = make_token(ca, "someone", ["operator"])
            assert _code(channel, methods[0], token) is grpc.StatusCode.UNAVAILABLE


def test_only_a_gateway_can_call_for_others(box: Box, ca: DevelopmentCa) -> None:
    caller = {
        "subject": "x",
        "roles": ["editor", "operator"],
        "lanes": ["*"],
        "expires": 0,
        "peer": "",
    }
    metadata = (("errata-caller-bin", json.dumps(caller).encode()),)
    codes = {}
    for name in ("gateway", "replica"):
        with _channel(box, box.settings.writer.address, ca, name) as channel:
            try:
                channel.unary_unary(f"{EDITING}CompactLane")(
                    b"", timeout=PATIENCE, metadata=metadata
                )
            except grpc.RpcError as error:
                codes[name] = error.code()
    assert codes["gateway"] not in REFUSED
    assert codes["replica"] is grpc.StatusCode.PERMISSION_DENIED


def test_a_gateway_cannot_call_as_a_service(box: Box, ca: DevelopmentCa) -> None:
    caller = {"subject": "x", "roles": ["writer"], "lanes": ["*"], "expires": 0, "peer": ""}
    metadata = (("errata-caller-bin", json.dumps(caller).encode()),)
    with _channel(box, box.settings.log.address, ca, "gateway") as channel:
        with pytest.raises(grpc.RpcError) as refused:
            channel.unary_unary(f"{LOG}Append")(b"", timeout=PATIENCE, metadata=metadata)
    assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED


def test_a_stream_ends_with_its_credential(box: Box, ca: DevelopmentCa) -> None:
    token = make_token(ca, "someone", ["reader"], hours=4 / 3_600)
    request = edit_log_pb2.SubscribeRequest(from_seq=1).SerializeToString()
    metadata = (("authorization", f"Bearer {token}"),)
    with _channel(box, box.target, ca) as channel:
        stream = channel.unary_stream(f"{LOG}Subscribe")(
            request, timeout=PATIENCE, metadata=metadata
        )
        assert next(stream), "control: it streams before"
        with pytest.raises(grpc.RpcError) as ended:
            for _ in stream:
                pass
    assert ended.value.code() is grpc.StatusCode.UNAUTHENTICATED


def _http(box: Box, ca: DevelopmentCa, verb: str, path: str, token: str) -> int:
    headers = {"authorization": f"Bearer {token}"} if token else {}
    request = urllib.request.Request(
        box.http_url + path, b"{}" if verb == "POST" else None, headers, method=verb
    )
    context = ssl.create_default_context(cafile=str(ca.ca))
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE, context=context) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_http_admits_by_the_same_table(box: Box, ca: DevelopmentCa) -> None:
    generate = f"{INFERENCE}Generate"
    paths = [("POST", "/v1/completions", generate), ("POST", "/v1/chat/completions", generate)]
    paths.append(("GET", "/v1/models", f"{INFERENCE}GetModel"))
    for route in ROUTES:
        paths.append((route.verb, route.path.replace("{", "").replace("}", ""), route.rpc_path))
    kinds = ("none", "expired", "right")
    for (verb, path, method), role, kind in itertools.product(paths, PEOPLE, kinds):
        status = _http(box, ca, verb, path, _token(ca, role, kind))
        if kind != "right":
            assert status == 401, (path, role, kind, status)
        elif role in RULES[method].roles:
            assert status not in (401, 403), (path, role, status)
        else:
            assert status == 403, (path, role, status)
    assert _http(box, ca, "GET", "/health", "") == 200


def test_an_editor_works_in_his_lanes_only(box: Box, ca: DevelopmentCa, operator: Client) -> None:
    lane, other, *_ = [lane.name for lane in operator.lanes()]
    edit = operator.submit_edits([EditSpec("The capital of France is", "Rome")], lane=other)[0]
    token = make_token(ca, "alice", ["editor", "operator"], [lane])
    with Client(
        box.target, timeout=PATIENCE, credentials=Credentials(token=token, ca_file=ca.ca)
    ) as alice:
        assert [found.name for found in alice.lanes()] == [lane]
        assert edit.name not in {found.name for found in alice.list_edits()}
        own = alice.submit_edits([EditSpec("The capital of Malta is", "Rome")], lane=lane)[0]
        seq = int(own.name.split("/")[1].split("-")[0])
        found = {each.edit.name for each in alice.find_edits(min_seq=seq)}
        assert own.name in found
        assert edit.name not in found
        told = {event.edit for event in alice.events(1, follow=False) if event.edit}
        assert own.name in told
        assert edit.name not in told
        assert edit.name in {each.edit.name for each in operator.find_edits(min_seq=seq)}
        for refused in (
            lambda: alice.submit_edits([EditSpec("The capital of Spain is", "Rome")], lane=other),
            lambda: alice.get_edit(edit.name),
            lambda: alice.wait_edits([edit.name]),
            lambda: alice.revert([edit.name]),
            lambda: alice.compact(other),
            lambda: alice.preview_edits([EditSpec("The capital of Spain is", "Rome")], lane=other),
            lambda: alice.preview_waiting([edit.name]),
            lambda: alice.withdraw([edit.name]),
            lambda: alice.approve([edit.name]),
            lambda: list(alice.entries()),
        ):
            with pytest.raises(PermissionDeniedError, match=r"may not (use|call)"):
                refused()
        assert alice.submit_edits([EditSpec("The capital of Spain is", "Rome")], lane=lane)


def test_the_author_is_the_credentials_subject(
    box: Box, ca: DevelopmentCa, operator: Client
) -> None:
    token = make_token(ca, "alice", ["editor"])
    with Client(
        box.target, timeout=PATIENCE, credentials=Credentials(token=token, ca_file=ca.ca)
    ) as alice:
        edit = alice.submit_edits([EditSpec("The capital of Italy is", "Oslo")], author="the king")[
            0
        ]
        assert edit.author == "alice"
    entry = next(
        e for e in operator.entries() if e.seq == int(edit.name.split("/")[1].split("-")[0])
    )
    assert (entry.author, entry.on_behalf_of) == ("alice", "the king")


def test_changes_and_refusals_are_audited(box: Box, ca: DevelopmentCa) -> None:
    token = make_token(ca, "mallory", ["reader"])
    before = len(audit_lines(box, "gateway"))
    with Client(
        box.target, timeout=PATIENCE, credentials=Credentials(token=token, ca_file=ca.ca)
    ) as mallory:
        mallory.generate("The capital of France is", max_tokens=1)
        with pytest.raises(PermissionDeniedError, match="needs one of the roles editor"):
            mallory.submit_edits([EditSpec("The capital of France is", "Rome")])
    (line,) = audit_lines(box, "gateway")[before:]
    assert (line["who"], line["outcome"]) == ("mallory", "PERMISSION_DENIED")
    assert str(line["what"]).endswith("SubmitEdits")
    token = make_token(ca, "alice", ["editor"])
    with Client(
        box.target, timeout=PATIENCE, credentials=Credentials(token=token, ca_file=ca.ca)
    ) as alice:
        edit = alice.submit_edits([EditSpec("The capital of Poland is", "Rome")])[0]
    begun, done = audit_lines(box, "writer")[-2:]
    assert (begun["who"], begun["outcome"]) == ("alice", "begun")
    assert (done["outcome"], f"edits/{done['seq']}-0") == ("ok", edit.name)


def test_a_client_without_a_credential_is_told_what_to_do(box: Box, ca: DevelopmentCa) -> None:
    with (
        Client(box.target, timeout=PATIENCE, credentials=Credentials(ca_file=ca.ca)) as nobody,
        pytest.raises(UnauthenticatedError, match="ERRATA_TOKEN"),
    ):
        nobody.head()
