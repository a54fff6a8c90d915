"""`errata demo --model tiny`: shows the main job; checks every claim that it prints."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rich.console import Console
from rich.panel import Panel

from errata import demo
from errata.demo import DemoEdit
from errata.errors import UnavailableError
from errata.launch import show
from errata.launch.box import Box, free_addresses
from errata.launch.output import TextTable, line
from errata.launch.progress import Steps
from errata.launch.verdicts import Verdicts
from errata_client import Answer, Client, Edit, ReplicaAnswer

_TIMEOUT_SECONDS = 120.0
_MAX_TOKENS = 12
_PROMPT_LANE = "lanes/facts"
_LANES = ("lanes/main", _PROMPT_LANE, "lanes/mixture", "lanes/experts")


def run_demo(console: Console, *, redis_url: str | None = None) -> bool:
    """Starts a system on free ports in a temporary folder, shows the main job, stops the system.

    Returns:
        Whether every claim held.

    Raises:
        StartupError: the system did not start.
    """
    started = time.monotonic()
    verdicts = Verdicts(console)
    with tempfile.TemporaryDirectory(prefix="errata-demo-") as folder:
        flags = {"data_dir": Path(folder), **free_addresses()}
        box = Box(flags, redis_url=redis_url, steps=Steps(console), secure=True)
        box.__enter__()
        try:
            up = f"up after {time.monotonic() - started:.1f} s: Redis, edit log, edit-writer, "
            console.print(line((f"{up}gateway and two LLM workers", "dim")))
            with Client(
                box.target, timeout=_TIMEOUT_SECONDS, credentials=box.credentials
            ) as client:
                first, second, *others = demo.load_corpus().demo_edits()
                _show_main_job(console, client, verdicts, first)
                _show_prompt_lane(console, client, verdicts, second)
                _show_every_method(console, client, verdicts, others)
                console.print(show.replica_table(client.replicas(), client.head()))
        finally:
            with Steps(console).doing("stopping"):
                box.stop()
    console.print()
    console.print(line(verdicts.summary, f" · {time.monotonic() - started:.1f} s in all"))
    return verdicts.all_hold


def _show_main_job(console: Console, client: Client, verdicts: Verdicts, edit: DemoEdit) -> None:
    before = _ask(console, client, f"1 · Ask: {edit.prompt} …", edit.prompt)
    old = _texts(before)
    unrelated = [probe.prompt for probe in (*edit.neighbours, *edit.same_subject)]
    stays = {
        prompt: _texts(client.generate_everywhere(prompt, max_tokens=_MAX_TOKENS, stop=["."]))
        for prompt in unrelated
    }
    verdicts.check(f"both replicas answer “{old[0]}”, and agree", _agree(before))

    _headline(console, "2 · Edit:", edit)
    committed, after, committed_seconds, served_seconds = _correct(client, edit, unrelated)
    console.print(Panel(show.edit_lines(committed), expand=False))
    took = f"  accepted, fitted, checked and committed in {committed_seconds:.2f} s; served by "
    console.print(line((f"{took}every replica after {served_seconds:.2f} s", "dim")))

    console.print(show.everywhere_table(f"3 · From seq {committed.commit_seq} on", after))
    verdicts.check(
        f"every replica answers “{edit.target}”, at seq {committed.commit_seq} or later",
        set(_texts(after)) == {edit.target}
        and all(a.answer.provenance.applied_seq >= committed.commit_seq for a in after if a.answer),
    )
    verdicts.check("the replicas agree: same history, same state", _agree(after))
    verdicts.check(
        "every answer names the edit that shaped it",
        all(committed.name in item.answer.provenance.edits for item in after if item.answer),
    )

    _headline(console, "4 · Paraphrases follow, unrelated facts stay")
    for rephrase in edit.rephrases:
        texts = _texts(client.generate_everywhere(rephrase, max_tokens=_MAX_TOKENS, stop=["."]))
        verdicts.check(line(f"{rephrase} ", (texts[0], "bold")), set(texts) == {edit.target})
    for prompt, expected in stays.items():
        texts = _texts(client.generate_everywhere(prompt, max_tokens=_MAX_TOKENS, stop=["."]))
        verdicts.check(line(f"{prompt} ", (texts[0], "bold")), texts == expected)

    _headline(console, f"5 · Revert {committed.name}")
    reversal = client.revert([committed.name], comment="end of the demo", author="errata demo")
    console.print(show.reversal_lines(reversal))
    restored = _ask(console, client, f"6 · From seq {reversal.seq} on", edit.prompt)
    verdicts.check(f"the old answer “{old[0]}” is back", _texts(restored) == old)
    verdicts.check(
        "the state is that of the unedited model, bit for bit",
        _states(restored) == _states(before),
    )
    console.print()
    console.print(show.entry_table(client.entries()))
    _summary(console, committed_seconds, served_seconds)


def _show_prompt_lane(console: Console, client: Client, verdicts: Verdicts, edit: DemoEdit) -> None:
    """The same by retrieval: without gradients, and with a sentinel that defers other prompts."""
    _headline(console, f"7 · In {_PROMPT_LANE}:", edit)
    stays = {
        probe.prompt: client.generate(probe.prompt, max_tokens=_MAX_TOKENS, stop=["."]).text
        for probe in edit.neighbours
    }
    committed, after, committed_seconds, served_seconds = _correct(client, edit, lane=_PROMPT_LANE)
    took = f"  encoded, checked and committed in {1000 * committed_seconds:.0f} ms; served by "
    console.print(line((f"{took}every replica after {1000 * served_seconds:.0f} ms", "dim")))
    for prompt, answers in (
        (edit.prompt, after),
        *(
            (text, client.generate_everywhere(text, max_tokens=_MAX_TOKENS, stop=["."]))
            for text in edit.rephrases
        ),
    ):
        named = all(a.answer and a.answer.provenance.edits == (committed.name,) for a in answers)
        texts = _texts(answers)
        claim = line(f"{prompt} ", (texts[0], "bold"), f", shaped by {committed.name}")
        verdicts.check(claim, set(texts) == {edit.target} and named)
    for prompt, old in stays.items():
        answer = client.generate(prompt, max_tokens=_MAX_TOKENS, stop=["."])
        verdicts.check(
            line(
                f"{prompt} ",
                (answer.text.strip(), "bold"),
                ": the sentinel finds no edit for it",
            ),
            answer.text == old and not answer.provenance.edits,
        )
    client.revert([committed.name], comment="end of the demo", author="errata demo")


def _show_every_method(
    console: Console, client: Client, verdicts: Verdicts, edits: Sequence[DemoEdit]
) -> None:
    """An edit by each method; rows of all methods share each replica's batch."""
    methods = {lane.name: lane.method for lane in client.lanes()}
    _headline(console, "8 · One edit by each method, all asked of every replica at once")
    by_lane = dict(zip(_LANES, edits, strict=False))
    probe = edits[0].neighbours[0].prompt
    old = client.generate(probe, max_tokens=_MAX_TOKENS, stop=["."]).text
    committed = {lane: _correct(client, edit, lane=lane) for lane, edit in by_lane.items()}
    asked = [*(edit.prompt for edit in by_lane.values()), probe]
    with ThreadPoolExecutor(len(asked)) as threads:
        received = list(threads.map(lambda prompt: _everywhere(client, prompt), asked))
    for (lane, edit), answers in zip(by_lane.items(), received, strict=False):
        made, _, seconds, _ = committed[lane]
        verdicts.check(
            line(
                f"{methods[lane]}, committed in {seconds:.2f} s: {edit.prompt} ",
                (_joined(answers), "bold"),
            ),
            all(
                answer.text.strip() == edit.target and made.name in answer.provenance.edits
                for answer in answers
            ),
        )
    verdicts.check(
        line(f"{probe} ", (_joined(received[-1]), "bold"), ", as before"),
        all(answer.text == old for answer in received[-1]),
    )
    for made, *_ in committed.values():
        client.revert([made.name], comment="end of the demo", author="errata demo")


