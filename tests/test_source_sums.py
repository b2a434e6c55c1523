"""Sources: where a file that an artifact was made of is another one now, that is said."""

import hashlib
from copy import deepcopy
from pathlib import Path

import pytest
import yaml
from test_data_stages import corpus_keys, run

from makelm import closure, configfile, manifest, source_sums, verification
from makelm.artifacts import Artifact

DEFAULT = yaml.safe_load((Path(__file__).parent.parent / "config.yaml").read_text())
SPLIT = {"max_documents": None, "clean": None, "shards": 1, "split": "tail", "valid_fraction": 0.1}


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def described(**texts: str) -> dict:
    """Returns files as a manifest describes them; _ in a name stands for a dot."""
    found = {name.replace("_", "."): text for name, text in texts.items()}
    return {name: {"bytes": len(text), "sha256": sha256(text)} for name, text in found.items()}


def changes(place: str, content: dict, **sections: dict) -> list[str]:
    """Returns what is said of an artifact in a configuration with more entries."""
    settings = configfile.load(configfile.merge(deepcopy(DEFAULT), sections))
    artifact = Artifact(place.split("/")[0], f"{place}/manifest.json", {}, {})
    return list(source_sums.changes(settings, artifact, {"files": {}, "facts": {}} | content))


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_files_of_a_corpus_that_changed_came_or_went_are_named(here):
    (here / "texts").mkdir()
    for name in ("same", "other", "new"):
        (here / f"texts/{name}.txt").write_text(name)
    (here / "asked.txt").write_text("new question")
    before = {"texts/same.txt": "same", "texts/other.txt": "what it was", "texts/gone.txt": "gone"}
    facts = {
        "source": {"files": {name: {"bytes": 1, "sha256": sha256(text)} for name, text in before.items()}},
        "contamination": {"evaluation_texts": {"asked.txt": {"sha256": sha256("old question")}}},
    }
    clean = dict.fromkeys(
        ("ftfy", "normalize", "min_bytes", "max_bytes", "min_unique_words", "max_repeated_lines", "max_top_2gram")
    )
    clean |= {"max_repeated_5grams": None, "deduplicate": False, "max_contamination": 0.5}
    clean |= {"evaluation_texts": {"paths": ["asked.txt"], "text_key": "text"}}
    mine = {"source": "local", "paths": ["texts"], "text_key": "text", **SPLIT, "clean": clean}
    assert sorted(changes("download_corpus/mine", {"facts": facts}, corpus={"mine": mine})) == [
        "asked.txt is another one now",
        "texts/gone.txt is gone",
        "texts/new.txt is new",
        "texts/other.txt is another one now",
    ]
    (here / "asked.txt").unlink()
    (line,) = changes("download_corpus/mine", {"facts": facts}, corpus={"mine": mine})
    assert line == "corpus.clean.evaluation_texts.paths: no such file: asked.txt"


def test_a_data_set_in_a_folder_and_token_files_are_compared(here):
    (here / "rows").mkdir()
    (here / "rows/train.jsonl").write_text("new")
    rows = {"source": "huggingface", "dataset": "rows", "subset": None, "revision": None, "dataset_split": "train"}
    rows |= {"streaming": True, "text_key": "text", **SPLIT}
    facts = {"source": {"files": described(train_jsonl="old")}}
    said = changes("download_corpus/mine", {"facts": facts}, corpus={"mine": rows})
    assert said == ["rows/train.jsonl is another one now"]
    (here / "a.bin").write_text("same")
    (here / "b.bin").write_text("new")
    ready = {"source": "tokens", "repository": None, "revision": None, "train": ["a.bin"], "valid": ["b.bin"]}
    ready |= {"dtype": "uint16", "sha256": {}}
    shards = {"train-00000.bin": "same", "valid-00000.bin": "old"}
    files = {name: {"bytes": 4, "sha256": sha256(text)} for name, text in shards.items()}
    assert changes("download_corpus/mine", {"files": files}, corpus={"mine": ready}) == ["b.bin is another one now"]


