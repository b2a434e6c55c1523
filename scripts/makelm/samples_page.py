"""A page to read samples: what was asked, what the model wrote, how sure it was of each token, how it ended."""

from itertools import groupby
from math import log

from makelm import pages

OPTIONS = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "stop", "max_new_tokens")


def render(run: str, samples: list[dict], facts: dict[str, object]) -> str:
    """Returns the page of a run's samples; `facts` go below the title, such as {"tokenizer": "stdlib_bpe"}."""
    return pages.render(
        "samples_page.html.j2",
        run=run,
        samples=views(samples),
        common=common(samples),
        facts=facts,
        count=len(samples),
        rate=rate(samples),
        shaded=bool(shaded(samples[0])),
    )


def views(samples: list[dict]) -> list[dict]:
    """Returns what a page shows of each sample."""
    same = common(samples)
    return [view(sample, same) for sample in samples]


def view(sample: dict, common: list[str]) -> dict:
    """Returns what a page shows of one sample, without what is common to all."""
    ways = {"end_of_text": "ended after", "stop": "ended by a stop string after", "length": "cut at"}
    amount = len(sample["tokens"])
    return {
        "prompt": sample["prompt"],
        "text": sample["text"],
        "parses": sample["parses"],
        "shaded": shaded(sample),
        "end": f"{ways[sample['finish_reason']]} {amount} tokens",
        "options": ", ".join(word for word in options(sample) if word not in common),
    }


def shaded(sample: dict) -> list[tuple[int, str]]:
    """Returns the texts of neighbouring tokens of one level, 0 sure to 4 a guess, where the sample has its pieces."""
    levels = [sum(logprob < log(bound) for bound in pages.LEVELS) for logprob in sample.get("logprobs", ())]
    tokens = zip(levels, sample.get("pieces", ()), strict=False)
    return [(level, "".join(text for _, text in each)) for level, each in groupby(tokens, lambda token: token[0])]


def options(sample: dict) -> list[str]:
    """Returns how a sample was drawn, in words."""
    chosen = sample["options"]
    words = [f"{name} {pages.plain(chosen[name])}" for name in OPTIONS if chosen.get(name) not in (None, [])]
    return [*words, f"seed {sample['seed']}"]


def common(samples: list[dict]) -> list[str]:
    """Returns the words that hold for all samples; they are said once."""
    return [word for word in options(samples[0]) if all(word in options(sample) for sample in samples)]


def rate(samples: list[dict]) -> str:
    """Returns how many samples are Python, or nothing where nobody tried."""
    known = [sample["parses"] for sample in samples if sample["parses"] is not None]
    return f"{sum(known)} of {len(known)}" if known else ""
