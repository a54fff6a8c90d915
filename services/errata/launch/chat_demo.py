"""`errata demo` with a chat model: every method corrects one fact, in chat and as plain text."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from errata import demo
from errata.demo import ChatEdit, says
from errata.launch import show
from errata.launch.box import Box, free_addresses
from errata.launch.model_import import PACKAGED, import_model
from errata.launch.output import TextTable, line
from errata.launch.progress import Steps
from errata.launch.verdicts import Verdicts
from errata_client import Answer, Chat, ChatMessage, Client, Edit, Prompt

_TIMEOUT_SECONDS = 300.0
_MAX_TOKENS = 24
_MAX_CONTEXT = 512  # of the workers: their keys and values take 24 MB a row
_NUM_NEIGHBOURS = 2
_PARAGRAPHS = 400  # of text for statistics
_LANES = {
    "adaple": "lanes/main",
    "recipe": "lanes/facts",
    "elder": "lanes/mixture",
    "lemoe": "lanes/experts",
}
_IN_CHAT = ("recipe",)  # its edit is submitted as a conversation, the others as texts


def run_chat_demo(
    console: Console, model: Path, prepared: Path, *, redis_url: str | None = None
) -> bool:
    """Starts a system with a chat model in a temporary folder, edits it, and stops it.

    Args:
        console: receives the story.
        model: folder of SmolLM2.
        prepared: folder that keeps the model's statistics for the next time.
        redis_url: a Redis to use; None starts one.

    Returns:
        Whether every claim held.

    Raises:
        StartupError: the system did not start.
    """
    started = time.monotonic()
    verdicts = Verdicts(console)
    with _running(console, model, prepared, redis_url) as client:
        console.print(line((f"up after {time.monotonic() - started:.0f} s", "dim")))
        edits = demo.chat_edits()
        timings = [_show_method(console, client, verdicts, edit) for edit in edits.values()]
        console.print()
        console.print(show.replica_table(client.replicas(), client.head()))
        console.print(_timings(edits.values(), timings))
    console.print()
    console.print(line(verdicts.summary, f" · {time.monotonic() - started:.0f} s in all"))
    return verdicts.all_hold


def packaged_model(prepared: Path, console: Console) -> Path:
    """The folder of SmolLM2, which is imported from its package the first time.

    Raises:
        PreconditionError: the package is not installed.
    """
    folder = prepared / "model"
    if not (folder / "config.json").is_file():
        prepared.mkdir(parents=True, exist_ok=True)
        console.print(f"importing {PACKAGED} once, into {folder}", soft_wrap=True)
        import_model(PACKAGED, folder, dtype="float32", device="cpu", console=console)
    return folder


@contextmanager
def _running(
    console: Console, model: Path, prepared: Path, redis_url: str | None
) -> Iterator[Client]:
    steps = Steps(console)
    with tempfile.TemporaryDirectory(prefix="errata-demo-") as folder:
        data_dir = Path(folder)
        statistics = prepared / "statistics"
        statistics.mkdir(parents=True, exist_ok=True)
        (data_dir / "statistics").symlink_to(statistics.absolute())
        text = data_dir / "text.txt"
        text.write_text("\n".join(demo.load_corpus().training_text(0, _PARAGRAPHS)), "utf-8")
        addresses = free_addresses()
        lanes = {"lanes_file": demo.chat_lanes_path(), "statistics_text": text}
        flags = {
            **addresses,
            "data_dir": data_dir,
            "model": {"path": str(model)},
            "writer": {**addresses["writer"], **lanes},
            "worker": {"max_context": _MAX_CONTEXT},
        }
        box = Box(flags, redis_url=redis_url, steps=steps, secure=True)
        box.__enter__()
        try:
            with Client(
                box.target, timeout=_TIMEOUT_SECONDS, credentials=box.credentials
            ) as client:
                yield client
        finally:
            with steps.doing("stopping"):
                box.stop()


def _show_method(
    console: Console, client: Client, verdicts: Verdicts, edit: ChatEdit
) -> tuple[float, int]:
    """Asks, edits, asks again and reverts; returns seconds to the commit and bytes of the edit."""
    lane = _LANES[edit.method]
    asked: list[Prompt] = [
        edit.prompt,
        *edit.rephrases,
        *map(_chat, (edit.question, *edit.question_rephrases)),
    ]
    near = edit.neighbours[:_NUM_NEIGHBOURS]
    console.print()
    console.print(
        line((edit.method, "bold"), f" in {lane}: {edit.subject} → ", (edit.target, "bold"))
    )
    before = [_ask(client, prompt) for prompt in asked]
    for prompt, answer in zip(asked, before, strict=True):
        verdicts.check(_line(prompt, answer), says(answer.text, edit.object, edit.target))
    stays = {
        prompt: _ask(client, prompt)
        for probe in near
        for prompt in (probe.prompt, _chat(probe.question))
    }
    begun = time.monotonic()
    committed = _submit(client, edit, lane)
    seconds = time.monotonic() - begun
    form = "chat" if edit.method in _IN_CHAT else "text"
    told = f"  submitted as {form}; committed in {seconds:.1f} s as {committed.name}"
    console.print(line((told, "dim")))
    for prompt in asked:
        answer = _ask(client, prompt)
        verdicts.check(
            _line(prompt, answer),
            says(answer.text, edit.target, edit.object)
            and committed.name in answer.provenance.edits,
        )
    for prompt, old in stays.items():
        answer = _ask(client, prompt)
        verdicts.check(line(_line(prompt, answer), ", as before"), _same(answer, old))
    client.revert([committed.name], comment="end of the demo", author="errata demo")
    restored = [_ask(client, prompt) for prompt in asked]
    verdicts.check(
        f"{committed.name} is reverted: every old answer is back, and no edit shapes it",
        [answer.text for answer in restored] == [answer.text for answer in before]
        and not any(answer.provenance.edits for answer in restored),
    )
    return seconds, committed.artifact_size


def _submit(client: Client, edit: ChatEdit, lane: str) -> Edit:
    in_chat = edit.method in _IN_CHAT
    texts: list[Prompt] = [edit.prompt, *edit.rephrases]
    questions: list[Prompt] = [_chat(edit.question), *map(_chat, edit.question_rephrases)]
    prompt, *others = questions + texts if in_chat else texts + questions
    return client.edit(
        prompt,
        edit.target,
        subject=edit.subject,
        rephrases=others,
        source="errata demo",
        lane=lane,
        author="errata demo",
    )


def _chat(question: str) -> Chat:
    return Chat((ChatMessage("user", question),))


def _ask(client: Client, prompt: Prompt) -> Answer:
    stop = ["."] if isinstance(prompt, str) else []
    return client.generate(prompt, max_tokens=_MAX_TOKENS, stop=stop)


def _same(answer: Answer, old: Answer) -> bool:
    """Whether an answer names the same things: a change of weights can move other words."""
    return answer.text.split()[: _MAX_TOKENS // 4] == old.text.split()[: _MAX_TOKENS // 4]


def _line(prompt: Prompt, answer: Answer) -> Text:
    said = " ".join(answer.text.split())
    if isinstance(prompt, Chat):
        return line(("chat", "dim"), f" {prompt.messages[-1].content} ", (said, "bold"))
    return line(("text", "dim"), f" {prompt} ", (said, "bold"))


def _timings(edits: Iterable[ChatEdit], timings: Iterable[tuple[float, int]]) -> Table:
    table = TextTable("method", "edit committed in", "edit's artifact", title="timings")
    for edit, (seconds, size) in zip(edits, timings, strict=True):
        table.add_row(edit.method, f"{seconds:.1f} s", f"{size / 1e6:.2f} MB")
    return table
