"""The house rules that no linter knows: the map is true, files and functions are short."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from errata.editing.registry import methods

ROOT = Path(__file__).parents[2]
SERVICES = ROOT / "services" / "errata"
PAGE = ROOT / "docs" / "architecture.md"
MAX_FILE_LINES, MAX_FUNCTION_LINES = 400, 60
SOURCES = sorted(
    path
    for folder in (
        SERVICES,
        ROOT / "clients" / "python" / "errata_client",
        ROOT / "integrations",
        ROOT / "tools",
    )
    for path in folder.rglob("*.py")
    if "_gen" not in path.parts
)
NAMED = re.findall(r"`([\w./]+\.py): ([\w.]+)`", PAGE.read_text(encoding="utf-8"))


def _names(tree: ast.AST, prefix: str = "") -> Iterator[str]:
    """Classes and functions, those inside classes with the class's name."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield prefix + node.name
        if isinstance(node, ast.ClassDef):
            yield from _names(node, f"{prefix}{node.name}.")


@pytest.mark.parametrize(("file", "name"), NAMED)
def test_the_journeys_name_what_exists(file: str, name: str) -> None:
    path = ROOT / file if file.startswith("clients/") else SERVICES / file
    assert name in set(_names(ast.parse(path.read_text(encoding="utf-8"))))


def test_the_page_has_five_journeys() -> None:
    assert len(re.findall(r"^### \d\. ", PAGE.read_text(encoding="utf-8"), re.MULTILINE)) == 5
    assert len(NAMED) > 50, "else the pattern has missed them"


def test_every_package_is_on_the_map() -> None:
    shown = re.search(r"```\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert shown is not None
    on_map = set(re.findall(r"(\w+)/", shown[1]))
    packages = {path.name for path in SERVICES.iterdir() if (path / "__init__.py").exists()}
    packages |= {
        path.name for path in (SERVICES / "editing").iterdir() if (path / "__init__.py").exists()
    }
    assert packages <= on_map


def test_files_and_functions_are_short() -> None:
    found = []
    for path in SOURCES:
        text = path.read_text(encoding="utf-8")
        if text.count("\n") > MAX_FILE_LINES:
            found.append(f"{path.relative_to(ROOT)} has {text.count(chr(10))} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or 0) - node.lineno + 1
                if lines > MAX_FUNCTION_LINES:
                    found.append(f"{path.relative_to(ROOT)}: {node.name} has {lines} lines")
    assert not found


def test_no_code_outside_the_slices_compares_with_a_methods_name() -> None:
    """Suites and baselines of the benchmarks are about a method; they choose one, as users do."""
    names = set(methods())
    found = []
    for path in SOURCES:
        if path.is_relative_to(SERVICES / "editing") and path.parent.name in names:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            literals = node.comparators if isinstance(node, ast.Compare) else ()
            cases = [node.value] if isinstance(node, ast.MatchValue) else ()
            if any(isinstance(x, ast.Constant) and x.value in names for x in (*literals, *cases)):
                found.append(f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}")
    assert not found


def test_slices_have_the_same_files() -> None:
    for name in methods():
        folder = SERVICES / "editing" / name
        own = {path.name for path in folder.glob("*.py")}
        assert {"config.py", "fit.py", "state.py", "view.py", "lane.py"} <= own


def test_message_types_end_at_the_convert_modules() -> None:
    """Handlers name their requests; `_pb2_grpc` makes stubs and adds services to servers."""
    messages = re.compile(r"\b\w+_pb2\b(?!_grpc)")
    found = []
    for path in sorted(SERVICES.rglob("*.py")):
        if path.name == "service.py" or path.stem.split("_")[-1] == "convert":
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            if messages.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}")
    assert not found


def test_all_that_is_printed_goes_through_two_modules() -> None:
    """They escape texts from outside; rich's own classes and `typer.echo` print whatever comes."""
    printing = {"Console", "Table", "Text", "echo", "from_markup", "assemble", "print_json"}
    own = (SERVICES / "launch" / "terminal.py", SERVICES / "launch" / "output.py")
    found = []
    for path in SOURCES:
        if not path.is_relative_to(SERVICES) or path in own:
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        ours = {
            alias.asname or alias.name
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("errata.")
            for alias in node.names
        }
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call):
                continue
            called = node.func
            name = getattr(called, "id", getattr(called, "attr", ""))
            if name in printing - ours:
                found.append(f"{path.relative_to(ROOT)}:{node.lineno} calls {name}")
    assert not found
