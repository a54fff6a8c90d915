"""An event as a signed message: CloudEvents 1.0 in JSON, with the headers of Standard Webhooks."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from dataclasses import dataclass
from datetime import UTC, datetime

from errata.catalog.happenings import Event

CONTENT_TYPE = "application/cloudevents+json; charset=utf-8"
_TYPE = "errata."


@dataclass(frozen=True, slots=True)
class Message:
    """What is sent for one event.

    Attributes:
        event_id: the same for each attempt; receivers know by it what they have already.
        body: the CloudEvent.
    """

    event_id: str
    body: bytes

    def headers(self, secret: bytes, now: float) -> dict[str, str]:
        """The headers of one attempt.

        Args:
            secret: of the target.
            now: seconds since 1970; receivers refuse what is too old.
        """
        timestamp = str(int(now))
        return {
            "content-type": CONTENT_TYPE,
            "webhook-id": self.event_id,
            "webhook-timestamp": timestamp,
            "webhook-signature": signature(secret, self.event_id, timestamp, self.body),
        }


def signature(secret: bytes, event_id: str, timestamp: str, body: bytes) -> str:
    """HMAC-SHA256 over `{id}.{timestamp}.{body}`, as Standard Webhooks has it."""
    said = b".".join((event_id.encode(), timestamp.encode(), body))
    return "v1," + base64.b64encode(hmac.digest(secret, said, hashlib.sha256)).decode()


def message_of(event: Event, log_id: str) -> Message:
    """The message of an event; it holds names and comments, but no prompt and no target."""
    event_id = event.identity(log_id)
    told = {
        "seq": event.seq,
        "event": event.name,
        "edit": event.edit_name,
        "lane": event.lane,
        "namespace": event.namespace,
        "author": event.author,
        "comment": event.comment,
        "replica": event.replica,
        "canary": event.canary,
    }
    return Message(
        event_id,
        _cloud_event(
            event_id,
            log_id,
            event.kind.value,
            event.edit_name or event.canary or f"replicas/{event.replica}",
            event.when,
            {name: value for name, value in told.items() if value != ""},
        ),
    )


def ping(now: datetime) -> Message:
    """A message that says nothing, to try a target."""
    event_id = f"ping/{now.timestamp():.6f}"
    return Message(event_id, _cloud_event(event_id, "ping", "ping", "ping", now, {}))


def _cloud_event(
    event_id: str, log_id: str, kind: str, subject: str, time: datetime, data: dict[str, object]
) -> bytes:
    found = {
        "specversion": "1.0",
        "id": event_id,
        "source": f"/errata/logs/{log_id}",
        "type": f"{_TYPE}{kind}",
        "subject": subject,
        "time": time.astimezone(UTC).isoformat().replace("+00:00", "Z"),
        "datacontenttype": "application/json",
        "data": data,
    }
    return json.dumps(found, ensure_ascii=False, separators=(",", ":")).encode()
