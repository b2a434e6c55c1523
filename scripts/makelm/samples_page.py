"""A page to read samples: what was asked, what the model wrote, how it ended."""

from makelm import pages

OPTIONS = ("temperature", "top_k", "top_p", "max_new_tokens")


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
    )


def views(samples: list[dict]) -> list[dict]:
    """Returns what a page shows of each sample."""
    same = common(samples)
    return [view(sample, same) for sample in samples]


def view(sample: dict, common: list[str]) -> dict:
    """Returns what a page shows of one sample, without what is common to all."""
    ended = sample["finish_reason"] == "end_of_text"
    amount = len(sample["tokens"])
    return {
        "prompt": sample["prompt"],
        "text": sample["text"],
        "parses": sample["parses"],
        "end": f"ended after {amount} tokens" if ended else f"cut at {amount} tokens",
        "options": ", ".join(word for word in options(sample) if word not in common),
    }


def options(sample: dict) -> list[str]:
    """Returns how a sample was drawn, in words."""
    chosen = sample["options"]
    words = [f"{name} {pages.plain(chosen[name])}" for name in OPTIONS if chosen.get(name) is not None]
    return [*words, f"seed {sample['seed']}"]


def common(samples: list[dict]) -> list[str]:
    """Returns the words that hold for all samples; they are said once."""
    return [word for word in options(samples[0]) if all(word in options(sample) for sample in samples)]


def rate(samples: list[dict]) -> str:
    """Returns how many samples are Python, or nothing where nobody tried."""
    known = [sample["parses"] for sample in samples if sample["parses"] is not None]
    return f"{sum(known)} of {len(known)}" if known else ""