def test_weights_tokenizers_tasks_and_prompts_of_this_machine_are_compared(here):
    (here / "model").mkdir()
    (here / "model/config.json").write_text("{}")
    (here / "model/model.safetensors").write_text("new")
    weights = {"mine": {"source": "local", "path": "model"}}
    files = described(config_json="{}", model_safetensors="old", tokenizer_json="gone")
    said = changes("download_weights/mine", {"files": files}, weights=weights)
    assert said == ["model/model.safetensors is another one now", "tokenizer.json is gone"]

    (here / "sp.model").write_text("new")
    mine = {"kind": "sentencepiece", "file": "sp.model", "begin_of_text": False, "end_of_text": True}
    for text, expected in (("old", ["sp.model is another one now"]), ("new", [])):
        files = described(tokenizer_model=text, metadata_json="{}")
        assert changes("train_tokenizer/mine", {"files": files}, tokenizer={"mine": mine}) == expected

    (here / "prompts.txt").write_text("new")
    prompted = {"stdlib": {"sample": {"prompts": ["x", {"file": "prompts.txt"}]}}}
    for sums, expected in (([sha256("old")], ["prompts.txt is another one now"]), ([sha256("new")], [])):
        assert changes("sample_model/stdlib", {"facts": {"prompt_files": sums}}, run=prompted) == expected

    task = {"mine": {"name": None, "file": "task.yaml", "limit": None, "num_fewshot": None, "logprobs": False}}
    (here / "task.yaml").write_text("dataset_kwargs: {data_files: rows.jsonl}\n")
    (here / "rows.jsonl").write_text("new")
    sums = [sha256((here / "task.yaml").read_text()), sha256("old")]
    said = changes("download_task/mine", {"facts": {"sources": sums}}, task=task)
    assert said == ["rows.jsonl is another one now"]
    (here / "rows.jsonl").unlink()
    assert "its data_files are not there" in changes("download_task/mine", {"facts": {"sources": sums}}, task=task)[0]


def test_what_the_stage_writes_is_what_is_compared(tmp_path):
    """The names of both are the same: a corpus that nobody touched is not stale."""
    for folder in ("texts", "asked"):
        (tmp_path / folder / "inner").mkdir(parents=True)
        (tmp_path / folder / "a.txt").write_text("one two three four " * 20)
        (tmp_path / folder / "inner/b.txt").write_text("five six seven eight " * 20)
    clean = dict.fromkeys(
        ("ftfy", "normalize", "min_bytes", "max_bytes", "min_unique_words", "max_repeated_lines", "max_top_2gram")
    )
    clean |= {"max_repeated_5grams": None, "deduplicate": False, "max_contamination": None}
    clean |= {"evaluation_texts": {"paths": [str(tmp_path / "asked")], "text_key": "text"}}
    keys = corpus_keys(tmp_path / "texts", clean=clean)
    place = tmp_path / "results/download_corpus/mine"
    run("download_corpus", keys, tmp_path, place, "--cores", 1)
    content = manifest.read(place / "manifest.json")["content"]
    assert changes("download_corpus/mine", content, corpus={"mine": keys["corpus"]}) == []
    with (tmp_path / "texts/a.txt").open("a") as file:
        file.write("more")
    (line,) = changes("download_corpus/mine", content, corpus={"mine": keys["corpus"]})
    assert line == f"{tmp_path}/texts/a.txt is another one now"


def test_two_inputs_that_changed_places_make_an_artifact_stale():
    places = {"shards/a/00000": "encode_shard/a/t/00000.json", "shards/b/00000": "encode_shard/b/t/00000.json"}
    artifact = Artifact("train_model", "train_model/r/manifest.json", {"locked": {}}, places)
    content = {"config": {}, "packages": {}, "code": closure.closure("train_model").digest()}
    content |= {"inputs": {"shards/a/00000": "A", "shards/b/00000": "B"}}
    first, second = places.values()
    assert list(verification.stale(artifact, content, {first: "A", second: "B"})) == []
    assert len(list(verification.stale(artifact, content, {first: "B", second: "A"}))) == 2
