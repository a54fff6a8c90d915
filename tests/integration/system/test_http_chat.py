"""Conversations over HTTP, with a model that has a chat template, while edits are committed."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from openai import AsyncOpenAI, BadRequestError, OpenAI
from typer.testing import CliRunner

from errata import demo
from errata.cli import app
from errata.demo import Corpus
from errata.evaluation.edit.exposure import GROUPS
from errata.launch.box import Box, free_addresses
from errata_client import Chat, ChatMessage, Client
from tests.integration.system.test_bench_edit import write_records
from tests.integration.system.test_examples import openai_variables, run_example
from tests.waiting import PATIENCE

# Turns are lines, so that the demo model continues what the user says. It shows tools, and refuses
# what they say.
TEMPLATE = (
    "{% if tools %}{% for tool in tools %}{{ tool['function']['name'] }}\n{% endfor %}{% endif %}"
    "{% for message in messages %}{% if message['role'] == 'tool' %}"
    "{{ raise_exception('tools are not heard') }}{% endif %}"
    "{{ message['content'] }}{% if not loop.last %}\n{% endif %}{% endfor %}"
)
PROMPT = "The capital of France is"
USER = {"role": "user", "content": PROMPT}


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    """The demo model with a template, and one lane, which needs no statistics."""
    folder = tmp_path_factory.mktemp("chat")
    shutil.copytree(demo.model_path(), folder / "taught")
    config = folder / "taught/tokenizer_config.json"
    read = json.loads(config.read_text("utf-8"))
    config.write_text(json.dumps({**read, "chat_template": TEMPLATE}), encoding="utf-8")
    recipe = demo.lanes_path().parent / "recipe"
    (folder / "lanes.toml").write_text(
        f'[lanes.facts]\nmethod = "recipe"\nmodel = "{recipe}"\n', encoding="utf-8"
    )
    (folder / "text").write_text("Nobody reads this.\n", encoding="utf-8")
    addresses = free_addresses()
    flags: dict[str, Any] = {
        **addresses,
        "data_dir": folder / "data",
        "model": {"path": str(folder / "taught")},
        "worker": {"num_replicas": 2},
        "gateway": {**addresses["gateway"], "http_model_aliases": "gpt-0, other"},
        "writer": {
            **addresses["writer"],
            "lanes_file": folder / "lanes.toml",
            "default_lane": "lanes/facts",
            "statistics_text": folder / "text",
        },
    }
    with Box(flags) as made:
        yield made


@pytest.fixture
def client(box: Box) -> Iterator[Client]:
    with Client(box.target, timeout=PATIENCE) as made:
        yield made


@pytest.fixture
def openai(box: Box) -> Iterator[OpenAI]:
    with OpenAI(
        base_url=f"{box.http_url}/v1",
        api_key="none",
        max_retries=0,
        timeout=PATIENCE,
        default_headers={"X-Request-Timeout": str(PATIENCE)},
    ) as made:
        yield made


def _asked(messages: list[Any], **more: Any) -> dict[str, Any]:
    return {"model": "taught", "messages": messages, "temperature": 0, "max_tokens": 8, **more}


def _answer(openai: OpenAI, messages: list[Any], **more: Any) -> str:
    done = openai.chat.completions.create(**_asked(messages, **more))
    return str(done.choices[0].message.content)


def test_an_answer_is_that_of_grpc(openai: OpenAI, client: Client) -> None:
    expected = client.generate(Chat((ChatMessage("user", PROMPT),)), max_tokens=8)
    done = openai.chat.completions.create(**_asked([USER]))
    (choice,) = done.choices
    assert choice.message.role == "assistant"
    assert choice.message.content == expected.text
    assert choice.finish_reason == expected.finish_reason
    assert done.usage is not None
    assert done.usage.prompt_tokens == expected.num_prompt_tokens
    assert done.usage.completion_tokens == expected.num_tokens
    told = done.model_dump()["errata"]
    assert told["state_digest"] == expected.provenance.state_digest
    assert done.id.startswith("chatcmpl-")


def test_a_stream_begins_with_the_role_and_has_the_same_text(openai: OpenAI) -> None:
    options: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}}
    *chunks, last = openai.chat.completions.create(**_asked([USER], **options))
    deltas = [chunk.choices[0].delta for chunk in chunks]
    assert [delta.role for delta in deltas] == ["assistant"] + [None] * (len(deltas) - 1)
    assert "".join(delta.content or "" for delta in deltas) == _answer(openai, [USER])
    assert chunks[-1].choices[0].finish_reason == "length"
    assert last.usage is not None
    assert last.usage.completion_tokens == 8
    options["stream_options"]["continuous_usage_stats"] = True
    counted = list(openai.chat.completions.create(**_asked([USER], **options)))
    numbers = [chunk.usage.completion_tokens for chunk in counted]
    assert numbers == sorted(numbers)
    assert numbers[-1] == 8


async def test_the_async_client_streams(box: Box, openai: OpenAI) -> None:
    async with AsyncOpenAI(
        base_url=f"{box.http_url}/v1", api_key="none", max_retries=0, timeout=PATIENCE
    ) as other:
        stream = await other.chat.completions.create(**_asked([USER], stream=True))
        found = [chunk.choices[0].delta.content or "" async for chunk in stream]
        whole = await other.chat.completions.create(**_asked([USER]))
    assert "".join(found) == whole.choices[0].message.content == _answer(openai, [USER])


def test_curl_asks_for_a_stream(box: Box, openai: OpenAI) -> None:
    url = f"{box.http_url}/v1/chat/completions"
    body = json.dumps(_asked([USER], stream=True))
    command = ["curl", "--silent", "--no-buffer", "--data", body, url]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    *events, end, rest = done.stdout.split("\n\n")
    assert (end, rest) == ("data: [DONE]", "")
    deltas = [json.loads(e.removeprefix("data: "))["choices"][0]["delta"] for e in events]
    assert "".join(delta["content"] for delta in deltas) == _answer(openai, [USER])


def test_an_answer_without_a_limit_takes_what_the_window_leaves(openai: OpenAI) -> None:
    limit = openai.models.retrieve("taught").model_dump()["max_model_len"]
    asked = _asked([USER])
    del asked["max_tokens"]
    done = openai.chat.completions.create(**asked)
    assert done.usage is not None
    filled = done.usage.total_tokens == limit
    assert done.choices[0].finish_reason == ("length" if filled else "stop")
    done = openai.chat.completions.create(**asked, max_completion_tokens=3)
    assert done.usage is not None
    assert done.usage.completion_tokens == 3


def test_messages_have_the_forms_of_the_api(openai: OpenAI, client: Client) -> None:
    plain = _answer(openai, [USER])
    parts = [{"type": "text", "text": "The capital "}, {"type": "text", "text": "of France is"}]
    assert _answer(openai, [{"role": "user", "content": parts}]) == plain
    rule = "The capital of Italy is Rome."
    told = [
        _answer(openai, [{"role": role, "content": rule}, USER]) for role in ("system", "developer")
    ]
    assert told[0] == told[1]
    first = openai.chat.completions.create(**_asked([USER], stop="."))
    said = str(first.choices[0].message.content)
    turns = [("user", PROMPT), ("assistant", said), ("user", "The capital of Italy is")]
    expected = client.generate(Chat(tuple(ChatMessage(*turn) for turn in turns)), max_tokens=8)
    more = [USER, first.choices[0].message, {"role": "user", "content": "The capital of Italy is"}]
    assert _answer(openai, more) == expected.text
    begun = [{"role": "user", "content": "Go on."}, {"role": "assistant", "content": PROMPT}]
    extra = {"continue_final_message": True, "add_generation_prompt": False}
    expected = client.generate(
        Chat(
            (ChatMessage("user", "Go on."), ChatMessage("assistant", PROMPT)),
            continue_final_message=True,
        ),
        max_tokens=8,
    )
    assert _answer(openai, begun, extra_body=extra) == expected.text


def test_tools_reach_the_template(openai: OpenAI) -> None:
    tool = {"type": "function", "function": {"name": "look_up_capitals", "parameters": {}}}

    def num_read(**more: Any) -> int:
        done = openai.chat.completions.create(**_asked([USER], **more))
        assert done.usage is not None
        return done.usage.prompt_tokens

    assert num_read(tools=[tool]) > num_read()
    assert num_read(tools=[tool], tool_choice="none") == num_read()
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    turns = [USER, {"role": "assistant", "content": None, "tool_calls": [call]}]
    assert _answer(openai, [*turns, USER]).startswith(" Paris")


def test_log_probabilities_are_those_of_grpc(openai: OpenAI, client: Client) -> None:
    expected = client.generate(
        Chat((ChatMessage("user", PROMPT),)), max_tokens=4, num_alternatives=2
    ).tokens
    asked = _asked([USER], max_tokens=4, logprobs=True, top_logprobs=2)
    found = openai.chat.completions.create(**asked).choices[0].logprobs
    assert found is not None
    assert found.content is not None
    for value, choice in zip(found.content, expected, strict=True):
        assert value.token == choice.token
        assert value.bytes == list(choice.token.encode())
        assert value.logprob == pytest.approx(choice.log_probability, abs=1e-3)
        assert [one.token for one in value.top_logprobs] == [
            one.token for one in choice.alternatives
        ]


def test_aliases_name_the_model(openai: OpenAI) -> None:
    assert [model.id for model in openai.models.list().data] == ["taught", "gpt-0", "other"]
    done = openai.chat.completions.create(**{**_asked([USER]), "model": "gpt-0"})
    assert done.model == "gpt-0"
    assert openai.models.retrieve("other").id == "other"


@pytest.mark.parametrize(
    ("messages", "param", "message"),
    [
        ([USER, {"role": "tool", "tool_call_id": "1", "content": "x"}], "messages", "not heard"),
        ([{"role": "system", "content": "x"}], "messages", "no last turn of the user"),
        ([{"role": "user", "content": " "}], "messages", "no last turn of the user"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_the_template_refuses_is_refused(
    openai: OpenAI, messages: list[Any], param: str, message: str, stream: bool
) -> None:
    with pytest.raises(BadRequestError, match=message) as caught:
        openai.chat.completions.create(**_asked(messages, stream=stream))
    assert (caught.value.param, caught.value.code) == (param, "invalid_request")


@pytest.mark.promise("P5")
def test_an_edit_answers_what_the_user_says(openai: OpenAI, client: Client, corpus: Corpus) -> None:
    edit = corpus.demo_edits()[1]
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": edit.prompt}]
    done = client.edit(edit.prompt, edit.target, subject=edit.subject)
    extra = {"min_seq": done.commit_seq}
    answer = openai.chat.completions.create(**_asked(turns, extra_body=extra))
    assert done.name in answer.model_dump()["errata"]["edits"]
    assert str(answer.choices[0].message.content).strip().startswith(edit.target)
    client.revert([done.name])


def test_a_conversation_is_corrected_as_json(openai: OpenAI, box: Box, corpus: Corpus) -> None:
    edit = corpus.demo_edits()[4]
    turns = [{"role": "user", "content": edit.prompt}]
    # The template puts nothing between the user's words and the answer.
    said = {"target": edit.target, "subject": edit.subject, "separator": " "}
    spec = {"chat": {"messages": turns}, **said}
    with httpx2.Client(base_url=box.http_url, timeout=PATIENCE) as http:
        (accepted,) = http.post("/v1/edits", json={"edits": [spec]}).json()["edits"]
        waited = http.post(
            "/v1/edits:wait",
            json={"names": [accepted["name"]]},
            headers={"X-Request-Timeout": str(PATIENCE)},
        )
        (done,) = waited.json()["edits"]
        assert done["state"] == "STATE_COMMITTED", done
        assert done["spec"]["chat"]["messages"][0]["content"] == edit.prompt
        asked = _asked(turns, extra_body={"min_seq": int(done["commit_seq"])})
        answer = str(openai.chat.completions.create(**asked).choices[0].message.content)
        assert answer.strip().startswith(edit.target)
        http.post("/v1/edits:revert", json={"names": [done["name"]]}).raise_for_status()


def test_both_apis_are_compared(box: Box, tmp_path: Path) -> None:
    where = ["--target", box.target, "--http-url", box.http_url, "--out", str(tmp_path)]
    size = ["--rounds", "2", "--requests", "12", "--concurrency", "4"]
    done = CliRunner().invoke(app, ["bench", "serve", "--suite", "http", *where, *size])
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "result.json").read_text("utf-8"))
    assert found["p50_ratio"].keys() == {"ttft", "e2e"}
    assert found["requests"] == 4 * 2 * 12
    assert found["ratio"] > 0


def test_a_benchmark_asks_a_cluster_in_chat_as_in_process(
    box: Box, corpus: Corpus, tmp_path: Path
) -> None:
    data = tmp_path / "facts.json"
    write_records(corpus, data)
    recipe = demo.lanes_path().parent / "recipe"
    model = box.settings.data_dir.parent / "taught"
    text = ["--text", str(model.parent / "text"), "--lane-model", str(recipe)]
    found = {}
    for name, where in {"through": ["--target", box.target], "inside": text}.items():
        out = tmp_path / name
        asked = ["--form", "both", "--generate", "4", "--edits", "4", "--batch", "4"]
        common = ["--method", "recipe", "--data", str(data), "--model", str(model)]
        done = CliRunner().invoke(
            app, ["bench", "edit", "--out", str(out), *common, *asked, *where]
        )
        assert done.exit_code == 0, done.output
        found[name] = json.loads((out / "result.json").read_text("utf-8"))
    assert found["through"]["num_rejected"] == found["inside"]["num_rejected"] == 0
    for stage in ("pre", "immediate", "final"):
        through, inside = found["through"][stage], found["inside"][stage]
        inside.pop("claims", None)  # a cluster does not tell what claims a prompt
        for group in GROUPS:  # nor what its lane model has seen
            inside.pop(group, None)
            through.pop(group, None)
        for ours, theirs in ((through, inside), (through["chat"], inside["chat"])):
            # Its last digit depends on the shape of a batch.
            assert ours.pop("target_perplexity") == pytest.approx(
                theirs.pop("target_perplexity"), rel=1e-3
            )
        assert through == inside, stage
        assert through["chat"] != {key: through[key] for key in through["chat"]}, stage
    assert found["inside"]["final"]["generation"]["reliability"] > 0.5, "the edits took"


@pytest.mark.promise("P5", "P6", "P7")
def test_under_load_no_chat_is_stale_mixed_or_lost(box: Box, tmp_path: Path) -> None:
    where = ["--target", box.target, "--api", "http", "--http-url", box.http_url]
    load = ["--seconds", "8", "--rate", "8", "--edit-rate", "1", "--lane", "lanes/facts"]
    command = ["bench", "serve", "--suite", "load", "--out", str(tmp_path), *where, *load]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "result.json").read_text("utf-8"))
    assert found["path"] == "/v1/chat/completions"
    assert found["requests"] > 20
    for name in ("errors", "lost_requests", "stale_answers", "mixed_version_answers"):
        assert found[name] == 0, (name, found["errors_by_status"])
    assert found["replicas_seen"] == 2
    assert found["edits_committed"] > 0
    assert found["read_your_writes_requests"] > 0


def test_the_example_of_the_openai_client_chats(box: Box) -> None:
    said = run_example("openai_client.py", PROMPT, environment=openai_variables(box.http_url))
    assert "Paris" in said
    assert "position: " in said


def test_the_example_of_langchain_chats(box: Box) -> None:
    pytest.importorskip("langchain_openai", reason="no dependency of Errata; 55 MB")
    said = run_example("langchain_chat.py", PROMPT, environment=openai_variables(box.http_url))
    assert "Paris" in said
