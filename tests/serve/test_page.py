"""The page to try a model, driven in a browser without a screen against a server of a small run."""

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from math import exp, log

import pytest
from served import Server, need_serving, running

from makelm import pages

need_serving()
playwright = pytest.importorskip("playwright.sync_api")
expect, Page, Route = playwright.expect, playwright.Page, playwright.Route
expect.set_options(timeout=30_000)  # a machine may do other things too

ASKED = "**/v1/completions"
PRESS_STOP = """
new MutationObserver((_, self) => {
  if (!document.querySelector(".token")) return;
  self.disconnect();
  document.querySelector("#write").click();
}).observe(document.querySelector("#texts"), { childList: true, subtree: true })
"""
WRITES = {"seed": 3, "max_tokens": 24, "temperature": 1}


@pytest.fixture
def visit(browser, served) -> Iterator[Callable[..., Page]]:
    """Opens the page. Afterwards its console must be empty, and nobody but its server may have been asked."""
    opened, said, asked = [], [], set()

    def visit(server: Server = served, width: int = 1280, height: int = 900, **more) -> Page:
        context = browser.new_context(viewport={"width": width, "height": height}, **more)
        context.on("request", lambda request: asked.add(request.url.partition("/v1")[0].rstrip("/")))
        page = context.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto(server.url)
        opened.append((context, server.url))
        return page

    yield visit
    for context, _ in opened:
        context.close()
    # what a browser says itself of an answer such as 400 is no mistake of the page
    assert [text for text in said if not text.startswith("Failed to load resource")] == []
    assert asked == {url for _, url in opened}


def fill(page: Page, prompt: str, **options: float | str) -> None:
    """Types a prompt and options."""
    for name, value in ({"prompt": prompt} | options).items():
        page.fill(f"#{name}", str(value))


def write(page: Page, prompt: str, **options: float | str) -> None:
    """Has a prompt written on, and returns when that has ended."""
    fill(page, prompt, **options)
    page.click("#write")
    rest(page)


def rest(page: Page) -> None:
    """Returns when nothing is being written."""
    expect(page.locator("#state")).to_have_text(re.compile("tokens? in"), timeout=60_000)


def answer(server: Server, **body: object) -> dict:
    """Returns the only choice of a completion."""
    status, _, content = server.ask("/v1/completions", body, Content_Type="application/json")
    assert status == 200, content
    return json.loads(content)["choices"][0]


def shown(page: Page) -> list[str]:
    """Returns the texts of all tokens on the page."""
    return page.locator(".token").all_text_contents()


def alternatives(page: Page) -> list[str]:
    """Returns the probabilities in the panel, without that of all others."""
    return page.locator("#panel .bars button .value").all_text_contents()


def percent(logprob: float) -> str:
    share = 100 * exp(logprob)
    return "< 0.01 %" if share < 0.01 else f"{share:.{2 if share < 1 else 1}f} %"


def test_it_shows_what_the_api_answers_each_token_shaded_by_its_probability(visit, served):
    page = visit()
    expect(page.locator("#facts")).to_contain_text("128 tokens")
    write(page, "ab", **WRITES)
    choice = answer(served, prompt="ab", logprobs=5, **WRITES)
    assert shown(page) == [pages.visible(text) for text in choice["logprobs"]["tokens"]]
    levels = [sum(value < log(bound) for bound in pages.LEVELS) for value in choice["logprobs"]["token_logprobs"]]
    assert len(set(levels)) > 1, "the test needs tokens of several levels"
    classes = page.locator(".token").evaluate_all("nodes => nodes.map((node) => node.className.split(' ')[1])")
    assert classes == [f"p{level}" for level in levels]
    ended = {"length": "cut at 24 tokens", "stop": "ended by the model after"}[choice["finish_reason"]]
    expect(page.locator("figcaption")).to_contain_text(ended)
    expect(page.locator("figcaption")).to_contain_text("seed 3")
    expect(page.locator("#speed")).to_contain_text("time to first token")
    page.uncheck("[name=shaded]")
    assert page.locator(".token.p4, .token.p3, .token.p2").first.evaluate(
        "node => getComputedStyle(node).backgroundColor"
    ) == ("rgba(0, 0, 0, 0)")


def test_several_texts_have_seeds_that_follow_each_other(visit, served):
    page = visit()
    write(page, "ab", n=2, **WRITES)
    expect(page.locator(".seed")).to_have_text(["seed 3", "seed 4"])
    second = answer(served, prompt="ab", **WRITES | {"seed": 4})
    assert page.locator(".text").nth(1).text_content() == pages.visible(second["text"])
    page.click(".seed >> nth=1")
    expect(page.locator("#seed")).to_have_value("4")


