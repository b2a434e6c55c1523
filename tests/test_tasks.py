"""Tasks: what a model answers lm-eval, how a task is brought here, what is counted, what stands in train."""

import io
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from conftest import shape
from questions import ROWS, TEXT, made, requests, scorer_of, weights_of, write_task

from makelm import config, documents, task_contamination, task_scores, tasks
from makelm.config_asking import Asking, TaskSource
from makelm.errors import UserError
from makelm.model import Skeleton
from makelm.progress import Progress
from makelm.task_model import TaskModel, windows, writing

ROOT = Path(__file__).resolve().parent.parent
CONTEXT = 16
MODEL = shape(context_length=CONTEXT, mask_documents=False, init="fan_in")
ASKING = Asking(num_fewshot=None, limit=None, logprobs=True)


@pytest.fixture(scope="module")
def encoding():
    return made()


@pytest.fixture(scope="module")
def trained(encoding):
    return weights_of(MODEL, encoding)


@pytest.fixture(scope="module")
def model(trained, encoding):
    return TaskModel(scorer_of(trained), encoding)


@pytest.fixture(scope="module")
def of_window(trained):
    """Returns what gives the log-probabilities of a window's tokens from the second on, each of any at its place."""
    forward = jax.jit(lambda parameters, tokens_BT: Skeleton(MODEL, trained.vocab_size)(parameters)(tokens_BT))

    def logprobs(window):
        assert len(window) <= CONTEXT + 1
        padded_BT = np.array([window[:-1] + [0] * (CONTEXT + 1 - len(window))])
        return np.asarray(jax.nn.log_softmax(forward(trained.parameters, padded_BT)[0]))[: len(window) - 1]

    return logprobs


def of_last(of_window, window, count):
    """Returns the log-probability of the last tokens of a window."""
    places = np.arange(len(window) - 1)
    return float(of_window(window)[places, window[1:]][len(window) - 1 - count :].sum())


# ---- what a model answers


def test_a_continuation_costs_what_the_forward_pass_says(model, of_window, encoding):
    context, continuation = "def f(x):\n   ", " return x"
    before, ids = encoding.encode("def f(x):"), encoding.encode("def f(x):\n    return x")
    # the spaces at the end of a context are the continuation's
    expected = of_last(of_window, ids, len(ids) - len(before))
    ((found, greedy),) = model.loglikelihood(requests("loglikelihood", (context, continuation)))
    assert found == pytest.approx(expected, abs=1e-4) and greedy is False


def test_the_likeliest_continuation_is_known_as_such(model, of_window, encoding):
    before = encoding.encode("class Queue")
    best = int(np.argmax(of_window([*before, 0])[-1]))
    assert model.score([(before, [best]), (before, [best ^ 1])])[0][1] is True
    assert model.score([(before, [best]), (before, [best ^ 1])])[1][1] is False


def test_an_empty_context_is_what_stands_before_documents(model, of_window, encoding):
    ids = encoding.encode("class Queue:")
    ((found, _),) = model.loglikelihood(requests("loglikelihood", ("", "class Queue:")))
    assert found == pytest.approx(of_last(of_window, [encoding.end_of_text, *ids], len(ids)), abs=1e-4)
    assert model.loglikelihood(requests("loglikelihood", ("", ""))) == [(0.0, True)]


def test_a_token_that_begins_documents_begins_every_context():
    begun, bare = made(begin_of_text=True), made(end_of_text=False)
    assert TaskModel(None, begun).pair("def", " f")[0] == [begun.begin_of_text, *begun.encode("def")]
    assert TaskModel(None, begun).pair("", "def") == ([begun.begin_of_text], begun.encode("def"))
    ids = bare.encode("def f")  # nothing begins its documents: of the first token nothing is known
    assert TaskModel(None, bare).pair("", "def f") == (ids[:1], ids[1:])


