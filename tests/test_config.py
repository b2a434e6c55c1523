"""The configuration: strict, typed, and wrong in one line that says what to do."""

from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import yaml

from makelm import configfile
from makelm.config_corpus import TextKey, UrlCorpus
from makelm.config_mixture import PARTS, corpus_weights
from makelm.config_types import split_keys
from makelm.errors import UserError

DEFAULT = yaml.safe_load((Path(__file__).parent.parent / "config.yaml").read_text())

GPT2 = {"kind": "tiktoken", "encoding": "gpt2", "file": None, "encoder": "tiktoken"}
GPT2 |= {"begin_of_text": False, "end_of_text": True}
HUB = {"kind": "huggingface", "file": None, "repository": "org/one", "revision": None}
HUB |= {"begin_of_text": None, "end_of_text": "</s>"}

SUM = "0" * 64
SPLIT = {"max_documents": None, "clean": None, "shards": 1, "split": "tail", "valid_fraction": 0.1}
URL = {"source": "url", "url": "https://a/b.txt", "sha256": SUM, "text_key": "text"} | SPLIT
READY = {"source": "tokens", "train": ["a.bin"], "valid": ["b.bin"], "dtype": None, "sha256": {}}
READY |= {"repository": None, "revision": None}


def changed(path: str, value: object) -> dict:
    """Returns the default configuration with one dotted key set; `...` as the value removes it."""
    raw = deepcopy(DEFAULT)
    *parents, last = path.split(".")
    place = raw
    for key in parents:
        place = place[key]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return raw


def refusal(raw: dict) -> str:
    """Returns the one line with which a configuration is refused."""
    with pytest.raises(UserError) as caught:
        configfile.load(raw)
    line = str(caught.value)
    assert "\n" not in line and line.startswith("config: "), line
    return line


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"x: 1\nruns: [a\n", ":3: expected ',' or ']', but got '<stream end>' (while parsing a flow sequence that"),
        (b"runs:\n\t- a\n", ":2: found character '\\t' that cannot start any token"),
        (b"run:\n  a: {base: b}: c\n", ":2: "),
        (b"- a\n", ":1: expected a map of keys, got ['a']"),
        (b"", ":1: expected a map of keys, got nothing"),
        (b"a: 1\n# caf\xe9\n", ":2: byte 0xe9 is no UTF-8"),
        (b"a: 1\nb: '\x00'\n", ":2: special characters are not allowed, got U+0000"),
        (b"a: 2024-13-45\n", ": month must be in 1..12"),
        (b"a: 1\nb: 0100\n", ":2: 0100 would be 64; write the number that you mean"),
        (b"a: 1\nb: [1:30]\n", ":2: 1:30 would be 90; write the number that you mean"),
        (b'a: 1\nb: "\\ud83d\\ude00"\n', ":2: U+D83D is half a character; write the character itself"),
        (b"a:\n\tb: 1\n", "(while scanning for the next token); YAML wants spaces there, no tabs"),
    ],
)
def test_a_file_that_is_no_map_is_refused_with_the_line(tmp_path, data, expected):
    path = tmp_path / "mine.yaml"
    path.write_bytes(data)
    with pytest.raises(UserError) as caught:
        configfile.read(path)
    assert str(caught.value).startswith(f"{path}:") and expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_numbers_that_everybody_reads_alike_are_taken(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("[0, -1, 1_000, 0x1F, 0.5, '0100', '1:30']".join(["{a: ", "}"]))
    assert configfile.read(path) == {"a": [0, -1, 1000, 31, 0.5, "0100", "1:30"]}


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("run:\n  a: 1\ncorpus: {}\nrun:\n  b: 2\n", r"4: the key 'run' stands in line 1 already; keep one of the two"),
        ("run:\n  a: {x: 1, 'x': 2}\n", r"2: the key 'x' stands in line 2 already; keep one of the two"),
        ('{\n\t"a": {"b": 1},\n\t"a": {}\n}', r"3: the key 'a' stands in line 2 already; keep one of the two"),
    ],
)
def test_a_key_that_stands_twice_drops_nothing_unsaid(tmp_path, text, where):
    path = tmp_path / "a.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=rf"a\.yaml:{where}$"):
        configfile.read(path)
    with pytest.raises(UserError, match=r"set: a\.b: cannot read"):
        configfile.override({}, "a.b='{x: 1, x: 2}'")


