"""The OpenAI API with its own client: whole answers and streams, sync and async."""

from __future__ import annotations

import asyncio
import json
import math
import subprocess
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx2
import pytest
from openai import AsyncOpenAI, BadRequestError, OpenAI, RateLimitError

from errata.demo import Corpus
from errata_client import Client, Sampling
from tests.integration.log.harness import eventually
from tests.integration.system.conftest import MAX_QUEUE, System
from tests.integration.system.rows import num_finished, num_running
from tests.waiting import PATIENCE

PROMPT = "The capital of France is"
HOT: dict[str, Any] = {"temperature": 9.0, "max_tokens": 450}


@pytest.fixture
def openai(system: System) -> Iterator[OpenAI]:
    url = f"{system.http_url}/v1"
    with OpenAI(base_url=url, api_key="none", max_retries=0, timeout=PATIENCE) as made:
        yield made


@pytest.fixture
async def async_openai(system: System) -> AsyncIterator[AsyncOpenAI]:
    url = f"{system.http_url}/v1"
    patience = {"X-Request-Timeout": str(PATIENCE)}
    async with AsyncOpenAI(
        base_url=url, api_key="none", max_retries=0, timeout=PATIENCE, default_headers=patience
    ) as made:
        yield made


@pytest.fixture
def model(openai: OpenAI) -> str:
    return openai.models.list().data[0].id


def test_the_model_is_listed_and_found(openai: OpenAI, client: Client, model: str) -> None:
    (listed,) = openai.models.list().data
    found = openai.models.retrieve(model)
    assert listed == found
    assert found.object == "model"
    told = found.model_dump()
    served = client.model()
    assert (found.id, told["max_model_len"]) == (served.name, served.max_positions)
    assert told["has_chat_template"] is served.has_chat_template is False


def test_an_answer_is_that_of_grpc_and_tells_its_state(
    openai: OpenAI, client: Client, model: str
) -> None:
    expected = client.generate(PROMPT, max_tokens=8)
    raw = openai.completions.with_raw_response.create(
        model=model, prompt=PROMPT, max_tokens=8, temperature=0
    )
    answer = raw.parse()
    assert answer.choices[0].text == expected.text
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == expected.num_tokens == 8
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 8
    told, provenance = answer.model_dump()["errata"], expected.provenance
    assert told["applied_seq"] == provenance.applied_seq
    assert told["state_digest"] == provenance.state_digest
    assert told["chain_digest"] == provenance.chain_digest
    assert raw.headers["X-Errata-Applied-Seq"] == str(provenance.applied_seq)
    assert raw.headers["X-Errata-State-Digest"] == provenance.state_digest
    assert raw.headers["X-Errata-Replica"] == told["replica"]
    assert answer.system_fingerprint == f"fp_{provenance.state_digest[:12]}"


def test_a_stream_is_the_whole_answer_in_pieces_of_one_state(openai: OpenAI, model: str) -> None:
    asked: dict[str, Any] = {"model": model, "prompt": PROMPT, "max_tokens": 12, "temperature": 0}
    whole = openai.completions.create(**asked)
    chunks = list(
        openai.completions.create(**asked, stream=True, stream_options={"include_usage": True})
    )
    *pieces, last = chunks
    assert "".join(piece.choices[0].text for piece in pieces) == whole.choices[0].text
    assert [piece.choices[0].finish_reason for piece in pieces if piece.choices[0].finish_reason]
    assert pieces[-1].choices[0].finish_reason == "length"
    assert last.choices == []
    assert last.usage == whole.usage
    assert all(piece.usage is None for piece in pieces)
    states = {json.dumps(chunk.model_dump()["errata"]) for chunk in chunks}
    assert len(states) == 1
    assert len({chunk.id for chunk in chunks}) == 1


async def test_the_async_client_reads_answers_and_streams(
    async_openai: AsyncOpenAI, client: Client
) -> None:
    model = (await async_openai.models.list()).data[0].id
    asked: dict[str, Any] = {"model": model, "prompt": PROMPT, "max_tokens": 6, "temperature": 0}
    answer = await async_openai.completions.create(**asked)
    stream = await async_openai.completions.create(**asked, stream=True)
    text = "".join([chunk.choices[0].text async for chunk in stream])
    assert text == answer.choices[0].text == client.generate(PROMPT, max_tokens=6).text


