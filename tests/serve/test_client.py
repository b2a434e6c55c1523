"""A server asked by OpenAI's own client, as a user would. `make test-serve` runs these."""

import concurrent.futures
import json
import math

import pytest
import served as serving

serving.need_serving()

import openai  # noqa: E402  installed for these tests only

PROMPT = "import os\n"


@pytest.fixture(scope="module")
def client(served) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0)


def ask(client: openai.OpenAI, **more):
    keys = {"model": "small", "prompt": PROMPT, "max_tokens": 40, "seed": 7}
    return client.completions.create(**keys | more)


def test_models_are_listed(client):
    (model,) = client.models.list().data
    assert (model.id, model.owned_by, model.object) == ("small", "makelm", "model")
    assert model.model_extra["context_length"] == 128 and model.model_extra["parameters"] > 0
    assert client.models.retrieve("small") == model
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("large")


def test_a_stream_is_the_whole_in_parts(client):
    whole = ask(client)
    assert whole.choices[0].finish_reason == "length" and whole.usage.completion_tokens == 40
    assert whole.usage.prompt_tokens == len(PROMPT) + 1
    chunks = list(ask(client, stream=True, stream_options={"include_usage": True}))
    assert chunks[-1].usage == whole.usage and not chunks[-1].choices
    assert "".join(chunk.choices[0].text for chunk in chunks[:-1]) == whole.choices[0].text
    assert len(chunks) > 3 and len({chunk.id for chunk in chunks}) == 1


def test_choices_are_those_of_the_seeds_that_follow(client):
    three = ask(client, n=3, temperature=0.7).choices
    assert [choice.index for choice in three] == [0, 1, 2]
    for number, choice in enumerate(three):
        assert ask(client, seed=7 + number, temperature=0.7).choices[0].text == choice.text
    several = ask(client, prompt=[PROMPT, "def "], n=2).choices
    assert [each.text for each in several] == [
        each.text for prompt in (PROMPT, "def ") for each in ask(client, prompt=prompt, n=2).choices
    ]
    parts = {index: "" for index in range(4)}
    for chunk in ask(client, prompt=[PROMPT, "def "], n=2, stream=True):
        for choice in chunk.choices:
            parts[choice.index] += choice.text
    assert list(parts.values()) == [each.text for each in several]


def test_seeds_and_temperatures_decide(client):
    texts = [ask(client, seed=None).choices[0].text for _ in range(2)]
    assert texts[0] != texts[1] and ask(client).choices[0].text == ask(client).choices[0].text
    greedy = {ask(client, seed=seed, temperature=0).choices[0].text for seed in (1, 2)}
    assert len(greedy) == 1
    likeliest = ask(client, temperature=1.5, extra_body={"top_k": 1}).choices[0].text
    assert {likeliest} == greedy
    penalized = ask(client, temperature=0, extra_body={"repetition_penalty": 100, "min_p": 0.1}).choices[0].text
    assert penalized not in greedy


def test_a_stop_string_ends_a_text_before_it(client):
    text = ask(client).choices[0].text
    stop = text[10:13]
    place = text.index(stop)
    for how in ({}, {"stream": True}):
        found = ask(client, stop=[stop, "never there"], **how)
        choices = [chunk.choices[0] for chunk in found] if how else found.choices
        assert "".join(choice.text for choice in choices) == text[:place]
        assert choices[-1].finish_reason == "stop"


def test_log_probabilities_belong_to_tokens_that_add_up(client):
    whole = ask(client, logprobs=5).choices[0]
    found = whole.logprobs
    assert "".join(found.tokens) == whole.text and len(found.tokens) == 40
    assert found.text_offset == [len("".join(found.tokens[:number])) for number in range(40)]
    for chosen, likely in zip(found.token_logprobs, found.top_logprobs, strict=True):
        assert 5 <= len(likely) <= 6 and chosen in likely.values()
        assert sum(map(math.exp, likely.values())) <= 1.0001 and next(iter(likely.values())) == max(likely.values())
    streamed = [chunk.choices[0].logprobs for chunk in ask(client, logprobs=5, stream=True)]
    for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
        assert sum((getattr(each, name) for each in streamed), []) == getattr(found, name)  # noqa: RUF017
    none = ask(client, logprobs=0).choices[0].logprobs
    assert none.token_logprobs == found.token_logprobs and all(len(each) == 1 for each in none.top_logprobs)