def test_what_looks_like_a_date_and_is_none_is_one_line():
    with pytest.raises(UserError, match=r"set: a\.b: cannot read '2026-13-01': month must be"):
        configfile.override({}, "a.b=2026-13-01")


def test_what_a_merge_of_yaml_brings_may_be_said_again(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("run:\n  a: &a {x: &b {z: 1, y: 2}}\n  b: {<<: *a, x: {<<: *b, y: 3}}\nc: {<<: *b, z: 4}\n")
    assert configfile.read(path) == {
        "run": {"a": {"x": {"z": 1, "y": 2}}, "b": {"x": {"z": 1, "y": 3}}},
        "c": {"z": 4, "y": 2},
    }


def test_json_may_be_indented_by_tabs(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text('{\n\t"a": 1e-3\n}')
    assert configfile.read(path) == {"a": 1e-3}


def test_the_default_is_valid_and_values_have_their_types():
    settings = configfile.load(DEFAULT)
    assert settings.runs == ["stdlib"]
    assert isinstance(settings.run["stdlib"].train.optimizer.eps, float)
    assert isinstance(settings.run["stdlib"].train.steps, int)


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("run.stdlib.train.stepz", 5, "run.stdlib.train: unknown key 'stepz'; did you mean 'steps'?"),
        ("run.stdlib.batch_size", 5, "run.stdlib: unknown key 'batch_size'; it belongs under train:"),
        ("run.stdlib.model.zzz", 5, "run.stdlib.model: unknown key 'zzz'; known here: context_length, n_layers"),
        ("run.stdlib.train.optimizer.epz", 5, "run.stdlib.train.optimizer: unknown key 'epz'; did you mean 'eps'?"),
        ("corpsu", {}, "unknown key 'corpsu'; did you mean 'corpus'?"),
        ("train", {}, "top level: unknown key 'train'; it belongs under run.<name>:"),
        ("corpus.stdlib.shard", 5, "corpus.stdlib: unknown key 'shard'; did you mean 'shards'?"),
        ("corpus.stdlib.source", "stdlip", "corpus.stdlib.source must be one of stdlib, local, url, huggingface"),
        (
            "corpus.stdlib.source",
            ...,
            "corpus.stdlib.source must be one of stdlib, local, url, huggingface, tokens, got None",
        ),
        ("corpus.mine", URL | {"sha256": []}, "corpus.mine: sha256 needs one sum for each address of url, got 0 for 1"),
        ("corpus.mine", URL | {"url": "ftp://a"}, "corpus.mine.url.0: string should match pattern"),
        ("corpus.mine", URL | {"text_key": 3}, "corpus.mine.text_key: input should be a column's name, or {columns"),
        (
            "corpus.mine",
            URL | {"text_key": {"split_at": "%", "separator": ""}},
            "corpus.mine.text_key.columns is missing",
        ),
        ("corpus.mine", URL | {"text_key": {"columns": []}}, "corpus.mine.text_key.columns: list should have at least"),
        ("corpus.mine", READY | {"train": ["b.bin"]}, "corpus.mine: b.bin is named twice in train and valid"),
        ("corpus.mine", READY | {"train": ["a_{10..08}.bin", "z.bin"]}, "corpus.mine.train: {10..08} counts down"),
        (
            "corpus.mine",
            READY | {"sha256": {"c.bin": SUM}},
            "sha256: neither train nor valid has 'c.bin'; did you mean",
        ),
        (
            "corpus.mine",
            READY | {"train": ["http://a/b"]},
            "corpus.mine: sha256 must have the sum of http://a/b, which",
        ),
        (
            "corpus.mine",
            READY | {"revision": "main"},
            "corpus.mine: revision is that of a repository, and null without",
        ),
        ("corpus.mine", READY | {"dtype": "int32"}, "corpus.mine.dtype: input should be 'uint16' or 'uint32'"),
        ("corpus.mine", READY | {"shards": 2}, "corpus.mine: unknown key 'shards'"),
        ("corpus.stdlib", READY, "tokenizer.stdlib_bpe.corpus: stdlib has tokens and no text to learn from; take kind"),
        ("run.stdlib.train.steps", ..., "run.stdlib.train.steps is missing"),
        ("run.stdlib.train.steps", "many", "run.stdlib.train.steps: input should be a valid integer, got 'many'"),
        ("run.stdlib.train.steps", 1.5, "run.stdlib.train.steps: input should be a valid integer, got 1.5"),
        ("run.stdlib.train.steps", True, "run.stdlib.train.steps: input should be a valid integer, got True"),
        (
            "run.stdlib.sample.temperature",
            1e-9,
            "run.stdlib.sample.temperature: should be 0 or at least 0.0001, got 1e-09",
        ),
        ("run.stdlib.sample.repetition_penalty", "1e39", "input should be less than or equal to 100, got 1e+39"),
        ("run.stdlib.train.steps", -1, "run.stdlib.train.steps: input should be greater than or equal to 0, got -1"),
        ("run.stdlib.train.steps", 0, "run.stdlib: train.steps: 0 needs a start:, whose weights stay as"),
        ("run.stdlib.train", None, "run.stdlib.train must be a map, got None"),
        ("run.stdlib.model.d_head", 63, "run.stdlib.model.d_head: input should be a multiple of 2, got 63"),
        ("run.stdlib.model.n_kv_heads", 3, "run.stdlib.model: n_heads must be a multiple of n_kv_heads, got 1 and 3"),
        ("run.stdlib.train.schedule.warmup_steps", 10**6, "schedule.warmup_steps must be less than steps"),
        ("run.stdlib.train.profile_steps", [5, 3], "train: profile_steps must begin at or before their last step and"),
        ("run.stdlib.train.profile_steps", [9999, 9999], "train: profile_steps must begin at or before their last"),
        ("run.stdlib.evaluate.stride", 10**6, "run.stdlib.evaluate: stride must be at most window"),
        ("run.stdlib.evaluate.sets", ["stdlob"], "run.stdlib.evaluate.sets: no corpus is called 'stdlob'; did you"),
        ("run.stdlib.tasks", ["piqqa"], "run.stdlib.tasks: no task is called 'piqqa'; did you mean 'piqa'?"),
        ("task.piqa.file", "a.yaml", "task.piqa: a task needs one of name and file, the other null"),
        ("task.piqa.shots", 1, "task.piqa: unknown key 'shots'; known here: num_fewshot, limit, logprobs, name, file"),
        ("run.stdlib.mesh.data", 0, "run.stdlib.mesh: axes are 1 or more"),
        ("run.stdlib.hardware.devices", 0, "hardware.devices: input should be local or a number of 1"),
        (
            "run.stdlib.hardware.devices",
            "8",
            "hardware.devices: input should be local or a number of 1",
        ),
        ("run.stdlib.hardware.topology", "v3:16x8", "run.stdlib.hardware: topology needs devices, how many it has"),
        (
            "run.stdlib.compute.attention",
            "cudnn",
            "run.stdlib: compute.attention: cudnn needs model.compute_dtype: bfloat16 and model.dropout: 0, got",
        ),
        ("run.stdlib.compute.accumulate", 3, "run.stdlib: train.batch_size must be a multiple of compute.accumulate"),
        ("weights", None, "weights must be a map of named entries, got None"),
        ("run.stdlib.corpus", "stdlob", "run.stdlib.corpus: no corpus is called 'stdlob'; did you mean 'stdlib'?"),
        (
            "run.stdlib.corpus",
            {"stdlib": 1, "stdlob": 1},
            "run.stdlib.corpus: no corpus is called 'stdlob'; did you me",
        ),
        ("run.stdlib.corpus", {}, "run.stdlib.corpus: input should be a corpus's name, or names with weights"),
        ("run.stdlib.corpus", ["stdlib"], "run.stdlib.corpus: input should be a corpus's name, or names with weights"),
        (
            "run.stdlib.corpus",
            {"stdlib": 0},
            "corpus: the weight of stdlib should be a number greater than 0, got 0",
        ),
        (
            "run.stdlib.corpus",
            {"stdlib": "x"},
            "run.stdlib.corpus: the weight of stdlib should be a number greater than",
        ),
        (
            "run.stdlib.corpus",
            {"a": 1, "b": 1e-9},
            "run.stdlib.corpus: the weights are whole parts of no number up to 100,",
        ),
        ("run.stdlib.train.order", "shuffle", "run.stdlib.train.order: input should be 'shuffled'"),
        ("run.stdlib.tokenizer", "zzz", "run.stdlib.tokenizer: no tokenizer is called 'zzz'; there are: stdlib_bpe"),
        ("runs", ["stdlop"], "runs: no run is called 'stdlop'; did you mean 'stdlib'?"),
        ("runs", [], "runs: list should have at least 1 item"),
        ("runs", "stdlib", "runs: input should be a valid list"),
        ("runs", [{"stdlib": None}], "runs: expected names of runs, got {'stdlib': None}; leave out the colon"),
        ("runs", [["stdlib"]], "runs: expected names of runs, got ['stdlib']"),
        ("runs", [False], "runs: expected names of runs, got False; put it in quotes"),
        ("run.a", {"corpus": "stdlib"}, "run.a.tokenizer is missing; base: would take it from another run (and"),
        (
            f"run.{'a' * 201}",
            {"base": "stdlib"},
            f"run: a name has at most 200 characters, that of '{'a' * 40}'... has",
        ),
        ("run.a", {"base": ["stdlib"]}, "run.a.base must be the name of a run, got ['stdlib']"),
        ("corpus.a", {"base": {}}, "corpus.a.base must be the name of a corpus, got {}"),
        ("run", None, "run must be a map of named entries, got None"),
        ("run.stdlib", None, "run.stdlib must be a map, got None"),
        (
            "run.a/b",
            DEFAULT["run"]["stdlib"],
            "run: a name begins with a letter or digit and goes on with those and ._",
        ),
        ("tokenizer.stdlib_bpe.vocab_size", None, "tokenizer.stdlib_bpe.vocab_size: input should be a valid integer"),
        ("tokenizer.stdlib_bpe.vocab_size", 256, "tokenizer.stdlib_bpe.vocab_size: input should be greater than"),
        ("tokenizer.stdlib_bpe.corpus", None, "tokenizer.stdlib_bpe.corpus: input should be a valid string, got None"),
        ("tokenizer.stdlib_bpe.corpus", "none", "tokenizer.stdlib_bpe.corpus: no corpus is called 'none'"),
        ("tokenizer.stdlib_bpe.encoding", "gpt2", "tokenizer.stdlib_bpe: unknown key 'encoding'; known here: begin"),
        ("tokenizer.stdlib_bpe.kind", "tiktokn", "tokenizer.stdlib_bpe.kind must be one of bpe, byte, char, tiktoken"),
        ("tokenizer.stdlib_bpe.kind", "tiktokn", "got 'tiktokn'; did you mean 'tiktoken'?"),
        ("tokenizer.stdlib_bpe.begin_of_text", ..., "tokenizer.stdlib_bpe.begin_of_text is missing"),
        ("tokenizer.stdlib_bpe", GPT2 | {"encoding": "gpt5"}, "stdlib_bpe.encoding: input should be 'gpt2', "),
        ("tokenizer.stdlib_bpe", GPT2 | {"corpus": None}, "tokenizer.stdlib_bpe: unknown key 'corpus'; known here: k"),
        ("tokenizer.stdlib_bpe", GPT2 | {"begin_of_text": True}, "stdlib_bpe: begin_of_text and end_of_text are one"),
        (
            "tokenizer.stdlib_bpe",
            GPT2 | {"encoding": "p50k_base", "encoder": "gigatoken"},
            "stdlib_bpe: encoder: gigatoken does not know p50k_base; set it to tiktoken",
        ),
        ("tokenizer.stdlib_bpe", HUB | {"file": "a.json"}, "stdlib_bpe: kind: huggingface needs one of file and rep"),
        (
            "tokenizer.stdlib_bpe",
            HUB | {"begin_of_text": False},
            "stdlib_bpe.begin_of_text: should be the text of one of its tokens, or null for none, got False",
        ),
        (
            "tokenizer.stdlib_bpe",
            HUB | {"end_of_text": ""},
            "stdlib_bpe.end_of_text: should be the text of one of its tokens, or null for none, got ''",
        ),
        ("tokenizer.stdlib_bpe", HUB | {"repository": None}, "stdlib_bpe: kind: huggingface needs one of file and r"),
        (
            "tokenizer.stdlib_bpe",
            HUB | {"repository": None, "file": "a.json", "revision": "main"},
            "stdlib_bpe: revision is for a repository",
        ),
    ],
)
def test_what_is_wrong_is_refused_in_one_line_that_names_the_key(path, value, expected):
    assert expected in refusal(changed(path, value))