def test_a_token_over_the_border_is_not_lost(model, encoding):
    text = "class Queue"
    cuts = [(text[:place], text[place:]) for place in range(1, len(text)) if text[place] != " " != text[place - 1]]
    crossed = [cut for cut in cuts if encoding.encode(text)[: len(ids := encoding.encode(cut[0]))] != ids]
    assert crossed, "the case must be one"
    for before, after in crossed:
        assert [encoding.decode(ids) for ids in model.pair(before, after)] == [before, after]


def test_a_long_context_loses_its_beginning_and_nothing_else(model, of_window, encoding):
    whole, before = encoding.encode(TEXT[:300] + " pass"), encoding.encode(TEXT[:300].rstrip())
    assert len(before) > CONTEXT and whole[: len(before)] == before
    ((found, _),) = model.loglikelihood(requests("loglikelihood", (TEXT[:300], " pass")))
    assert found == pytest.approx(of_last(of_window, whole[-CONTEXT - 1 :], len(whole) - len(before)), abs=1e-4)


def test_windows_score_each_token_once_with_as_much_before_it_as_fits():
    before, ids = [100, 101, 102], list(range(23))
    found = list(windows(before, ids, 10))
    assert [token for window in found for token in window.tokens[-window.count :]] == ids
    assert [(len(window.tokens), window.count) for window in found] == [(11, 10), (11, 10), (11, 3)]
    assert found[0].tokens[0] == 102 and found[2].tokens == list(range(12, 23))


def test_a_whole_text_costs_what_its_pieces_do(model, of_window, encoding):
    text = TEXT[:150]
    ids = [encoding.end_of_text, *encoding.encode(text)]
    expected, first = 0.0, 1
    while first < len(ids):
        last = min(first + CONTEXT, len(ids))
        expected += of_last(of_window, ids[max(0, last - CONTEXT - 1) : last], last - first)
        first = last
    assert model.loglikelihood_rolling(requests("loglikelihood_rolling", (text,))) == [
        pytest.approx(expected, abs=1e-4)
    ]


ASKED = [(row["question"], choice) for row in ROWS for choice in row["choices"]] * 3


def test_no_answer_depends_on_what_else_is_asked(model, trained, encoding):
    together = model.loglikelihood(requests("loglikelihood", *ASKED))
    backwards = model.loglikelihood(requests("loglikelihood", *reversed(ASKED)))[::-1]
    alone = [model.loglikelihood(requests("loglikelihood", one))[0] for one in ASKED[:4]]
    assert together == backwards and together[:4] == alone
    # as many rows always; another number of them rounds otherwise, and that is all
    fewer = TaskModel(scorer_of(trained, rows=5), encoding).loglikelihood(requests("loglikelihood", *ASKED))
    np.testing.assert_allclose(fewer, together, rtol=1e-6)


class Recorder:
    """Is asked instead of a model, and keeps the shapes of what it is asked."""

    context, rows = 100, 4

    def __init__(self):
        self.shapes = []

    def __call__(self, inputs_BT, targets_BT):
        self.shapes.append(inputs_BT.shape)
        return np.ones(inputs_BT.shape), np.ones(inputs_BT.shape, bool)


def test_rows_have_one_of_few_lengths_and_are_always_as_many(encoding):
    recorder = Recorder()
    model = TaskModel(recorder, encoding)
    lengths = [2, 33, 34, 65, 66, 101, 300, *[5] * 5]
    found = model.score([([1], [2] * (length - 1)) for length in lengths])
    assert [logprob for logprob, _ in found] == [1 - length for length in lengths]
    assert recorder.shapes == [(4, 100)] * 2 + [(4, 64)] + [(4, 32)] * 2


def test_a_mesh_of_devices_answers_the_same(model, trained, encoding):
    mesh = config.Mesh(data=2, fsdp=2, tensor=2)
    found = TaskModel(scorer_of(trained, mesh, devices=8), encoding).loglikelihood(requests("loglikelihood", *ASKED))
    one = model.loglikelihood(requests("loglikelihood", *ASKED))
    np.testing.assert_allclose([f for f, _ in found], [o for o, _ in one], atol=1e-4)
    assert [f for _, f in found] == [o for _, o in one]


