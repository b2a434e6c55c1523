"""The folders of corpora as the words of a command line give them."""

from pathlib import Path

import pytest

from makelm import sources
from makelm.errors import UserError


def test_one_corpus_needs_no_name():
    assert sources.paths(["a"], ["en"], "--shards") == sources.paths(["en=a"], ["en"], "--shards") == {"en": Path("a")}


def test_a_corpus_may_be_named_as_another_and_more():
    words = ["en=clean=b", "en=a", "de=c=d"]
    assert sources.paths(words, ["de", "en", "en=clean"], "--shards") == {
        "de": Path("c=d"),
        "en": Path("a"),
        "en=clean": Path("b"),
    }


@pytest.mark.parametrize("words", [[], ["a"], ["en=a"], ["en=a", "en=b"], ["en=a", "fr=b"], ["en=a", "de=b", "fr=c"]])
def test_each_of_several_is_named_once_and_no_other(words):
    with pytest.raises(UserError, match=r"^--shards needs one (en|de)=FOLDER, and one for each other corpus of en, de"):
        sources.paths(words, ["en", "de"], "--shards")
