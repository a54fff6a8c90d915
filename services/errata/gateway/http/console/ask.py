"""Asks the model, and shows an earlier answer beside the answer of now."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from starlette.responses import Response

from errata.errors import InvalidRequestError
from errata.gateway.http.console import calls_convert as calls
from errata.gateway.http.console.backend import Backend
from errata.gateway.http.console.pages import Pages
from errata.gateway.http.console.visit import Visit
from errata_client.prompts import Chat, ChatMessage, Prompt
from errata_client.types import Answer

_MAX_TOKENS = 512
_DEFAULT_TOKENS = 48
_MAX_DIGITS = 18
_KEPT = (
    *("applied_seq", "state_digest", "replica", "edits", "num_edits_in_force"),
    *("canaries", "canary_key"),
)


class AskPage:
    """`/console/ask`."""

    def __init__(self, backend: Backend, pages: Pages) -> None:
        """Prepares."""
        self._backend = backend
        self._pages = pages

    async def show(self, visit: Visit) -> Response:
        """The form, with what was typed or what the address asks for."""
        model = await self._backend.call(visit.request, calls.model())
        return self._page(visit, model, None, None)

    async def act(self, visit: Visit) -> Response:
        """The answer of now, and the one that this page got before to the same question.

        Raises:
            InvalidRequestError: nothing was typed, or a number is none.
        """
        question = visit.typed("prompt")
        if not question:
            raise InvalidRequestError("there is no question; type one.", field="prompt")
        model = await self._backend.call(visit.request, calls.model())
        is_chat = model.has_chat_template and visit.typed("kind") == "chat"
        prompt: Prompt = Chat((ChatMessage("user", question),)) if is_chat else question
        tokens = _number(visit, "max_tokens", _MAX_TOKENS) or _DEFAULT_TOKENS
        answer = await self._backend.call(
            visit.request,
            calls.answer(
                prompt,
                _number(visit, "min_seq", None),
                min(tokens, model.max_tokens),
                _namespaces(visit),
                visit.typed("canary_key"),
            ),
        )
        return self._page(visit, model, answer, _earlier(visit, question, is_chat))

    def _page(
        self, visit: Visit, model: object, answer: Answer | None, earlier: dict[str, Any] | None
    ) -> Response:
        return self._pages.page(
            visit,
            "ask",
            model=model,
            answer=answer,
            earlier=earlier,
            kept="" if answer is None else _packed(visit, answer),
            question=visit.fields.get("prompt", visit.asked("prompt")),
            kind=visit.fields.get("kind", visit.asked("kind") or "chat"),
            min_seq=visit.fields.get("min_seq", visit.asked("min_seq")),
        )


def _packed(visit: Visit, answer: Answer) -> str:
    """What the page keeps of an answer, to show it beside the next one."""
    provenance = {name: value for name, value in asdict(answer.provenance).items() if name in _KEPT}
    kept = {
        "question": visit.typed("prompt"),
        "kind": visit.typed("kind"),
        "namespaces": _namespaces(visit),
        "text": answer.text,
    }
    return json.dumps({**kept, **provenance})


def _namespaces(visit: Visit) -> list[str]:
    """Those to read, in an order of their own: the same ones are the same question."""
    return sorted(set(visit.typed("namespaces").replace(",", " ").split()))


def _earlier(visit: Visit, question: str, is_chat: bool) -> dict[str, Any] | None:
    """The answer that the page kept; None if it is no answer to this question."""
    try:
        found = json.loads(visit.fields.get("earlier", "") or "{}")
        kept = {
            "text": str(found["text"]),
            "applied_seq": int(found["applied_seq"]),
            "state_digest": str(found["state_digest"]),
            "replica": str(found["replica"]),
            "edits": [str(name) for name in found["edits"]],
            "num_edits_in_force": int(found["num_edits_in_force"]),
            "canaries": [str(name) for name in found["canaries"]],
            "canary_key": str(found["canary_key"]),
        }
        asked = (found["question"], found["kind"] == "chat", found["namespaces"])
    except (KeyError, TypeError, ValueError):
        return None
    return kept if asked == (question, is_chat, _namespaces(visit)) else None


def _number(visit: Visit, name: str, most: int | None) -> int | None:
    text = visit.typed(name)
    if not text:
        return None
    if not (text.isascii() and text.isdecimal()) or len(text) > _MAX_DIGITS or text == "0":
        raise InvalidRequestError(f"{name} is {text[:40]!r}; give a whole number.", field=name)
    return int(text) if most is None else min(int(text), most)