@pytest.mark.parametrize(
    ("kind", "entry", "expected"),
    [
        ("corpus", None, "corpus.mine must be a map, got None"),
        ("tokenizer", [], "tokenizer.mine must be a map, got []"),
        ("weights", 3, "weights.mine must be a map, got 3"),
        ("task", ["piqa"], "task.mine must be a map, got ['piqa']"),
        ("corpus", URL | {"clean": ["ftfy"]}, "corpus.mine.clean must be a map, got ['ftfy']"),
        ("corpus", READY | {"sha256": [SUM]}, "corpus.mine.sha256 must be a map, got ["),
        ("corpus", READY | {"sha256": {3: SUM}}, "corpus.mine.sha256: a name must be text, got 3; put it in quotes"),
    ],
)
def test_an_entry_of_the_wrong_shape_is_one_line(kind, entry, expected):
    assert expected in refusal(changed(f"{kind}.mine", entry))


def test_a_number_or_a_line_is_no_name():
    raw = deepcopy(DEFAULT)
    raw["corpus"] = {**raw["corpus"], 2024: URL}
    assert "corpus: a name must be text, got 2024; put it in quotes" in refusal(raw)
    assert "run: a name begins with" in refusal(with_runs(**{"a\nb": {"base": "stdlib"}}))