@pytest.mark.parametrize("width", [390, 1280])
def test_a_long_seed_is_seen_whole(visit, width):
    page = visit(width=width)
    page.evaluate("document.querySelector('.options').open = true")
    fill(page, "", seed=4294967295)
    assert page.locator("#seed").evaluate("(field) => field.scrollWidth <= field.clientWidth")


def test_without_a_seed_each_text_is_another_and_says_its_own(visit, served):
    page, options = visit(), {"max_tokens": 16, "temperature": 1}
    found = []
    for _ in range(2):
        write(page, "ab", **options)
        found.append((page.locator(".seed").text_content(), page.locator(".text").text_content()))
    assert found[0] != found[1]
    seed = int(found[1][0].removeprefix("seed "))
    assert found[1][1] == pages.visible(answer(served, prompt="ab", seed=seed, **options)["text"])


def test_a_text_comes_bit_by_bit_until_it_is_stopped(visit, served):
    page = visit()
    fill(page, "ab", max_tokens=1024, temperature=0)
    page.evaluate(PRESS_STOP)  # the text is short, and a hand of the test's too slow
    page.press("#prompt", "Control+Enter")
    expect(page.locator("figcaption .end")).to_contain_text("stopped after")
    count = len(shown(page))
    assert (
        0 < count < len(answer(served, prompt="ab", max_tokens=1024, temperature=0, logprobs=0)["logprobs"]["tokens"])
    )
    page.wait_for_timeout(300)
    assert len(shown(page)) == count
    expect(page.locator("#write")).to_have_text("Write")
    assert served.metric("slots_used") == 0


def test_pointing_at_a_token_shows_what_else_could_have_stood_there(visit, served):
    page = visit()
    write(page, "ab", **WRITES)
    choice = answer(served, prompt="ab", logprobs=5, **WRITES)
    page.locator(".token.p4, .token.p3").first.hover()
    page.locator("#panel").wait_for()
    place = page.locator(".token").evaluate_all("nodes => nodes.findIndex((n) => n.classList.contains('shown'))")
    likely = sorted(choice["logprobs"]["top_logprobs"][place].values(), reverse=True)
    assert alternatives(page) == [percent(value) for value in likely]
    own = percent(choice["logprobs"]["token_logprobs"][place])
    expect(page.locator("#panel .own .value")).to_have_text(own)
    page.mouse.move(5, 5)
    expect(page.locator("#panel")).to_be_hidden()


def test_choosing_an_alternative_writes_on_from_it_and_undo_brings_the_text_back(visit, served):
    page = visit()
    write(page, "ab", **WRITES)
    before, place = shown(page), shown(page).index(next(filter(str.isalnum, shown(page))))
    page.locator(".token").nth(place).click()
    button = page.locator("#panel .bars button:enabled").first
    word = button.locator(".word").text_content()
    with page.expect_request(ASKED) as asked:
        button.click()
    sent = asked.value.post_data_json["prompt"]
    rest(page)
    kept = "".join(answer(served, prompt="ab", logprobs=5, **WRITES)["logprobs"]["tokens"][:place])
    assert pages.visible(sent.removeprefix("ab" + kept)).replace(" ", "␣").replace("\n", "⏎").replace("\t", "⇥") == word
    expect(page.locator(".token.chosen")).to_have_count(1)
    written = answer(served, prompt=sent, **WRITES)["text"]
    assert page.locator(".text").text_content() == pages.visible(sent.removeprefix("ab") + written)
    page.click("#undo")
    assert shown(page) == before


def test_the_keyboard_does_all_of_it(visit):
    page = visit()
    fill(page, "ab", **WRITES)
    page.press("#seed", "Control+Enter")
    rest(page)
    page.locator(".token[tabindex='0']").focus()
    for key in ("ArrowRight", "ArrowRight", "ArrowLeft"):
        page.keyboard.press(key)
    expect(page.locator(".token").nth(1)).to_be_focused()
    expect(page.locator("#panel")).to_be_visible()
    page.keyboard.press("Enter")
    expect(page.locator("#panel .bars button:enabled").first).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.locator(".token").nth(1)).to_be_focused()
    expect(page.locator("#panel")).to_be_hidden()


