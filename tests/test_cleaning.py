"""Cleaning of one document at a time: what changes it, what drops it, and the counts of both."""

import os

import pytest
from conftest import DEFAULT

from makelm import cleaning, configfile, pool
from makelm.config_corpus import Clean
from makelm.documents import Document
from makelm.errors import UserError

OFF = DEFAULT["corpus"]["stdlib"]["clean"]


def cleaned(*texts: str, cores: int = 1, **keys: object) -> tuple[list[str], list[dict]]:
    """Returns the texts that stay and the steps' facts."""
    clean = configfile.parse(Clean, OFF | keys, "clean")
    documents = [Document(str(number), text) for number, text in enumerate(texts)]
    kept, steps = cleaning.clean_documents(documents, clean, cores)
    kept = list(kept)
    assert [document.id for document in kept] == sorted((document.id for document in kept), key=int)
    return [document.text for document in kept], [step.facts() for step in steps]


# ---- changes


def test_without_a_choice_there_is_no_step():
    texts = ["schÃ¶n ﬁ “x”\r\n", ""]
    assert cleaned(*texts) == (texts, [])
    documents = [Document("a", "a")]
    kept, steps = cleaning.clean_documents(documents, None, 2)
    assert (list(kept), steps) == (documents, [])


def test_wrong_decoding_is_repaired_and_nothing_else():
    found, steps = cleaned("schÃ¶n “x” ﬁ &amp; ｆ\r\n", "schön", "a\x00b", ftfy="repair")
    assert found == ["schön “x” ﬁ &amp; ｆ\r\n", "schön", "ab"]
    assert steps[0] | {"bytes_in": 0} == {
        **{"step": "ftfy", "documents_in": 3, "documents_out": 3, "bytes_in": 0, "dropped": {}, "changed": 2},
        "bytes_out": sum(len(text.encode()) for text in found),
    }


def test_all_of_ftfy_straightens_quotes_widths_and_line_ends():
    assert cleaned("schÃ¶n “x” ﬁ &amp; ｆ\r\n", ftfy="all")[0] == ['schön "x" fi & f\n']


def test_normalisation_composes_and_folds():
    assert cleaned("e\u0301 ﬁ ²", normalize="NFC")[0] == ["é ﬁ ²"]
    found, steps = cleaned("e\u0301 ﬁ ²", "plain", ftfy="repair", normalize="NFKC")
    assert found == ["é fi 2", "plain"]
    assert [(step["step"], step["changed"]) for step in steps] == [("ftfy", 0), ("normalize", 1)]
    assert steps[0]["bytes_out"] == steps[1]["bytes_in"] == 15 and steps[1]["bytes_out"] == 12


# ---- filters


@pytest.mark.parametrize(
    ("key", "bound", "kept", "dropped"),
    [
        ("min_bytes", 4, ["abcd", "ää"], ["abc", "", "ä"]),
        ("max_bytes", 4, ["abcd", "ää", ""], ["abcde", "äää"]),
        ("min_unique_words", 3, ["one two three", "a b c a"], ["One one ONE two", "", "---"]),
        ("max_repeated_lines", 0.5, ["a\na", "a\nb\n\n\n", "", " a\na\nb"], ["a\na\na", "a\r\n  a\na\nb\na"]),
        ("max_repeated_5grams", 0.5, ["a b c d e", "a a", "a a a a a a"], ["a a a a a a a", "1 2 3 4 5 " * 4]),
        ("max_top_2gram", 0.5, ["a b", "a b c", "", "a b a b c d"], ["a a a", "a a a b"]),
    ],
)
def test_each_filter_drops_what_is_beyond_its_bound(key, bound, kept, dropped):
    found, (step,) = cleaned(*kept, *dropped, **{key: bound})
    assert found == kept
    sizes = [sum(len(text.encode()) for text in texts) for texts in (kept, dropped)]
    assert step == {
        **{"step": "filter", "documents_in": len(kept + dropped), "bytes_in": sum(sizes), "changed": 0},
        **{"documents_out": len(kept), "bytes_out": sizes[0]},
        "dropped": {key: {"documents": len(dropped), "bytes": sizes[1]}},
    }


def test_a_document_counts_for_the_first_filter_it_does_not_pass_after_its_repair():
    _, (ftfy, step) = cleaned("Ã¶", "a a a a", "fine text", ftfy="repair", min_bytes=3, min_unique_words=2)
    assert step["dropped"] == {
        "min_bytes": {"documents": 1, "bytes": 2},
        "min_unique_words": {"documents": 1, "bytes": 7},
    }
    assert ftfy["bytes_out"] == step["bytes_in"] == 18 and step["bytes_out"] == 9


# ---- processes


def test_so_many_cores_clean_alike(monkeypatch):
    monkeypatch.setattr(cleaning, "BATCH", 100)
    texts = [f"{'Ã¶' * (number % 7)} word {number}\n" * (number % 5) for number in range(100)]
    keys = {"ftfy": "repair", "min_bytes": 20, "max_repeated_lines": 0.9}
    one = cleaned(*texts, cores=1, **keys)
    assert one == cleaned(*texts, cores=3, **keys)
    assert 0 < one[1][0]["changed"] < one[1][0]["documents_out"] and 0 < len(one[0]) < 100


def halve(number: int) -> int:
    if number % 2:
        raise UserError(f"{number} is odd")
    if number > 100:
        os._exit(1)
    return number // 2


def test_no_more_is_read_than_processes_work_at():
    read = []
    things = (read.append(number) or number for number in range(0, 20, 2))
    results = pool.in_order(halve, things, 2)
    assert next(results) == 0 and len(read) == 3
    assert list(results) == list(range(1, 10))


def test_what_goes_wrong_in_a_process_is_told():
    with pytest.raises(UserError, match="3 is odd"):
        list(pool.in_order(halve, [2, 3, 4, 6], 2))
    with pytest.raises(UserError, match="a process of this stage was killed"):
        list(pool.in_order(halve, [2, 102], 2))


def test_a_filter_that_only_the_configuration_knows_is_an_error(monkeypatch):
    monkeypatch.delitem(cleaning.FILTERS, "min_bytes")
    with pytest.raises(KeyError, match="min_bytes"):
        cleaned("a", min_bytes=2)