def test_token_ids_and_echo(client):
    ids = [serving.encoding.first, *serving.encoding.encode(PROMPT)]
    text = ask(client).choices[0].text
    assert ask(client, prompt=ids).choices[0].text == text
    assert ask(client, prompt=[ids]).choices[0].text == text
    assert ask(client, echo=True).choices[0].text == PROMPT + text
    assert "".join(chunk.choices[0].text for chunk in ask(client, echo=True, stream=True)) == PROMPT + text


def test_a_prompt_is_scored(client):
    ids = [serving.encoding.first, *serving.encoding.encode(PROMPT)]
    text = ask(client, logprobs=2).choices[0]
    for prompt, shown in ((PROMPT, ids[1:]), (ids, ids)):
        found = ask(client, prompt=prompt, logprobs=2, echo=True).choices[0]
        assert found.text == PROMPT + text.text == "".join(found.logprobs.tokens)
        assert found.logprobs.token_logprobs[len(shown) :] == text.logprobs.token_logprobs
        costs = found.logprobs.token_logprobs[: len(shown)]
        assert [each is None for each in costs] == [prompt is ids] + [False] * (len(shown) - 1)
        unwritten = ask(client, prompt=prompt, logprobs=2, echo=True, max_tokens=0)
        assert unwritten.choices[0].logprobs.token_logprobs == costs and unwritten.choices[0].text == PROMPT
        assert unwritten.usage.prompt_tokens == len(ids) and unwritten.usage.completion_tokens == 0
    streamed = [chunk.choices[0] for chunk in ask(client, prompt=ids, logprobs=2, echo=True, stream=True)]
    assert streamed[0].logprobs.token_logprobs[: len(ids)] == costs
    assert "".join(each.text for each in streamed) == PROMPT + text.text


def test_errors_are_the_clients_own(client, served):
    for keys, kind, param in [
        ({"model": "gpt-4"}, openai.NotFoundError, "model"),
        ({"prompt": "x" * 500}, openai.BadRequestError, "prompt"),
        ({"temperature": -1}, openai.BadRequestError, "temperature"),
        ({"logprobs": 20}, openai.BadRequestError, "logprobs"),
        ({"extra_body": {"typical_p": 0.5}}, openai.BadRequestError, "typical_p"),
    ]:
        with pytest.raises(kind) as caught:
            ask(client, **keys)
        assert caught.value.param == param and caught.value.request_id
    with pytest.raises(openai.NotFoundError, match="a model is asked at /v1/completions"):
        client.chat.completions.create(model="small", messages=[])


def test_a_client_that_was_sent_away_comes_again(small_run, tmp_path):
    with serving.running(small_run, tmp_path / "log", "--slots", "1", "--queue", "2") as narrow:
        hasty = openai.OpenAI(base_url=f"{narrow.url}/v1", api_key="none", max_retries=0)
        patient = hasty.with_options(max_retries=20)
        many = {"max_tokens": 1000, "temperature": 0}
        with concurrent.futures.ThreadPoolExecutor(12) as pool:
            texts = list(pool.map(lambda _: ask(patient, **many).choices[0].text, range(12)))
            assert len(set(texts)) == 1
            refused = [pool.submit(ask, hasty, **many) for _ in range(12)]
            errors = [each.exception() for each in refused if each.exception()]
        assert errors and all(isinstance(error, openai.RateLimitError) for error in errors)
        assert all(1 <= int(error.response.headers["retry-after"]) <= 30 for error in errors)
        assert {error.code for error in errors} == {"queue_full"}


def test_a_token_is_the_clients_key(small_run, tmp_path):
    (tmp_path / "token").write_text("hush\n")
    flags = ["--token-file", str(tmp_path / "token"), "--host", "0.0.0.0", "--allow-origin", "https://a.example"]
    with serving.running(small_run, tmp_path / "log", *flags) as guarded:
        right = openai.OpenAI(base_url=f"{guarded.url}/v1", api_key="hush", max_retries=0)
        assert ask(right).choices[0].text
        with pytest.raises(openai.AuthenticationError):
            ask(right.with_options(api_key="hash"))
        assert guarded.ask("/")[0] == 200 and guarded.ask("/health")[0] == 200
        assert json.loads(guarded.ask("/v1/models")[2])["error"]["code"] == "invalid_api_key"
        assert "hush" not in guarded.log.read_text()