def test_learned_positions_end_at_the_context():
    model = {"positions": {"kind": "learned"}, "context_length": 201}
    settings = configfile.load(with_runs(a={"base": "stdlib", "model": model, "evaluate": {"window": 201}}))
    assert settings.run["a"].model.positions.kind == "learned"
    short = {"base": "stdlib", "model": model | {"context_length": 200}}
    line = refusal(with_runs(a=short))
    assert "run.a: sample.max_new_tokens must be less than model.context_length" in line and "got 200 and 200" in line
    line = refusal(with_runs(a=short | {"sample": {"max_new_tokens": 199}}))
    assert "run.a: evaluate.window must be at most model.context_length" in line and "got 256 and 200" in line


def test_weights_come_to_one_and_one_corpus_alone_is_its_name():
    raw = changed("run.stdlib.corpus", {"stdlib": 7, "other": "3e0"})
    raw["corpus"]["other"] = raw["corpus"]["stdlib"]
    run = configfile.load(raw).run["stdlib"]
    assert run.corpus == run.corpora == {"other": 0.3, "stdlib": 0.7}
    raw["run"]["stdlib"]["corpus"] = {"stdlib": 0.123}
    run = configfile.load(raw).run["stdlib"]
    assert run.corpus == "stdlib" and run.corpora == {"stdlib": 1.0}


