"""What stage sample_model writes of a text; the whole stage runs in test_workflow.py."""

from sample_model import describe, parses
from test_prompts import encoding

from makelm.generate import Options, Written
from makelm.prompts import Prompt


def test_a_line_has_all_that_was_asked_and_written():
    ids = encoding.encode("é = 1\nx")
    logprobs, others = [-0.5] * len(ids), [((97, -0.123456789),)] * len(ids)
    options = Options(max_new_tokens=9, temperature=0.5, top_k=3, seed=4, stop=("xy",), logprobs=1)
    line = describe(
        encoding, 2, Prompt("a = 0\n", [1]), options, Written(ids, "é = 1\n", logprobs, others, "stop"), "python"
    )
    assert line["options"] == {
        "max_new_tokens": 9,
        "temperature": 0.5,
        "top_k": 3,
        "top_p": None,
        "min_p": None,
        "repetition_penalty": None,
        "stop": ["xy"],
    }
    assert (line["index"], line["prompt"], line["seed"], line["finish_reason"]) == (2, "a = 0\n", 4, "stop")
    assert line["tokens"] == ids and line["parses"] is True
    assert line["alternatives"][0] == [[97, -0.12346]] and len(line["logprobs"]) == len(ids)
    # a character of two tokens is the second's, what a stop string cut off is nobody's
    assert line["pieces"] == ["", "é", " ", "=", " ", "1", "\n", ""]


def test_what_was_cut_is_python_up_to_its_last_statement():
    assert parses("x = 1\ny = (", complete=False) and not parses("x = 1\ny = (", complete=True)