def test_what_is_written_is_the_greedy_text_up_to_the_stop(model, of_window, encoding):
    contexts, wants = ["class Queue", TEXT[:300]], {"until": ["\n\n\n\n"], "max_gen_toks": 6}
    found = model.generate_until(requests("generate_until", *((context, wants) for context in contexts)))
    for context, text in zip(contexts, found, strict=True):
        ids = encoding.encode(context)[-(CONTEXT - 6) :]
        before = len(ids)
        while len(ids) < before + 6 and (best := int(np.argmax(of_window([*ids, 0])[-1]))) != encoding.end_of_text:
            ids.append(best)
        assert text == encoding.decode(ids[before:])
    stop = next(text for text in found if len(text) > 2)[1]
    shorter = {"until": stop, "max_new_tokens": 6}
    again = model.generate_until(requests("generate_until", *((context, shorter) for context in contexts)))
    assert again == [text.split(stop)[0] for text in found] and again != found


def test_a_task_that_wants_more_than_a_context_is_refused_in_one_line(model):
    with pytest.raises(UserError, match=r"up to 256 tokens written, the model's context has 16; set generation_kwargs"):
        model.generate_until(requests("generate_until", ("def", {"until": ["\n"]})))


def test_sampling_only_where_a_task_says_so():
    assert writing({"temperature": 0.7, "do_sample": False}, 0).temperature == 0
    assert writing({"temperature": 0.7}, 0).temperature == 0.7
    assert writing({"max_new_tokens": 9}, 0).max_new_tokens == 9 and writing({}, 0).max_new_tokens == 256
    assert writing({"until": "end"}, 0).stop == ("end",) and writing({"until": ["", "stop"]}, 0).stop == ("stop",)


# ---- a task, brought here and asked


@pytest.fixture
def brought(tmp_path):
    """Returns what brings a task, and loses where it came from."""

    def bring(name, rows=None, **changes):
        path = write_task(tmp_path / "source", name, rows, **changes)
        folder = tmp_path / name
        folder.mkdir()
        facts = tasks.bring(TaskSource(name=None, file=str(path)), folder, tmp_path / "scratch")
        shutil.rmtree(tmp_path / "source")
        return tasks.open_brought(folder, facts, tmp_path / "other scratch"), facts

    return bring


def test_a_task_is_scored_from_what_was_brought(brought, model):
    task, facts = brought("choice")
    scores, answers = task_scores.ask(task, model, ASKING)
    assert {name: facts[name] for name in facts if name != "sources"} == {
        "name": "choice",
        "file": "choice.yaml",
        "splits": {"test": 5},
    }
    assert len(facts["sources"]) == 2  # the YAML and its rows
    right = 0
    for row, answer in zip(ROWS, answers, strict=True):
        own = model.loglikelihood(requests("loglikelihood", *((row["question"], each) for each in row["choices"])))
        assert answer["responses"] == own
        right += int(np.argmax([logprob for logprob, _ in own])) == row["answer"]
    acc = scores["metrics"]["acc"]
    assert acc["value"] == right / 5 and acc["higher_is_better"] is True
    assert acc["stderr"] == pytest.approx(np.sqrt(right / 5 * (1 - right / 5) / 4))
    assert (scores["version"], scores["documents"], scores["num_fewshot"]) == (2, 5, 0)
    json.dumps([scores, answers])


def test_limit_and_examples_change_what_is_asked_and_the_digest_of_the_prompts(brought, model):
    digests, (task, _) = {}, brought("choice")
    for name, changes in {"plain": {}, "limit": {"limit": 2}, "shots": {"num_fewshot": 2}}.items():
        scores, _answers = task_scores.ask(task, model, ASKING.model_copy(update=changes))
        digests[name] = scores["prompts"]
        assert scores["documents"] == (2 if name == "limit" else 5)
    assert len(set(digests.values())) == 3


