"""The page of the errors: reason, statuses, the SDK's class and the meaning of each."""

from __future__ import annotations

from collections.abc import Iterator

from tools.docs_site.text import cell, document, table

from errata import errors
from errata.gateway.http.errors import failure_of
from errata.platform.status import code_of
from errata.platform.status_convert import to_status
from errata_client.errors import from_status

_INTRODUCTION = """# Errors

Made from the classes of `errata.errors`. A gRPC status carries the reason in
`google.rpc.ErrorInfo`, an HTTP body as `error.errata.reason`; the SDK raises the class. What to do
about the frequent ones: [operations](../operations.md#errors)."""
# Any exception that is not of these classes.
_INTERNAL = (
    *("`INTERNAL`", "`INTERNAL`", "500", "`ErrataError`", "fails again"),
    "A bug; the service's log has it under the trace that the message names.",
)
_HEADER = ("reason", "gRPC", "HTTP", "in the SDK", "retry", "what")


def page() -> str:
    """The page as Markdown."""
    rows = sorted([_INTERNAL, *_rows()])
    return document(_INTRODUCTION, table(_HEADER, rows))


def _rows() -> Iterator[tuple[str, ...]]:
    for kind in _below(errors.ErrataError):
        if kind.reason == errors.ErrataError.reason:
            continue
        about = (kind.__doc__ or "").strip().partition("\n\n")[0]
        example = kind("")
        raised = type(from_status(to_status(example)))
        yield (
            f"`{kind.reason}`",
            f"`{code_of(kind).name}`",
            str(failure_of(example).status),
            f"`{raised.__name__}`",
            "may succeed" if raised.retryable else "fails again",
            f"{cell(about)} (`{kind.__name__}`)",
        )


def _below(kind: type[errors.ErrataError]) -> Iterator[type[errors.ErrataError]]:
    for inner in kind.__subclasses__():
        if inner.__module__ == errors.__name__:
            yield inner
            yield from _below(inner)
