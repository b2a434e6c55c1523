"""Prompts that are scored: what a server says of them is what the stages say, and no text is another one for it."""

import json
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import shape
from lm_eval.models.openai_completions import LocalCompletionsAPI
from questions import ROWS, TASKS, requests, scorer_of, weights_of, write_task
from test_prompts import encoding
from test_serving import MODEL, Served, asked, engine

from makelm import prompt_scores, task_scores, tasks
from makelm.config_asking import Asking, TaskSource
from makelm.generate import NOT_FINITE, Options, generate
from makelm.model import Skeleton
from makelm.prompt_scores import PromptScorer
from makelm.serving_engine import SteadyEngine
from makelm.task_model import TaskModel

FIRST = encoding.first
UNWRITTEN = {"max_tokens": 0, "echo": True, "logprobs": 1}


def engine_of(trained) -> SteadyEngine:
    skeleton = Skeleton(trained.model, trained.vocab_size, trained.end_of_text)
    return SteadyEngine(skeleton, trained.parameters, encoding.tokens, encoding.end_of_text, 2, chunk=4)


@pytest.mark.parametrize("rows", [512, 8])  # positions of which logits exist at a time
@pytest.mark.parametrize("more", [{}, {"mask_documents": True, "vocab_multiple": 64, "tie_embeddings": True}])
def test_scores_are_those_of_the_stages(rows, more, monkeypatch):
    monkeypatch.setattr(prompt_scores, "rows_at_a_time", lambda *_: rows)
    trained = weights_of(shape(**{"context_length": 40, "n_layers": 1, "init": "fan_in"} | more), encoding)
    score, scorer, rng = PromptScorer(engine_of(trained), 5), scorer_of(trained, rows=1), np.random.default_rng(0)
    for size in (2, 17, 18, 40):
        prompt = [FIRST, *rng.integers(0, encoding.vocab_size, size - 1).tolist()]
        prompt[-1] = score(prompt)[1][-1][0][0]  # the likeliest
        logprobs, alternatives = score(prompt)
        losses_BT, greedy_BT = scorer(np.array([prompt[:-1]]), np.array([prompt[1:]]))
        assert logprobs[0] is None and alternatives[0] == ()
        np.testing.assert_allclose(logprobs[1:], -losses_BT[0], rtol=1e-5, atol=1e-5)
        likeliest = [each[0][1] == value for each, value in zip(alternatives[1:], logprobs[1:], strict=True)]
        assert likeliest == greedy_BT[0].tolist() and likeliest[-1]
        assert all(len(each) == 5 and sorted(each, key=lambda pair: -pair[1]) == [*each] for each in alternatives[1:])
    assert score([FIRST]) == ([None], [()]) and set(score.programs) == {16, 32, 40}


def test_weights_that_are_no_numbers_are_an_error():
    broken = engine()
    broken.parameters = {name: each * np.nan for name, each in broken.parameters.items()}
    with pytest.raises(prompt_scores.UserError, match=NOT_FINITE):
        PromptScorer(broken, 5)([1, 2, 3])


def test_what_the_server_itself_puts_before_a_text_is_not_shown():
    text, found = "aé", list("aé".encode())
    shown = [(found[0], "a"), (found[1], ""), (found[2], "é")]
    keys = {"echo": True, "logprobs": 0}
    for prompt, expected in [
        (text, shown),
        (found, shown),
        ([FIRST, *found], [(FIRST, ""), *shown]),
        (found[:2], [*shown[:1], (found[1], "\ufffd")]),
        (None, []),
    ]:
        assert asked(prompt=prompt, **keys).shown == [expected]
    # of a text that has lost its beginning, nothing is the server's own
    assert asked(prompt="abc", truncate_prompt_tokens=2, **keys).shown == [[(98, "b"), (99, "c")]]
    assert asked(prompt="abc", truncate_prompt_tokens=9, **keys).shown == [[(97, "a"), (98, "b"), (99, "c")]]
    assert asked(prompt=["a", "b"], echo=True).shown == asked(prompt=["a", "b"], logprobs=1).shown == [None, None]


# ---- a server


@pytest.fixture(scope="module")
def served():
    with Served(engine()) as made:
        yield made


def answer(served, **keys) -> dict:
    status, _, content = served.ask("/v1/completions", {"model": "m", "seed": 1} | keys)
    assert status == 200, content
    return json.loads(content)