@pytest.mark.parametrize(("split", "there"), [(None, 5), ("test", 4)])
def test_more_examples_than_there_are_is_one_line(brought, model, split, there):
    task, _ = brought("choice", fewshot_split=split)
    with pytest.raises(UserError, match=f"^task.num_fewshot: 6, but choice has {there} to draw from for a question$"):
        task_scores.ask(task, model, ASKING.model_copy(update={"num_fewshot": 6}))
    task_scores.ask(task, model, ASKING.model_copy(update={"num_fewshot": there, "limit": 1}))
    with pytest.raises(UserError):
        task_scores.ask(task, model, ASKING.model_copy(update={"num_fewshot": there + 1}))


def test_texts_and_writing_are_scored(brought, model):
    scores, answers = task_scores.ask(brought("rolling")[0], model, ASKING)
    texts = [row["question"] + row["choices"][0] for row in ROWS]
    total = sum(model.loglikelihood_rolling(requests("loglikelihood_rolling", *((text,) for text in texts))))
    size = sum(len(text.encode()) for text in texts)
    assert scores["metrics"]["bits_per_byte"]["value"] == pytest.approx(-total / size / np.log(2))
    scores, answers = task_scores.ask(brought("writing")[0], model, ASKING)
    assert scores["metrics"]["exact_match"]["value"] is not None
    assert all(isinstance(answer["responses"][0], str) for answer in answers)


def test_a_yaml_may_include_another_and_call_functions_beside_it(tmp_path, model):
    write_task(tmp_path, "choice")
    (tmp_path / "helpers.py").write_text("def ask(row):\n    return 'Q: ' + row['question']\n")
    (tmp_path / "child.yaml").write_text("include: choice.yaml\ntask: child\ndoc_to_text: !function helpers.ask\n")
    folder = tmp_path / "out"
    folder.mkdir()
    facts = tasks.bring(TaskSource(name=None, file=str(tmp_path / "child.yaml")), folder, tmp_path / "scratch")
    assert sorted(path.name for path in (folder / "task").iterdir()) == ["child.yaml", "choice.yaml", "helpers.py"]
    for name in ("helpers.py", "choice.yaml", "choice.jsonl"):
        (tmp_path / name).unlink()
    task = tasks.open_brought(folder, facts, tmp_path / "scratch2")
    _, answers = task_scores.ask(task, model, ASKING)
    assert answers[0]["requests"][0][0] == "Q: def f(x"


def test_tasks_by_name_are_those_of_gptjs_table():
    settings = {"lambada_openai": "lambada", "winogrande": "winogrande", "hellaswag": "hellaswag", "piqa": "piqa"}
    known = tasks.named()
    assert {name: known[name].parent.name for name in settings} == settings


@pytest.mark.parametrize(
    ("source", "line"),
    [
        ({"name": "piqqa", "file": None}, "task.name: lm-eval has no single task 'piqqa'; did you mean 'piqa'?"),
        ({"name": None, "file": "none.yaml"}, "cannot read none.yaml: No such file"),
        ({"name": None, "file": "group.yaml"}, "group.yaml is no single task"),
        ({"name": None, "file": "broken.yaml"}, "broken.yaml: cannot load the task: "),
        ({"name": None, "file": "no_function.yaml"}, "no_function.yaml: cannot load the task: AttributeError: Module"),
        (
            {"name": None, "file": "no_python.yaml"},
            "cannot load the task: SyntaxError: invalid syntax (slip.py, line 1)",
        ),
        ({"name": None, "file": "no_row.yaml"}, "cannot load the task: KeyError: 'nothing' (helpers.py, line 2)"),
    ],
)
def test_a_task_that_cannot_be_had_is_one_line(tmp_path, monkeypatch, source, line):
    monkeypatch.chdir(tmp_path)
    Path("group.yaml").write_text("group: several\ntask: [a, b]\n")
    write_task(tmp_path, "choice", doc_to_text="{{missing.key}}").rename("broken.yaml")
    write_task(tmp_path, "choice")
    Path("helpers.py").write_text("def ask(row):\n    return row['nothing']\n")
    Path("slip.py").write_text("def ask(row: return 0\n")
    for name, function in {"no_function": "helpers.answer", "no_python": "slip.ask", "no_row": "helpers.ask"}.items():
        Path(f"{name}.yaml").write_text(f"include: choice.yaml\ntask: a\ndoc_to_text: !function {function}\n")
    with pytest.raises(UserError) as caught:
        tasks.bring(TaskSource(**source), tmp_path, tmp_path)
    assert line in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "choice.yaml: cannot load the task: there is nothing in {path}"),
        ("{broken\n", "Missing a name for object member. in row 1 in {path}"),
    ],
)
def test_data_that_cannot_be_read_are_named(tmp_path, text, line):
    path = write_task(tmp_path, "choice")
    (tmp_path / "choice.jsonl").write_text(
        (tmp_path / "choice.jsonl").read_text().splitlines()[0] + "\n" if text else ""
    )
    (tmp_path / "choice.jsonl").open("a").write(text)
    with pytest.raises(UserError) as caught:
        tasks.bring(TaskSource(name=None, file=str(path)), tmp_path / "out", tmp_path / "scratch")
    assert line.format(path=tmp_path / "choice.jsonl") in str(caught.value) and "\n" not in str(caught.value)


