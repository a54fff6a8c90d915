"""Renders the console's pages: templates, and headers that no page may lack."""

from __future__ import annotations

import base64
import hashlib
import re
import uuid
from datetime import UTC, datetime
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from starlette.responses import HTMLResponse, Response

from errata.gateway.http.console.visit import Visit
from errata.platform.plain import shown_lines
from errata.platform.typed import share_text, span_text
from errata_client.edits import EditState
from errata_client.prompts import Chat, Prompt

_PACKAGE = "errata.gateway.http.console"
_KINDS = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
"""Of every page."""
_FOREVER = "public, max-age=31536000, immutable"
_DIGEST = re.compile("[0-9a-f]{64}")
_LABELS = {
    EditState.REQUESTED: "waits for its fit",
    EditState.FITTING: "being fitted",
    EditState.COMMITTED: "in force",
    EditState.REJECTED: "rejected",
    EditState.REVERTED: "reverted",
    EditState.PROPOSED: "waits for review",
    EditState.SCHEDULED: "scheduled",
    EditState.WITHDRAWN: "withdrawn",
    EditState.UNKNOWN: "unknown",
}


class Assets:
    """Style sheets and scripts, held in memory; nothing is loaded from elsewhere."""

    def __init__(self) -> None:
        """Reads them."""
        self._files: dict[str, bytes] = {}
        folder = files(_PACKAGE) / "static"
        for place, prefix in ((folder, ""), (folder / "vendor", "vendor/")):
            for file in place.iterdir():
                if file.is_file() and f".{file.name.rpartition('.')[2]}" in _KINDS:
                    self._files[prefix + file.name] = file.read_bytes()
        self._digests = {
            name: base64.urlsafe_b64encode(hashlib.sha256(data).digest())[:12].decode()
            for name, data in self._files.items()
        }

    def address(self, name: str) -> str:
        """Where a page finds a file."""
        return f"/console/static/{name}?v={self._digests[name]}"

    def response(self, name: str, version: str) -> Response | None:
        """A file; None if there is none of this name.

        Args:
            name: of the file.
            version: that the address asks for; the file's digest may be kept for ever.
        """
        data = self._files.get(name)
        if data is None:
            return None
        kind = _KINDS[f".{name.rpartition('.')[2]}"]
        kept = _FOREVER if version == self._digests[name] else "no-cache"
        return Response(data, media_type=kind, headers={**HEADERS, "Cache-Control": kept})


class Pages:
    """Templates, with what all of them use."""

    def __init__(self, assets: Assets, *, authenticates: bool) -> None:
        """Loads the templates.

        Args:
            assets: that pages name.
            authenticates: whether people sign in.
        """
        self._environment = Environment(
            loader=PackageLoader(_PACKAGE),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            finalize=_finalized,
        )
        self._environment.globals.update(
            asset=assets.address,
            authenticates=authenticates,
            EditState=EditState,
            new_id=lambda: str(uuid.uuid4()),
        )
        self._environment.filters.update(
            exact=_exact,
            short=_short,
            shorter=lambda text: _DIGEST.sub(lambda found: _short(found.group()), text),
            time=_time,
            text=prompt_text,
            lane=lambda name: name.removeprefix("lanes/"),
            edit_path=lambda name: f"/console/{name}",
            state=lambda state: _LABELS[state],
            share=lambda value: "–" if value is None else f"{value:.0%}",
            percent=share_text,
            measured=lambda value: "–" if value is None else f"{value:.2%}",
            points=lambda value: f"{value * 100:g}",
            span=span_text,
        )

    def page(self, visit: Visit, template: str, **values: Any) -> Response:
        """A page, or its part that changes if only that is wanted.

        Args:
            visit: who wants it.
            template: `name`, whose whole is `name.html` and whose part, if any, `_name.html`.
            values: for the template.
        """
        parts = [f"_{template}.html"] if visit.fragment else []
        found = self._environment.select_template([*parts, f"{template}.html"])
        made = found.render(visit=visit, **values)
        return HTMLResponse(made, visit.status, HEADERS)


def _finalized(value: object) -> object:
    """Texts from outside show their control and invisible characters, and escape nothing else."""
    if isinstance(value, str) and not isinstance(value, Markup):
        return shown_lines(value)
    return value


def _exact(value: str) -> Markup:
    """For the value of an input: people shall send back what they typed."""
    return escape(value)


def _short(digest: str) -> str:
    return digest[:12]


def _time(value: datetime) -> Markup:
    """A time in UTC, which scripts show in the reader's time zone."""
    at = value.astimezone(UTC)
    return Markup('<time datetime="{}">{}</time>').format(
        at.isoformat(timespec="seconds"), at.strftime("%Y-%m-%d %H:%M:%S UTC")
    )


def prompt_text(prompt: Prompt) -> str:
    """A prompt as people read it: the text, or the turns of a conversation."""
    if isinstance(prompt, str):
        return prompt
    if isinstance(prompt, Chat) and len(prompt.messages) == 1:
        return prompt.messages[0].content
    return str(prompt)