def test_weights_that_came_to_one_stay_as_they_are():
    rng = np.random.default_rng(0)
    for _ in range(200):
        parts = rng.multinomial(PARTS - 9, [1 / 9] * 9) + 1
        once = corpus_weights({f"c{n}": int(part) for n, part in enumerate(parts)})
        assert corpus_weights(once) == once == {f"c{n}": part / PARTS for n, part in enumerate(parts)}
    assert corpus_weights({"a": 1 / 7, "b": 6 / 7}) == corpus_weights({"a": 1, "b": 6})


def test_a_mixture_replaces_the_one_it_is_laid_over():
    mixed = {"base": "stdlib", "corpus": {"stdlib": 1, "other": 3}}
    other = {"base": "a", "corpus": {"other": 0.5, "third": 0.5}}
    one, points = {"base": "a", "corpus": "third"}, {"base": "a", "grid": {"corpus.stdlib": [1, 9]}}
    whole = {"base": "stdlib", "grid": {"corpus": ["stdlib", {"stdlib": 1, "other": 1}]}}
    raw = with_runs(a=mixed, b=other, c=one, d=points, e=whole)
    raw["corpus"] |= dict.fromkeys(("other", "third"), raw["corpus"]["stdlib"])
    runs = {name: run.corpus for name, run in configfile.load(raw).run.items()}
    assert runs["a"] == {"other": 0.75, "stdlib": 0.25} and runs["b"] == {"other": 0.5, "third": 0.5}
    assert runs["c"] == "third" and runs["d-stdlib=9"] == {"other": 0.25, "stdlib": 0.75}
    assert runs["e-corpus=stdlib"] == "stdlib"
    assert runs["e-corpus=stdlib=1+other=1"] == {"other": 0.5, "stdlib": 0.5}