def test_a_text_goes_on_beyond_the_context(visit):
    page = visit()
    write(page, "ab", **WRITES | {"max_tokens": 120, "temperature": 0})
    for total in (240, 360):
        page.click("figcaption .on")
        rest(page)
        assert len(shown(page)) == total


def test_what_is_wrong_is_told_where_it_is(visit):
    page = visit()
    fill(page, "ab", max_tokens=5000)
    expect(page.locator("#max_tokens-wrong")).to_have_text("From 1 to 1,024.")
    page.click("#write")
    expect(page.locator("#max_tokens")).to_be_focused()
    expect(page.locator("#write")).to_have_text("Write")
    write_refused = {"max_tokens": 8, "top_p": 0}
    fill(page, "ab", **write_refused)
    page.click("#write")
    expect(page.locator("#top_p-wrong")).to_contain_text("greater than 0")
    fill(page, "a" * 300, top_p="")
    page.click("#write")
    expect(page.locator("#prompt-wrong")).to_contain_text("context is 128 tokens")
    expect(page.locator("figcaption")).to_have_count(0)


@pytest.mark.parametrize(
    ("how", "told"),
    [
        (lambda route: route.abort(), "The server does not answer."),
        (lambda route: route.fulfill(status=429, headers={"Retry-After": "7"}, body="{}"), "Try again in 7 seconds."),
        (lambda route: route.fulfill(status=502, body="<html>"), "The server answers 502"),
        (lambda route: route.fulfill(body='data: {"choices": []}\n\n'), "The answer broke off."),
        (lambda route: route.fulfill(body='data: {"error": {"message": "too late"}}\n\n'), "too late"),
    ],
)
def test_a_server_that_fails_is_told_of_in_words(visit, how: Callable[[Route], None], told: str):
    page = visit()
    page.route(ASKED, how)
    fill(page, "ab", max_tokens=8)
    page.click("#write")
    expect(page.locator("#error")).to_contain_text(told)
    expect(page.locator("#write")).to_have_text("Write")


def test_a_server_with_a_token_is_asked_with_it(visit, small_run, tmp_path):
    with running(small_run, tmp_path / "log", MAKELM_TOKEN="hush") as server:
        page = visit(server)
        expect(page.locator("#error")).to_have_text("This server wants a token.")
        expect(page.locator("#token")).to_be_focused()
        for token, told in (("loud", "The server does not know this token."), ("hush", "")):
            page.fill("#token", token)
            page.press("#token", "Tab")
            expect(page.locator("#error")).to_have_text(told)
        expect(page.locator("#facts")).to_contain_text("128 tokens")
        page.reload()
        write(page, "ab", **WRITES)
        assert shown(page)
        assert "hush" not in page.locator("#curl").text_content()
        for command in ("#curl", "#python"):
            assert "MAKELM_TOKEN" in page.locator(command).text_content()


@pytest.mark.parametrize("width", [320, 400])
def test_a_phone_needs_no_scrolling_sideways(visit, width):
    page = visit(width=width, height=700, is_mobile=True, has_touch=True)
    page.locator("summary", has_text="Options").tap()
    write(page, "x" * 60, **WRITES)
    page.locator("summary", has_text="curl").tap()
    page.locator(".token.p3, .token.p4").first.tap()
    panel = page.locator("#panel").bounding_box()
    assert panel["x"] == 0 and panel["width"] == width and round(panel["y"] + panel["height"]) == 700
    assert page.evaluate("document.documentElement.scrollWidth") == width
    page.get_by_role("button", name="Close").tap()
    expect(page.locator("#panel")).to_be_hidden()


def test_what_was_typed_is_there_after_a_reload(visit):
    page = visit()
    fill(page, "def f(\n", temperature=0.3, stop="\\n\\n", n=2)
    page.reload()
    for name, value in {"prompt": "def f(\n", "temperature": "0.3", "stop": "\\n\\n", "n": "2"}.items():
        expect(page.locator(f"#{name}")).to_have_value(value)


def test_the_commands_on_the_page_write_the_same(visit):
    page = visit()
    write(page, 'it\'s "so" $HOME\n\\', **WRITES, top_k=50, stop="zzz\n\\n\\n\\n")
    curl, code = (page.locator(f"#{name}").text_content() for name in ("curl", "python"))
    text = page.locator(".text").text_content()
    answered = subprocess.run(["bash", "-c", curl], capture_output=True, check=True).stdout
    assert pages.visible(json.loads(answered)["choices"][0]["text"]) == text
    printed = subprocess.run([sys.executable, "-X", "utf8", "-c", code], capture_output=True, check=True).stdout
    assert pages.visible(printed.decode().removesuffix("\n")) == text