def test_choices_have_seeds_of_their_own_and_one_state(
    openai: OpenAI, client: Client, model: str
) -> None:
    asked: dict[str, Any] = {"model": model, "prompt": PROMPT, "max_tokens": 12, "seed": 40}
    asked |= {"temperature": 1.5, "n": 3}
    answer = openai.completions.create(**asked)
    expected = [
        client.generate(PROMPT, max_tokens=12, sampling=Sampling(temperature=1.5, seed=seed)).text
        for seed in (40, 41, 42)
    ]
    assert [choice.text for choice in answer.choices] == expected
    assert len(set(expected)) > 1, "else the seeds make no difference"
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    states = {choice.model_dump()["errata"]["state_digest"] for choice in answer.choices}
    assert states == {answer.model_dump()["errata"]["state_digest"]}
    texts = Counter[int]()
    streamed: dict[int, str] = {}
    for chunk in openai.completions.create(**asked, stream=True):
        (choice,) = chunk.choices
        streamed[choice.index] = streamed.get(choice.index, "") + choice.text
        texts[choice.index] += choice.finish_reason is not None
    assert [streamed[index] for index in range(3)] == expected
    assert texts == {0: 1, 1: 1, 2: 1}
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == client.generate(PROMPT, max_tokens=1).num_prompt_tokens


def test_each_prompt_has_choices(openai: OpenAI, client: Client, model: str) -> None:
    prompts = [PROMPT, "The capital of Italy is"]
    answer = openai.completions.create(
        model=model, prompt=prompts, n=2, max_tokens=4, temperature=0
    )
    one, other = (client.generate(prompt, max_tokens=4) for prompt in prompts)
    assert [choice.text for choice in answer.choices] == [one.text] * 2 + [other.text] * 2
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == one.num_prompt_tokens + other.num_prompt_tokens
    assert answer.usage.completion_tokens == 16


def test_log_probabilities_are_those_of_grpc(openai: OpenAI, client: Client, model: str) -> None:
    expected = client.generate(PROMPT, max_tokens=5, num_alternatives=3).tokens
    asked: dict[str, Any] = {"model": model, "prompt": PROMPT, "max_tokens": 5, "logprobs": 3}
    found = openai.completions.create(**asked, temperature=0).choices[0]
    assert found.logprobs is not None
    assert found.logprobs.tokens == [choice.token for choice in expected]
    for value, choice in zip(found.logprobs.token_logprobs or (), expected, strict=True):
        assert math.isclose(value or 0, choice.log_probability, abs_tol=1e-3)
    assert all(len(each) == 3 for each in found.logprobs.top_logprobs or ())
    offsets = found.logprobs.text_offset or []
    assert offsets[0] == 0
    assert offsets[3] == len("".join(choice.token for choice in expected[:3]))
    streamed = [
        chunk.choices[0].logprobs
        for chunk in openai.completions.create(**asked, temperature=0, stream=True)
    ]
    assert [offset for each in streamed if each for offset in each.text_offset or ()] == offsets


def test_a_text_stops_where_it_is_told_to(openai: OpenAI, model: str) -> None:
    for stop in (".", ["never said", "."]):
        answer = openai.completions.create(
            model=model, prompt=PROMPT, max_tokens=32, temperature=0, stop=stop
        )
        assert "." not in answer.choices[0].text
        assert answer.choices[0].finish_reason == "stop"


@pytest.mark.promise("P5")
def test_an_edit_is_answered_from_its_commit_on(
    openai: OpenAI, client: Client, model: str, corpus: Corpus
) -> None:
    edit = corpus.demo_edits()[2]
    done = client.edit(edit.prompt, edit.target, subject=edit.subject, lane="lanes/facts")
    asked: dict[str, Any] = {"model": model, "prompt": edit.prompt, "temperature": 0}
    seq = done.commit_seq
    try:
        for how in (
            {"extra_headers": {"X-Errata-Min-Seq": str(seq)}},
            {"extra_body": {"min_seq": seq}},
            {"extra_body": {"errata": {"min_seq": seq}}},
        ):
            raw = openai.completions.with_raw_response.create(**asked, **how)
            answer = raw.parse()
            assert answer.choices[0].text.strip().startswith(edit.target)
            assert done.name in answer.model_dump()["errata"]["edits"]
            assert done.name in raw.headers["X-Errata-Edits"].split(",")
            assert int(raw.headers["X-Errata-Applied-Seq"]) >= seq
    finally:
        client.revert([done.name])