def test_masked_documents_need_the_token_that_parts_them():
    raw = changed("run.stdlib.model.mask_documents", True)
    assert configfile.load(raw).run["stdlib"].model.mask_documents
    raw["tokenizer"]["stdlib_bpe"]["end_of_text"] = False
    assert "set tokenizer.stdlib_bpe.end_of_text" in refusal(raw)


def test_numbers_as_people_write_them_are_numbers():
    raw = yaml.safe_load("{small: 1e-3, large: 1e6}")
    assert raw == {"small": "1e-3", "large": "1e6"}, "YAML 1.1 wants 1.0e-3"
    settings = configfile.load(changed("run.stdlib.train.optimizer.eps", raw["small"]))
    assert settings.run["stdlib"].train.optimizer.eps == 0.001
    settings = configfile.load(changed("run.stdlib.train.steps", raw["large"]))
    assert settings.run["stdlib"].train.steps == 10**6


def test_overrides_are_typed_and_checked_like_the_file():
    settings = configfile.load({**DEFAULT, "set": "run.stdlib.train.steps=50 run.stdlib.sample.prompts='[\"a b\", c]'"})
    assert settings.run["stdlib"].train.steps == 50
    assert settings.run["stdlib"].sample.prompts == ["a b", "c"]
    assert configfile.load({**DEFAULT, "set": "runs=[stdlib]"}).runs == ["stdlib"]
    assert "run.stdlib.train.steps: input should be" in refusal({**DEFAULT, "set": "run.stdlib.train.steps=soon"})
    assert "did you mean 'steps'" in refusal({**DEFAULT, "set": "run.stdlib.train.step=5"})
    assert "expected key.key=value" in refusal({**DEFAULT, "set": "run.stdlib.train.steps"})
    assert "run.stdlib.cores.x: cores is no section" in refusal({**DEFAULT, "set": "run.stdlib.cores.x=5"})


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("run.stdlib.train.steps=0100", "set: run.stdlib.train.steps: cannot read '0100': 0100 would be 64; write"),
        ("run.stdlib.tracking.project=2024-13-45", "cannot read '2024-13-45': month must be in 1..12"),
    ],
)
def test_an_override_that_cannot_be_read_says_why(text, line):
    with pytest.raises(UserError, match=line):
        configfile.override({}, text)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("run.stdlob.train.steps=9 run.stdlob.cores=1", "set: no run is called 'stdlob'; did you mean 'stdlib'?"),
        ("corpus.stdlob.shards=9", "set: no corpus is called 'stdlob'; did you mean 'stdlib'?"),
        ("tokenizer.stdlib_bep.kind=bpe", "set: no tokenizer is called 'stdlib_bep'; did you mean 'stdlib_bpe'?"),
        ("task.piqqa.limit=9", "set: no task is called 'piqqa'; did you mean 'piqa'?"),
        ("weights.mine.path=a", "set: no entry of weights is called 'mine'; there are: none"),
    ],
)
def test_an_override_of_a_misspelt_entry_names_the_one_that_was_meant(override, expected):
    assert expected in refusal({**DEFAULT, "set": override})


