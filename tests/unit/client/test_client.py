import inspect
import subprocess
import sys

import grpc
import pytest

import errata_client
from errata_client import AsyncClient, Client, EditSpec, InvalidEditError, UnavailableError
from errata_client import _calls as calls
from errata_client._canary_aio import AsyncCanaryCalls
from errata_client._canary_client import CanaryCalls
from errata_client._log_aio import AsyncLogCalls
from errata_client._log_client import LogCalls
from errata_client._policy_aio import AsyncPolicyCalls
from errata_client._policy_client import PolicyCalls


def test_the_sdk_never_imports_torch_ray_or_the_services() -> None:
    code = (
        "import sys, errata_client; "
        "print([m for m in ('torch', 'ray', 'redis', 'numpy', 'transformers', 'errata') "
        "if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def _public(kind: type) -> dict[str, inspect.Signature]:
    return {
        name: inspect.signature(value)
        for name, value in vars(kind).items()
        if callable(value) and not name.startswith("_")
    }


@pytest.mark.parametrize(
    "pair",
    [
        (Client, AsyncClient),
        (PolicyCalls, AsyncPolicyCalls),
        (CanaryCalls, AsyncCanaryCalls),
        (LogCalls, AsyncLogCalls),
    ],
)
def test_both_clients_offer_the_same_calls(pair: tuple[type, type]) -> None:
    blocking, awaited = map(_public, pair)
    assert blocking.keys() == awaited.keys()
    for name, signature in blocking.items():
        assert signature.parameters == awaited[name].parameters, name


def test_what_is_exported_exists_and_is_sorted() -> None:
    assert errata_client.__all__ == sorted(errata_client.__all__)
    for name in errata_client.__all__:
        assert getattr(errata_client, name).__doc__


@pytest.mark.parametrize("field", ["prompt", "target", "subject", "source"])
def test_a_lone_surrogate_is_refused_with_its_field(field: str) -> None:
    fields = {"prompt": "a b", "target": "c", field: "a\ud800b"}
    with pytest.raises(InvalidEditError, match=rf"edits\[0\].{field}.*surrogate.*character 1"):
        calls.submit_edits([EditSpec(**fields)], "", "", None)


def test_a_request_id_is_made_once_and_kept_if_given() -> None:
    specs = [EditSpec("a b", "c")]
    given = "6f0ed5f2-4f0c-5c39-9d4f-1f3a5f0c7a11"
    assert calls.submit_edits(specs, "", "", given).request.request_id == given
    first = calls.submit_edits(specs, "", "", None).request.request_id
    assert first != calls.submit_edits(specs, "", "", None).request.request_id


def test_nobody_there_is_unavailable_and_says_so_in_time() -> None:
    with Client("127.0.0.1:1", timeout=20.0) as client, pytest.raises(UnavailableError) as caught:
        client.head()
    assert caught.value.code is grpc.StatusCode.UNAVAILABLE
    assert caught.value.retryable


def test_a_client_requests_the_position_it_saw_unless_given_another() -> None:
    with Client("127.0.0.1:1") as client:
        assert client.session.min_seq(None) is None
        client.session.last_seq = 7
        assert client.session.min_seq(None) == 7
        assert client.session.min_seq(3) == 3
        assert client.session.min_seq(0) == 0