def test_a_metric_that_lm_eval_does_not_know_is_named(tmp_path):
    path = write_task(tmp_path, "choice", metric_list=[{"metric": "accc", "aggregation": "mean"}])
    with pytest.raises(UserError, match=r"'accc', which task choice asks for; did you mean 'acc'\?$"):
        tasks.bring(TaskSource(name=None, file=str(path)), tmp_path / "out", tmp_path / "scratch")


def test_a_task_without_a_score_is_one_line(brought, model):
    task, _ = brought("choice", metric_list=[{"metric": "word_perplexity"}])
    with pytest.raises(UserError, match=r"^choice: no score came out; .*: word_perplexity$"):
        task_scores.ask(task, model, ASKING)


def test_a_row_that_cannot_be_asked_is_one_line_and_a_bug_of_ours_is_none(brought, model, monkeypatch):
    rows = [ROWS[3], ROWS[0]]  # lm-eval tries the first one when it loads a task
    task, _ = brought("choice", rows, doc_to_text="{{1 / answer}}")
    with pytest.raises(UserError, match=r"^choice: cannot ask the task: ZeroDivisionError: division by zero$"):
        task_scores.ask(task, model, ASKING)
    monkeypatch.setattr(model, "pair", lambda *_: {}["bug"])
    with pytest.raises(KeyError, match="bug"):
        task_scores.ask(brought("last_word")[0], model, ASKING)


def test_without_lm_eval_one_line_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(tasks.util, "find_spec", lambda name: None)
    with pytest.raises(
        UserError, match=r"lm-eval, which is not installed: \.venv/bin/uv sync --locked --inexact --extra eval"
    ):
        tasks.check_installed()


# ---- contamination


def test_the_share_of_13_grams_in_train_is_exact(tmp_path):
    known = [f"w{number}" for number in range(20)]
    with documents.PartWriter(tmp_path, "train", 2) as writer:
        for text in ("nothing of it", "before " + " ".join(known) + " after"):
            writer.write(documents.Document(text[:3], text))
    facts = {"contamination": {}, "num_shards": 2, "train": writer.facts()}
    half = " ".join([*known[:14], *(f"other{number}" for number in range(12))])  # 14 13-grams, 2 of them known
    rows = [{"text": half, "choices": ["short", " ".join(known[3:16])]}, {"text": "short", "answer": 1}]
    found = task_contamination.measure(
        rows, {tmp_path: facts}, tmp_path, 1, Progress("test", io.StringIO(), None, None)
    )
    assert found["ngrams"] == 15 and found["share"] == 3 / 15
    assert (found["documents"], found["long_documents"], found["documents_with_any"]) == (2, 1, 1)
    assert task_contamination.measure(rows, {tmp_path: {}}, tmp_path, 1, None) is None, "tokens have no text"
