"""Writes the tables of docs/limits.md from the declared limits and the settings.

python tools/make_limits_page.py [--check]
"""

from __future__ import annotations

import re
import sys
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from errata.platform.limits import BYTES, CHARS, ITEMS, TOTAL_CHARS
from errata.platform.settings import Settings
from errata.platform.settings.report import descriptions, leaves, variable_of

FILE = Path(__file__).resolve().parent.parent / "docs/limits.md"
_SETTINGS = (
    "catalog.max_streams",
    "gateway.answers_burst",
    "gateway.answers_per_second",
    "gateway.edits_burst",
    "gateway.edits_per_second",
    "gateway.http_max_body_bytes",
    "log.max_payload_bytes",
    "log.max_subscriptions",
    "log.max_subscriptions_per_connection",
    "log.memory_reserve_bytes",
    "retrieval.max_prompts",
    "worker.max_context",
    "worker.max_new_tokens",
    "worker.max_queue",
    "writer.max_edits_per_request",
    "writer.max_pending_edits",
    "writer.max_previews",
    "writer.max_probe_set",
    "writer.max_probes",
    "writer.max_prompt_chars",
    "writer.max_prompt_tokens",
    "writer.max_target_tokens",
)


def _by_limit(limits: Mapping[str, int], unit: str) -> list[str]:
    """A row for each limit, with the fields of each message."""
    fields: defaultdict[int, defaultdict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for key, most in limits.items():
        message, _, field = key.rpartition(".")
        fields[most][message].append(field)
    rows = [f"| {unit} | fields |", "|---|---|"]
    for most in sorted(fields):
        named = "; ".join(
            f"{message}: {', '.join(f'`{name}`' for name in names)}" if names != [""] else message
            for message, names in sorted(fields[most].items())
        )
        rows.append(f"| {most:,} | {named} |")
    return rows


def _totals() -> list[str]:
    rows = ["| characters | requests |", "|---|---|"]
    for most in sorted(set(TOTAL_CHARS.values())):
        names = sorted(name for name, value in TOTAL_CHARS.items() if value == most)
        rows.append(f"| {most:,} | {', '.join(names)} |")
    return rows


def _settings() -> list[str]:
    defaults, meanings = leaves(Settings.model_construct().model_dump()), descriptions()
    return [
        "| setting | default | what |",
        "|---|---|---|",
        *(f"| `{variable_of(n)}` | {defaults[n]:,} | {meanings[n]} |" for n in _SETTINGS),
    ]


def page(text: str) -> str:
    """The page with its tables."""
    tables = {
        "texts": _by_limit(CHARS, "characters"),
        "totals": _totals(),
        "lists": [*_by_limit(ITEMS, "items"), "", *_by_limit(BYTES, "bytes")],
        "settings": _settings(),
    }
    for name, rows in tables.items():
        mark = f"<!-- {name} -->"
        block = rf"{mark}\n(\n(\|.*\n)+)*"
        text = re.sub(block, "\n".join([mark, "", *rows, ""]).replace("\\", r"\\"), text)
    return text


def main() -> int:
    """Writes the page; with --check, returns 1 if it differs."""
    text = FILE.read_text("utf-8")
    made = page(text)
    if "--check" in sys.argv[1:]:
        return 0 if made == text else 1
    FILE.write_text(made, "utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
