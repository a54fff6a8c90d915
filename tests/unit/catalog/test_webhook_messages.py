"""Messages are CloudEvents, and signed as Standard Webhooks has it."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime

from errata.catalog.database import id_of
from errata.catalog.happenings import Event, Kind
from errata.catalog.webhooks.messages import message_of, ping, signature

EVENT = Event(
    id_of(12, 3), Kind.REVERTED, 1_750_000_000_123_456, id_of(9, 1), "lanes/a", "tom", "ö", ""
)


def test_the_example_of_the_specification_has_its_signature() -> None:
    secret = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    body = b'{"test": 2432232314}'
    expected = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    assert signature(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", body) == expected


def test_an_event_is_a_cloud_event() -> None:
    message = message_of(EVENT, "log-1")
    assert json.loads(message.body) == {
        "specversion": "1.0",
        "id": "log-1/12/edits/9-1",
        "source": "/errata/logs/log-1",
        "type": "errata.edit.reverted",
        "subject": "edits/9-1",
        "time": "2025-06-15T15:06:40.123456Z",
        "datacontenttype": "application/json",
        "data": {
            "seq": 12,
            "event": "events/12-3",
            "edit": "edits/9-1",
            "lane": "lanes/a",
            "author": "tom",
            "comment": "ö",
        },
    }


def test_every_attempt_has_the_same_id_and_a_time_of_its_own() -> None:
    message, secret = message_of(EVENT, "log-1"), b"s" * 32
    first, second = message.headers(secret, 1_000.7), message.headers(secret, 2_000.0)
    assert first["webhook-id"] == second["webhook-id"] == "log-1/12/edits/9-1"
    assert (first["webhook-timestamp"], second["webhook-timestamp"]) == ("1000", "2000")
    assert first["webhook-signature"] != second["webhook-signature"]
    assert first["content-type"].startswith("application/cloudevents+json")


def test_a_replicas_name_fits_into_a_header() -> None:
    event = Event(id_of(12, 4), Kind.REPLICA_LEFT, 0, None, "", "", "", "wörker\r\n/1")
    message = message_of(event, "log-1")
    assert message.event_id == "log-1/12-4/w%C3%B6rker%0D%0A%2F1"
    assert json.loads(message.body)["subject"] == "replicas/wörker\r\n/1"
    assert ping(datetime(2026, 1, 1, tzinfo=UTC)).event_id == "ping/1767225600.000000"
