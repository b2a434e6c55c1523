"""What all pages share, and the page of samples."""

import pytest
from page_elements import Elements
from report_tree import HOSTILE, sample

from makelm import pages, samples_page


def test_samples_page_shows_prompt_continuation_and_whether_it_parses():
    page = samples_page.render("r", [sample(), sample(HOSTILE, "x = (", False)], {"tokenizer": "bpe"})
    assert '<span class="prompt">def </span><span class="text">f(): pass\n</span></pre>' in page
    text = Elements(page).text
    assert "✓ parses as Python" in text and "✗ does not parse" in text and "1 of 2" in text
    assert "cut at 3 tokens" in text and "temperature 0.8, top_p 0.95" in text
    assert samples_page.rate([sample(parses=None)]) == ""


def test_tokens_are_shaded_by_how_sure_the_model_was():
    sure = sample(text="ab<c") | {"logprobs": [-0.1, -0.2, -9.0], "pieces": ["a", "b", "<c"], "finish_reason": "stop"}
    assert samples_page.shaded(sure) == [(0, "ab"), (4, "<c")]
    page = samples_page.render("r", [sure], {})
    assert '<span class="text"><span class="p0">ab</span><span class="p4">&lt;c</span></span></pre>' in page
    assert "ended by a stop string after 3 tokens" in page and '<span class="p1">50 %</span>' in page
    assert "50 %" not in samples_page.render("r", [sample()], {})


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (9999, "9,999"), (20_480, "20.5k"), (999_999, "1M"), (1_270_016, "1.27M"), (2e12, "2T")],
)
def test_counts_read_easily(number, text):
    assert pages.count(number) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.42, "0.4 s"), (12.2, "12 s"), (208.4, "3 min 28 s"), (18_120, "5 h 02 min")]
)
def test_durations_read_easily(seconds, text):
    assert pages.duration(seconds) == text


@pytest.mark.parametrize(("value", "text"), [(1e-8, "1e-8"), (0.02, "0.02"), (None, "null"), (["a\n", 1], "'a\\n', 1")])
def test_values_read_as_in_the_config_file(value, text):
    assert pages.plain(value) == text