def test_a_text_can_be_copied_and_cleared_away_and_comes_back(visit):
    page = visit()
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    write(page, "ab", **WRITES)
    text = page.locator("pre", has=page.locator(".prompt")).text_content()
    page.click(".copy")
    expect(page.locator("#state")).to_have_text("copied")
    assert pages.visible(page.evaluate("navigator.clipboard.readText()")) == text
    page.click("#clear")
    expect(page.locator("figure")).to_have_count(0)
    expect(page.locator("#prompt")).to_have_value("")
    page.click("#undo")
    expect(page.locator("#prompt")).to_have_value("ab")
    assert page.locator("pre", has=page.locator(".prompt")).text_content() == text


def answered(page: Page, *tokens: dict[str, float]) -> None:
    """Has the page told of these tokens and their alternatives, the first of which each is."""
    texts, logprobs = [next(iter(each)) for each in tokens], [next(iter(each.values())) for each in tokens]
    told = {"tokens": texts, "token_logprobs": logprobs, "top_logprobs": tokens}
    chunk = {"choices": [{"index": 0, "text": "".join(texts), "logprobs": told, "finish_reason": "length"}]}
    page.route(ASKED, lambda route: route.fulfill(body=f"data: {json.dumps(chunk)}\r\n\r\ndata: [DONE]\n\n"))


def test_choosing_the_end_of_text_ends_it_and_part_of_a_character_cannot_be_chosen(visit, served):
    page = visit()
    end = json.loads(served.ask("/v1/models")[2])["data"][0]["end_of_text"]
    answered(page, {"a": -0.1}, {"b": -1.0, end: -2.0, "bytes:\\xc3": -3.0})
    write(page, "x", max_tokens=2)
    page.locator(".token").nth(1).click()
    expect(page.locator("#panel .bars button", has_text="bytes:")).to_be_disabled()
    page.locator("#panel .bars button", has_text=end).click()
    assert shown(page) == ["a"]
    expect(page.locator("figcaption .end")).to_have_text("ended by you after 1 token")


def test_a_text_from_right_to_left_goes_on_to_the_left(visit):
    page = visit()
    answered(page, {" עולם": -1.0})
    write(page, "שלום", max_tokens=1)
    prompt, text = (page.locator(f".sample {name}").bounding_box() for name in (".prompt", ".text"))
    assert text["x"] + text["width"] <= prompt["x"] + 1
    assert page.locator("#prompt").evaluate("field => getComputedStyle(field).direction") == "rtl"


def test_a_token_that_is_part_of_a_character_can_be_pointed_at_too(visit):
    page = visit()
    answered(page, {"": -3.0, "e": -4.0}, {"é": -0.1})
    write(page, "x", max_tokens=2)
    page.locator(".token").first.hover(timeout=5000)
    expect(page.locator("#panel .bars button:enabled .word")).to_have_text("e")


# how bright a colour is (WCAG 2), drawn over what is behind it
CONTRAST = """(node) => {
  const draw = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const behind = [];
  for (let each = node; each; each = each.parentElement) behind.unshift(getComputedStyle(each).backgroundColor);
  const bright = (colours) => {
    for (const colour of colours) { draw.fillStyle = colour; draw.fillRect(0, 0, 1, 1); }
    const parts = [...draw.getImageData(0, 0, 1, 1).data].slice(0, 3).map((value) => value / 255);
    const [r, g, b] = parts.map((x) => (x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b + 0.05;
  };
  const ground = ["white", ...behind], written = [...ground, getComputedStyle(node).color];
  const [low, high] = [bright(ground), bright(written)].sort((a, b) => a - b);
  return high / low;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_legend_can_be_read(visit, scheme):
    page = visit(color_scheme=scheme)
    answered(page, {"a": -0.1})
    write(page, "x", max_tokens=1)
    assert page.locator(".hint .p4").evaluate(CONTRAST) > 4.5


def test_what_a_model_writes_stays_text(visit):
    page, hostile = visit(), "<img src=x onerror=alert(1)>\x1b\x9b"
    answered(page, {hostile: -1.0, "\n\t  ": -2.0})
    write(page, hostile, max_tokens=1)
    assert shown(page) == [pages.visible(hostile)]
    page.locator(".token").click()
    assert page.locator("#panel .bars .word").all_text_contents() == [
        pages.visible(hostile).replace(" ", "␣"),
        "⏎⇥␣␣",
        "all others",
    ]
    assert page.locator("img").count() == 0