def test_a_prompt_stands_before_the_text_with_what_its_tokens_cost(served):
    keys = {"max_tokens": 9, "logprobs": 2}
    ids = [FIRST, *b"abc"]
    costs = PromptScorer(engine(), 5)(ids)[0]
    plain = answer(served, prompt=ids, **keys)
    alone = plain["choices"][0]
    for prompt, expected, tokens in [(ids, costs, ["", "a", "b", "c"]), ("abc", costs[1:], ["a", "b", "c"])]:
        found = answer(served, prompt=prompt, echo=True, **keys)
        (choice,), logprobs = found["choices"], found["choices"][0]["logprobs"]
        assert choice["text"] == "abc" + alone["text"] == "".join(logprobs["tokens"])
        assert logprobs["tokens"] == tokens + alone["logprobs"]["tokens"]
        assert logprobs["token_logprobs"] == expected + alone["logprobs"]["token_logprobs"]
        assert logprobs["top_logprobs"][len(tokens) :] == alone["logprobs"]["top_logprobs"]
        offsets = [len("".join(logprobs["tokens"][:number])) for number in range(len(logprobs["tokens"]))]
        assert logprobs["text_offset"] == offsets
        for likely, chosen in zip(logprobs["top_logprobs"], logprobs["token_logprobs"], strict=True):
            assert likely is chosen is None or (2 <= len(likely) <= 3 and chosen in likely.values())
        assert found["usage"] == plain["usage"] and choice["finish_reason"] == alone["finish_reason"]


def test_a_stream_begins_with_what_its_prompt_costs(served):
    keys = {"prompt": ["abc", "d"], "max_tokens": 9, "logprobs": 2, "echo": True}
    whole = answer(served, **keys)["choices"]
    content = served.ask("/v1/completions", keys | {"seed": 1, "stream": True})[2].decode()
    *events, end, _ = content.split("\n\n")
    assert end == "data: [DONE]"
    parts = [choice for each in events for choice in json.loads(each.removeprefix("data: "))["choices"]]
    for index, choice in enumerate(whole):
        own = [part for part in parts if part["index"] == index]
        assert own[0]["text"].startswith(keys["prompt"][index]) and own[0]["logprobs"]["tokens"][0] in ("a", "d")
        assert "".join(part["text"] for part in own) == choice["text"]
        for name, values in choice["logprobs"].items():
            assert [each for part in own for each in part["logprobs"][name]] == values
        assert [part["finish_reason"] for part in own][-2:] == [None, choice["finish_reason"]]


def test_no_token_is_written_where_none_is_asked_for(served):
    found = answer(served, prompt=[[97, 98], [FIRST, 97]], n=2, **UNWRITTEN)
    assert found["usage"] == {"prompt_tokens": 4, "completion_tokens": 0, "total_tokens": 4}
    texts = [(each["index"], each["text"], each["finish_reason"]) for each in found["choices"]]
    assert texts == [(0, "ab", "length"), (1, "ab", "length"), (2, "a", "length"), (3, "a", "length")]
    assert [each["logprobs"]["token_logprobs"][0] for each in found["choices"]] == [None] * 4
    for keys, text, logprobs in [
        ({}, "", None),
        ({"logprobs": 1}, "", {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}),
        ({"echo": True}, "ab", None),
    ]:
        found = answer(served, prompt="ab", max_tokens=0, **keys)
        expected = {"index": 0, "text": text, "logprobs": logprobs, "finish_reason": "length"}
        assert found["choices"] == [expected] and found["usage"]["total_tokens"] == 3
        content = served.ask("/v1/completions", {"prompt": "ab", "max_tokens": 0, "stream": True} | keys)[2].decode()
        event, _, _ = content.split("\n\n")
        assert json.loads(event.removeprefix("data: "))["choices"] == [expected]


def test_a_prompt_that_is_only_scored_needs_no_slot_and_compiling_keeps_no_text_waiting(monkeypatch):
    made, goes_on, compiles = Served(engine(1)), threading.Event(), threading.Event()
    made.until("ready")
    scorer, compiled = made.writer.scorer, made.writer.scorer.compile
    # a program that takes long to compile
    monkeypatch.setattr(scorer, "compile", lambda lengths: (compiles.set(), goes_on.wait(60), compiled(lengths)))
    scores = []
    asks = threading.Thread(target=lambda: scores.append(answer(made, prompt="ab", **UNWRITTEN)))
    asks.start()
    assert compiles.wait(60)
    assert answer(made, prompt="ab", max_tokens=20)["usage"]["completion_tokens"] == 20
    goes_on.set()
    asks.join(60)
    assert len(scores) == 1
    # now the only slot is taken
    step, ends = made.writer.engine.step, threading.Event()
    monkeypatch.setattr(made.writer.engine, "step", lambda: step() if ends.is_set() else (time.sleep(0.01), [])[1])
    writes = threading.Thread(target=lambda: scores.append(answer(made, prompt="ab", max_tokens=20)))
    writes.start()
    while not made.writer.live:
        time.sleep(0.01)
    assert answer(made, prompt="ab", **UNWRITTEN)["choices"] == scores[0]["choices"] and len(scores) == 1
    ends.set()
    writes.join(60)
    assert len(scores) == 2
    made.stop()


