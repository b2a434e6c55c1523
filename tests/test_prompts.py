"""Prompts: texts, files of them, and beginnings of validation documents."""

import json

import numpy as np
import pytest
import yaml
from checkout import ROOT

from makelm import artifacts, config, configfile, prompts, shards, source_files, vocabulary
from makelm.config_asking import prompt
from makelm.config_tokenizer import ByteTokenizer
from makelm.errors import UserError

BYTES = {"kind": "byte", "begin_of_text": False, "end_of_text": True}
encoding, _ = vocabulary.existing(configfile.parse(ByteTokenizer, BYTES, "test"))
END = encoding.end_of_text


class Folder(shards.Folder):
    """Token shards whose ids are at hand."""

    valid: list = None

    def __init__(self, path, begin, end, *ids):
        super().__init__(path, [{"begin_of_text": begin, "end_of_text": end}], {})
        self.__dict__["valid"] = [np.array(each, np.uint16) for each in ids]


def told(wanted: list, folders=None) -> list[str]:
    found = prompts.gather(wanted, encoding, folders or {})
    assert all(each.ids == [END, *encoding.encode(each.text)] for each in found)
    return [each.text for each in found]


def test_a_file_is_one_prompt_and_of_jsonl_each_line_is_one(tmp_path):
    (tmp_path / "a.txt").write_text("two\nlines\n\n")
    (tmp_path / "b.jsonl").write_text('"one"\n\n{"prompt": "über\\n", "id": 7}\n')
    wanted = ["x", {"file": str(tmp_path / "a.txt")}, {"file": str(tmp_path / "b.jsonl")}, ""]
    assert told(wanted) == ["x", "two\nlines\n", "one", "über\n", ""]


@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
def test_what_editors_of_windows_put_around_is_no_part_of_a_prompt(tmp_path, bom):
    (tmp_path / "a.txt").write_bytes(bom + b"two\r\nlines\r\n\r\n")
    (tmp_path / "b.jsonl").write_bytes(bom + b'"one"\r\n\r\n{"prompt": "two"}\r\n')
    wanted = [{"file": str(tmp_path / "a.txt")}, {"file": str(tmp_path / "b.jsonl")}]
    assert told(wanted) == ["two\r\nlines\r\n", "one", "two"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'"one"\n{"text": "x"}\n', r'a.jsonl, line 2 should be a string or {"prompt": "..."}'),
        ("a.jsonl", b"one\n", "line 1 should be a string"),
        ("a.jsonl", b"\n", "has no prompt"),
        ("a.txt", b"\xff", "is not UTF-8"),
    ],
)
def test_what_is_no_prompt_is_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        told([{"file": str(tmp_path / name)}])
    with pytest.raises(UserError, match="cannot read"):
        told([{"file": str(tmp_path / "none.txt")}])


def test_validation_documents_begin_prompts(tmp_path):
    texts = [encoding.encode(text) for text in ("first", "", "second", "third", "fourth")]
    ids = [[*texts[0], END, *texts[1], END, *texts[2], END], [*texts[3], END, *texts[4], END]]
    folders = {"a": Folder(tmp_path, None, END, *ids), "b": Folder(tmp_path, None, None, *ids[:0], texts[4])}
    assert told([{"validation": 1, "tokens": 3}], folders) == ["fir", "fou"]
    assert told([{"validation": 3, "tokens": 99}], {"a": folders["a"]}) == ["first", "second", "third"]
    with pytest.raises(UserError, match="has 4 validation documents, fewer than the 5 wanted"):
        told([{"validation": 5, "tokens": 1}], {"a": folders["a"]})


def test_the_configuration_knows_three_kinds_of_prompts(tmp_path):
    assert prompt({"validation": 2, "tokens": 1e1}) == {"validation": 2, "tokens": 10}
    for wrong in ({"file": ""}, {"file": 3}, {"validation": 0, "tokens": 1}, {"validation": 1}, {"path": "a"}, 3, None):
        with pytest.raises(ValueError, match=r"a prompt should be a text, {file: a path} or"):
            prompt(wrong)


def test_files_of_prompts_are_known_before_anything_runs(tmp_path):
    def settings(path) -> config.Config:
        raw = yaml.safe_load((ROOT / "config.yaml").read_text())
        configfile.override(raw, f"run.stdlib.sample.prompts='[{json.dumps({'file': str(path)})}]'")
        return configfile.load(raw)

    path = tmp_path / "p.txt"
    with pytest.raises(UserError, match=r"run.stdlib.sample.prompts: no such file: .*p.txt"):
        source_files.of_prompts(settings(path))
    path.write_text("x")
    assert source_files.of_prompts(settings(path)) == {"stdlib": [str(path)]}
    assert not artifacts.asks_documents(settings(path).run["stdlib"])