def _headline(console: Console, title: str, edit: DemoEdit | None = None) -> None:
    console.print()
    about = () if edit is None else (f" {edit.prompt} ", (edit.target, "bold"))
    console.print(line((title, "bold"), *about))


def _everywhere(client: Client, prompt: str) -> list[Answer]:
    """Every replica's answer.

    Raises:
        UnavailableError: a replica did not answer.
    """
    received = client.generate_everywhere(prompt, max_tokens=_MAX_TOKENS, stop=["."])
    answers = [item.answer for item in received if item.answer is not None]
    if not answers or len(answers) < len(received):
        raise UnavailableError(f"{len(answers)} of {len(received)} replicas answered {prompt!r}.")
    return answers


def _joined(answers: Sequence[Answer]) -> str:
    return " / ".join(sorted({answer.text.strip() for answer in answers}))


def _correct(
    client: Client, edit: DemoEdit, probes: Sequence[str] = (), lane: str = ""
) -> tuple[Edit, list[ReplicaAnswer], float, float]:
    """The edit, every replica's answer with it, and the seconds until each was available."""
    begun = time.monotonic()
    committed = client.edit(
        edit.prompt,
        edit.target,
        subject=edit.subject,
        rephrases=edit.rephrases,
        locality_probes=probes,
        source="errata demo",
        lane=lane,
        author="errata demo",
    )
    committed_seconds = time.monotonic() - begun
    after = client.generate_everywhere(edit.prompt, max_tokens=_MAX_TOKENS, stop=["."])
    return committed, after, committed_seconds, time.monotonic() - begun


def _ask(console: Console, client: Client, title: str, prompt: str) -> list[ReplicaAnswer]:
    answers = client.generate_everywhere(prompt, max_tokens=_MAX_TOKENS, stop=["."])
    console.print()
    console.print(show.everywhere_table(title, answers))
    return answers


def _texts(answers: Sequence[ReplicaAnswer]) -> list[str]:
    return [item.answer.text.strip() if item.answer else item.error for item in answers]


def _states(answers: Sequence[ReplicaAnswer]) -> set[str]:
    return {item.answer.provenance.state_digest if item.answer else "" for item in answers}


def _agree(answers: Sequence[ReplicaAnswer]) -> bool:
    """Whether two or more replicas give one answer, and the same digests at the same position."""
    if len(answers) < 2 or any(item.answer is None for item in answers):
        return False
    positions = {
        (p.applied_seq, p.chain_digest, p.state_digest)
        for p in (item.answer.provenance for item in answers if item.answer)
    }
    return len(set(_texts(answers))) == 1 and len({seq for seq, _, _ in positions}) == len(
        positions
    )


def _summary(console: Console, committed_seconds: float, served_seconds: float) -> None:
    table = TextTable(title="timings", show_header=False)
    table.add_row("edit accepted, fitted, checked, committed", f"{committed_seconds:.2f} s")
    table.add_row("edit served by every replica", f"{served_seconds:.2f} s")
    console.print(table)
