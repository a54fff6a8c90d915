"""The routes cover the services, and the document describes every route and message."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest

from errata.gateway.convert import CATALOG, EDIT_LOG, EDITING, EDITING_METHODS
from errata.gateway.forward import CATALOG_STREAMS, CATALOG_UNARY, LOG_UNARY
from errata.gateway.http.openapi_convert import document
from errata.gateway.http.openapi_page import page
from errata.gateway.http.rest_convert import EVENTS, ROUTES


def _references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if "$ref" in value:
            yield value["$ref"]
        for inner in value.values():
            yield from _references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _references(inner)


@pytest.fixture(scope="module")
def described() -> dict[str, Any]:
    return document()


def test_all_that_grpc_clients_can_do_has_a_route() -> None:
    by_service = defaultdict[str, list[str]](list)
    for route in ROUTES:
        by_service[route.service].append(route.rpc.name)
    assert sorted(by_service[EDITING]) == sorted(EDITING_METHODS)
    assert sorted(by_service[EDIT_LOG]) == sorted(LOG_UNARY)
    assert sorted(by_service[CATALOG]) == sorted(CATALOG_UNARY)
    assert (EVENTS.rpc.name,) == CATALOG_STREAMS


def test_a_paths_parameter_sets_a_field() -> None:
    for route in ROUTES:
        assert bool(re.search(r"{\w+}", route.path)) is bool(route.bound), route.path
        if route.bound:
            assert route.bound in route.rpc.input_type.fields_by_name
            assert route.collection.endswith("/")


def test_all_that_is_referred_to_is_described(described: dict[str, Any]) -> None:
    schemas = described["components"]["schemas"]
    found = {reference.rpartition("/")[2] for reference in _references(described)}
    assert found <= schemas.keys()
    for schema in schemas.values():
        jsonschema.Draft202012Validator.check_schema(schema)
    for route in ROUTES:
        assert route.verb.lower() in described["paths"][route.path]


def test_comments_of_the_protos_explain_fields_and_calls(described: dict[str, Any]) -> None:
    edit = described["components"]["schemas"]["Edit"]
    assert edit["description"] == "One correction to the model's knowledge, and its state."
    assert all(value["description"] for value in edit["properties"].values())
    assert edit["properties"]["commit_seq"]["format"] == "int64"
    assert edit["properties"]["state"]["enum"][3] == "STATE_COMMITTED"
    for path, verbs in described["paths"].items():
        assert all(operation["summary"] for operation in verbs.values()), path


def test_the_page_shows_every_route_and_message_and_loads_nothing(
    described: dict[str, Any],
) -> None:
    shown = page(described)
    for path in described["paths"]:
        assert path in shown
    for name in described["components"]["schemas"]:
        assert f"id='{name}'" in shown
    assert not re.search(r"<script|src=|https?://", shown)
