"""How settings, versions and findings look on a terminal."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Iterable

from rich.table import Table
from rich.text import Text

from errata.launch.findings import Finding
from errata.launch.output import TextTable, line, lines
from errata.platform.settings import masked
from errata.platform.settings.report import SettingReport


def config_table(settings: Iterable[SettingReport]) -> Table:
    """Every setting with its value, origin and description."""
    table = TextTable()
    for column in ("setting", "value", "from", "description"):
        table.add_column(column, overflow="fold")
    for item in settings:
        value = "" if item.value is None else str(item.value)
        table.add_row(item.setting, value, item.origin, item.description)
    return table


def version_lines() -> Text:
    """The versions of this installation; imports none of the packages."""
    found = [
        f"errata {importlib.metadata.version('errata')}",
        f"Python {platform.python_version()}",
    ]
    for package in ("errata-client", "torch", "transformers", "ray", "grpcio"):
        try:
            found.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            found.append(f"{package} is not installed")
    return lines(map(line, found))


def doctor_table(findings: Iterable[Finding]) -> Table:
    """Findings, one row each, with their remedies."""
    table = TextTable(show_lines=False)
    for column in ("", "checked", "found", "what to do"):
        table.add_column(column, overflow="fold")
    styles = {"ok": "green", "warn": "yellow", "fail": "bold red"}
    for finding in findings:
        grade = line((finding.grade, styles[finding.grade]))
        table.add_row(grade, finding.name, masked(finding.found), finding.remedy)
    return table