@pytest.mark.promise("P5")
def test_a_position_that_nobody_has_is_refused(openai: OpenAI, model: str) -> None:
    for how in (
        {"extra_headers": {"X-Errata-Min-Seq": "1000000"}},
        {"extra_body": {"min_seq": 10**6}},
        {"extra_body": {"errata": {"min_seq": 10**6}}},
        {"extra_body": {"min_seq": 1}, "extra_headers": {"X-Errata-Min-Seq": "1000000"}},
    ):
        for stream in (False, True):
            asked: dict[str, Any] = {"model": model, "prompt": PROMPT, "stream": stream, **how}
            with pytest.raises(BadRequestError) as caught:
                openai.completions.create(**asked)
            assert caught.value.code == "seq_beyond_head"


async def test_a_flood_is_pushed_back_with_a_delay(async_openai: AsyncOpenAI) -> None:
    model = (await async_openai.models.list()).data[0].id

    async def one() -> str:
        try:
            await async_openai.completions.create(
                model=model, prompt=PROMPT, n=MAX_QUEUE // 4, **(HOT | {"max_tokens": 60})
            )
        except RateLimitError as error:
            has_delay = int(error.response.headers["Retry-After"]) > 0
            return "refused" if has_delay and error.code == "queue_full" else "no delay"
        return "answered"

    told = Counter(await asyncio.gather(*[one() for _ in range(32)]))
    assert set(told) == {"refused", "answered"}, told


async def test_readers_that_leave_free_their_rows(
    async_openai: AsyncOpenAI, system: System
) -> None:
    """Streams after their first piece, and whole answers before they come.

    Were rows not freed, every one of them would finish.
    """
    model = (await async_openai.models.list()).data[0].id
    before = num_finished(system)
    for _ in range(20):
        stream = await async_openai.completions.create(
            model=model, prompt=PROMPT, stream=True, seed=1, n=2, **HOT
        )
        await anext(aiter(stream))
        await stream.close()
    await eventually(lambda: num_running(system) == 0, "no row is left")
    assert num_finished(system) <= before + 36, "of 40 rows, many may end before they are left"
    before = num_finished(system)
    for _ in range(20):
        asked = asyncio.ensure_future(
            async_openai.completions.create(model=model, prompt=PROMPT, seed=1, **HOT)
        )
        await eventually(lambda: num_running(system) > 0 or asked.done(), "it runs")  # noqa: B023
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)
    await eventually(lambda: num_running(system) == 0, "no row is left")
    assert num_finished(system) <= before + 18, "of 20, too"


def test_curl_reads_answers_and_streams(system: System, model: str, client: Client) -> None:
    asked = {"model": model, "prompt": PROMPT, "max_tokens": 6, "temperature": 0}
    url = f"{system.http_url}/v1/completions"
    expected = client.generate(PROMPT, max_tokens=6).text
    answer = json.loads(_curl(url, asked))
    assert answer["choices"][0]["text"] == expected
    *events, end, rest = _curl(url, {**asked, "stream": True}).split("\n\n")
    assert (end, rest) == ("data: [DONE]", "")
    chunks = [json.loads(each.removeprefix("data: ")) for each in events]
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == expected
    refused = json.loads(_curl(url, {**asked, "model": "another"}))
    assert refused["error"]["code"] == "model_not_found"


def _curl(url: str, body: dict[str, Any]) -> str:
    header = "Content-Type: application/json"
    command = ["curl", "--silent", "--no-buffer", "--header", header, "--data", json.dumps(body)]
    return subprocess.run([*command, url], capture_output=True, text=True, check=True).stdout


def test_the_deadline_of_a_header_ends_a_request(system: System, model: str) -> None:
    # One hot choice can end at its first tokens, before the deadline is noticed; eight do not.
    asked = {"model": model, "prompt": PROMPT, "n": 8, **HOT}
    late = httpx2.post(
        f"{system.http_url}/v1/completions",
        json=asked,
        headers={"X-Request-Timeout": "0.001"},
        timeout=PATIENCE,
    )
    assert late.status_code == 504
    assert late.json()["error"]["code"] == "deadline_exceeded"