def test_overrides_may_make_an_entry():
    words = "weights.mine.source=local weights.mine.path=a run.new.train.steps=50 run.new.base=stdlib"
    settings = configfile.load({**DEFAULT, "set": words})
    assert settings.weights["mine"].path == "a" and settings.run["new"].train.steps == 50


def test_the_raw_configuration_is_left_as_it_was():
    raw = {**deepcopy(DEFAULT), "set": "run.stdlib.train.steps=50"}
    before = deepcopy(raw)
    configfile.load(raw)
    assert raw == before


def with_runs(**runs: dict) -> dict:
    """Returns the default configuration with more runs."""
    raw = deepcopy(DEFAULT)
    raw["run"] |= runs
    return raw


def test_a_run_is_its_base_and_what_it_changes():
    raw = with_runs(
        longer={"base": "stdlib", "train": {"steps": 1000}}, wider={"base": "longer", "model": {"d_ff": 512}}
    )
    settings = configfile.load(raw)
    wider, default = settings.run["wider"], settings.run["stdlib"]
    assert (wider.train.steps, wider.model.d_ff) == (1000, 512)
    assert wider.train.optimizer == default.train.optimizer


def test_multipliers_of_a_base_are_added_to_and_taken_off():
    def run(base, multipliers):
        return {"base": base, "train": {"optimizer": {"rate_multipliers": multipliers}}}

    raw = with_runs(one=run("stdlib", {"mlp": 0.5}), two=run("one", {"head": 2}), none=run("two", None))
    found = {name: run.train.optimizer.rate_multipliers for name, run in configfile.load(raw).run.items()}
    assert found == {"stdlib": {}, "one": {"mlp": 0.5}, "two": {"mlp": 0.5, "head": 2}, "none": {}}


def test_bases_that_go_in_a_circle_or_nowhere_are_refused():
    assert "base goes in a circle: a -> b -> a" in refusal(with_runs(a={"base": "b"}, b={"base": "a"}))
    assert "run.a.base: no run is called 'stdlab'; did you mean" in refusal(with_runs(a={"base": "stdlab"}))


def test_a_grid_is_one_run_per_point():
    grid = {"train.seed": [0, 1], "model.d_ff": [128, 256]}
    settings = configfile.load({**with_runs(sweep={"base": "stdlib", "grid": grid}), "runs": ["stdlib", "sweep"]})
    names = [f"sweep-seed={seed}-d_ff={d_ff}" for seed in (0, 1) for d_ff in (128, 256)]
    assert settings.runs == ["stdlib", *names]
    assert (settings.run[names[1]].train.seed, settings.run[names[1]].model.d_ff) == (0, 256)


