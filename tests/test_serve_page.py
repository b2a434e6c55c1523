"""The page to try a served model, as it is sent."""

import re

from makelm import pages


def test_the_page_is_one_file_that_a_strict_policy_lets_pass():
    page = pages.render("serve_page.html.j2", run="</script><b>&'\"")
    assert len(re.findall("<style", page)) == len(re.findall("<script", page)) == 1
    body = page.partition("<body>")[2].partition("<script")[0]
    assert not re.findall(r"\s(?:style|on[a-z]+)=", body)
    assert not re.findall(r"(?:src|href)=(?!\"data:)", page.partition("<script")[0]), "it would ask for another file"
    assert "innerHTML" not in page and "<b>" not in page


def test_fields_are_labelled_and_tell_what_is_wrong():
    page = pages.render("serve_page.html.j2", run="r")
    fields = re.findall(r'<(?:input|textarea) id="(\w+)" name="\1"', page)
    assert {
        "prompt",
        "temperature",
        "top_k",
        "top_p",
        "min_p",
        "repetition_penalty",
        "max_tokens",
        "n",
        "seed",
        "stop",
    } == (set(fields))
    for name in fields:
        assert f'<label for="{name}">' in page and f'id="{name}-wrong"' in page and f"{name}-about" in page


def test_a_browser_that_runs_no_script_says_so():
    assert "<noscript>" in pages.render("serve_page.html.j2", run="r").partition("<form")[0]
