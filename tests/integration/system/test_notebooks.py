"""The notebook that needs a running system, run from top to bottom."""

from __future__ import annotations

from tests.integration.system.conftest import System
from tests.unit.docs_site.running import check_notebook


def test_the_first_edit_prints_what_the_notebook_has(system: System) -> None:
    check_notebook("first_edit.ipynb", {"ERRATA_TARGET": system.target})