def test_points_over_lists_and_maps_have_names():
    grid = {
        "train.optimizer.decay": [["matrices"], ["matrices", "head"], []],
        "sample.stop": [["x", "\n\n"]],
        "train.optimizer.rate_multipliers": [{"w/up": 0.5, "head": "1e-1"}],
    }
    runs = configfile.load(with_runs(a={"base": "stdlib", "grid": grid})).run
    rest = "-stop=x-__-rate_multipliers=w_up=0.5+head=1e-1"
    names = ["a-decay=matrices", "a-decay=matrices-head", "a-decay=none"]
    assert list(runs) == ["stdlib", *(name + rest for name in names)]
    assert runs["a-decay=matrices-head" + rest].train.optimizer.decay == ["matrices", "head"]


@pytest.mark.parametrize("values", [[["a b"], ["a_b"]], [["x"], ["x"]], [[], ["none"]]])
def test_two_points_of_one_name_are_refused(values):
    raw = with_runs(a={"base": "stdlib", "grid": {"sample.stop": values}})
    assert "run.a.grid: two runs would be called a-stop=" in refusal(raw)


def test_a_run_that_is_named_twice_is_one():
    raw = with_runs(a={"base": "stdlib", "grid": {"train.seed": [1, 2]}})
    assert configfile.load(raw | {"runs": ["a-seed=2", "a", "stdlib", "a"]}).runs == ["a-seed=2", "a-seed=1", "stdlib"]


def test_a_point_that_has_the_name_of_a_run_is_refused():
    raw = with_runs(**{"a": {"base": "stdlib", "grid": {"train.seed": [1]}}, "a-seed=1": {"base": "stdlib"}})
    assert "run.a.grid: two runs would be called a-seed=1" in refusal(raw)


@pytest.mark.parametrize("grid", [{}, {"train.seed": 3}, {"train.seed": []}, {1: [2]}, [1]])
def test_a_grid_of_another_form_is_refused(grid):
    assert "run.a.grid must map dotted keys to lists" in refusal(with_runs(a={"base": "stdlib", "grid": grid}))


def test_a_grid_over_an_unknown_key_is_refused():
    assert "unknown key 'sed'" in refusal(with_runs(a={"base": "stdlib", "grid": {"train.sed": [1, 2]}}))


def test_keys_are_of_two_kinds():
    run = configfile.load(DEFAULT).run["stdlib"]
    result, execution = split_keys(run)
    assert result["train"]["steps"] == run.train.steps and "log_every" not in result["train"]
    assert set(execution) == {"cores", "hardware", "mesh", "compute", "train", "tracking"}
    cadence = {"checkpoint_every", "checkpoint_minutes", "keep_checkpoints", "keep_every", "keep_best"}
    watching = {"log_every", "statistics_every", "profile_steps"}
    assert set(execution["train"]) == {*cadence, *watching, "time_limit", "lock_wait", "resume_from"}
    assert "mesh" not in result and set(execution["mesh"]) == {"data", "fsdp", "tensor"}
    assert configfile.merge(result, execution) == run.model_dump()


def test_one_value_is_read_as_a_list_and_a_name_as_columns():
    found = configfile.load(changed("corpus.mine", URL)).corpus["mine"]
    assert (found.url, found.sha256) == (["https://a/b.txt"], [SUM])
    assert found.text_key == TextKey(columns=["text"], separator="", split_at=None)
    parted = configfile.load(changed("corpus.mine", URL | {"text_key": {"split_at": "%"}})).corpus["mine"]
    assert parted.text_key == TextKey(columns=["text"], separator="", split_at="%")
    again = configfile.parse(UrlCorpus, split_keys(found)[0], "again")  # as a stage gets it
    assert again == found


def test_numbered_files_are_as_many_and_each_is_a_shard():
    found = configfile.load(changed("corpus.mine", READY | {"train": ["a_{08..11}.bin", "z.bin"]})).corpus["mine"]
    assert found.train == ["a_08.bin", "a_09.bin", "a_10.bin", "a_11.bin", "z.bin"] and found.shards == 5