def test_texts_beside_prompts_that_are_scored_keep_every_bit(served):
    options = Options(30, 1.0, seed=1, logprobs=2)
    expected = generate(engine(), [[FIRST, 97, 98]], [options])[0]
    found, scores = [], []

    def ask() -> None:
        found.append(answer(served, prompt="ab", max_tokens=30, logprobs=2)["choices"][0])

    writers = [threading.Thread(target=ask) for _ in range(3)]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        scores.append(answer(served, prompt=[[*range(30)], [*range(9)]], **UNWRITTEN | {"max_tokens": len(scores) % 3}))
    assert len(found) == 3
    for each in found:
        assert each["text"] == expected.text and each["logprobs"]["token_logprobs"] == expected.logprobs
    first = [each["logprobs"]["token_logprobs"] for each in scores[0]["choices"]]
    for each in scores:
        own = [
            choice["logprobs"]["token_logprobs"][: len(one)] for choice, one in zip(each["choices"], first, strict=True)
        ]
        assert own == first


# ---- lm-eval


class Api(LocalCompletionsAPI):
    """lm-eval's client, with a tokenizer that is not transformers'."""

    def __init__(self, port: int, **keys):
        url = f"http://127.0.0.1:{port}/v1/completions"
        super().__init__(model="m", base_url=url, tokenizer_backend="None", max_length=MODEL.context_length, **keys)
        self.tokenizer = SimpleNamespace(eos_token_id=encoding.end_of_text)
        self.tokenized_requests = keys.get("tokenized_requests", True)

    prefix_token_id, eos_string = encoding.end_of_text, "<|endoftext|>"

    def tok_encode(self, string, **_):
        return encoding.encode(string) if isinstance(string, str) else [encoding.encode(each) for each in string]

    def decode_batch(self, tokens):
        return [encoding.decode(each) for each in tokens]


QUESTIONS = [("ab", "c"), ("a b", " c d"), ("é", "é!"), ("abcdefghij", " klmnopq"), ("", "abc")]


@pytest.fixture(scope="module")
def stage():
    return TaskModel(scorer_of(weights_of(MODEL, encoding)), encoding)


def same(theirs: list[tuple[float, bool]], ours: list[tuple[float, bool]]) -> bool:
    np.testing.assert_allclose([each[0] for each in theirs], [each[0] for each in ours], rtol=1e-5, atol=1e-5)
    return [each[1] for each in theirs] == [each[1] for each in ours]


@pytest.mark.parametrize("keys", [{}, {"batch_size": 4}, {"batch_size": 2, "num_concurrent": 3}])
def test_lm_eval_gets_from_a_server_what_the_stage_says(served, stage, keys):
    api, asks = Api(served.port, **keys), requests("loglikelihood", *QUESTIONS)
    assert same(api.loglikelihood(asks), stage.loglikelihood(asks))
    before = [FIRST, *b"ab"]
    best = PromptScorer(engine(), 5)([*before, 0])[1][-1][0][0]
    pairs = [(before, [best]), (before, [best ^ 1]), (before, [best, 98, 99])]
    ours = stage.score(pairs)
    assert same(api._loglikelihood_tokens([(None, *pair) for pair in pairs]), ours) and ours[0][1] is True
    asks = requests("generate_until", *((text, {"until": ["b"], "max_gen_toks": 5}) for text in ("ab", "c", "d")))
    assert api.generate_until(asks) == stage.generate_until(asks)


def test_tokens_of_texts_stand_where_lm_eval_looks_for_them(served, stage):
    asks = requests("loglikelihood", *QUESTIONS[:-1])
    pairs = [stage.pair(*each) for each in QUESTIONS[:-1]]
    ours = stage.score([([FIRST, *before], ids) for before, ids in pairs])  # to a server, a text begins a document
    assert same(Api(served.port, tokenized_requests=False).loglikelihood(asks), ours)


@pytest.mark.parametrize("name", TASKS)
def test_a_whole_task_has_the_same_scores(name, served, stage, tmp_path):
    short = [row for row in ROWS if len(row["question"] + max(row["choices"], key=len)) < MODEL.context_length - 1]
    facts = tasks.bring(TaskSource(name=None, file=str(write_task(tmp_path / "own", name, short))), tmp_path, tmp_path)

    def scores(model) -> tuple:
        asking = Asking(num_fewshot=None, limit=None, logprobs=True)
        found, answers = task_scores.ask(tasks.open_brought(tmp_path, facts, tmp_path), model, asking)
        return found["metrics"], [each["metrics"] for each in answers], found["documents"]

    ours, theirs = scores(stage), scores(Api(served.port, batch_size=3))
    assert ours[2] == theirs[2] == len(short) >= 3
    assert {key: each["value"] for key, each in theirs[0].items()} == pytest.approx(
        {key: each["value"] for key, each in ours[0].items()}, rel=1e-5
    )
