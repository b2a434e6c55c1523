"""What all pages share: the style sheet, and text and numbers as people read them.

A page is one file that needs nothing else: no network, no folder beside it.
"""

import math
import re
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from makelm.progress import score, size

HERE = Path(__file__).resolve().parent
COLOURS = 8  # of runs, in pages.css

LEVELS = (0.5, 0.2, 0.05, 0.01)  # probabilities; a token below so many of them is shaded so deeply
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
UNSEEN = re.compile(r"[\x80-\x9f\ud800-\udfff]")  # control characters without a sign, halves of surrogate pairs


def render(template: str, **values: Any) -> str:
    """Returns a page. Every value is escaped."""
    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    for filter in (count, duration, score, size, visible, plain, pieces):
        environment.filters[filter.__name__] = filter
    return environment.get_template(template).render(source=source, levels=LEVELS, **values)


def source(name: str) -> str:
    """Returns a style sheet or script of ours as it stands, to be put into a page."""
    return (HERE / name).read_text(encoding="utf-8")


def pieces(name: str) -> list[str]:
    """Returns the parts of a name between which a line may end."""
    return re.split(r"(?<=[._=-])(?=[A-Za-z])", name)


def visible(text: str) -> str:
    """Returns text with what a browser swallows and a terminal obeys shown as signs, such as U+2400 for a zero byte."""
    text = CONTROL.sub(lambda match: chr(0x2421 if match[0] == "\x7f" else 0x2400 + ord(match[0])), text)
    return UNSEEN.sub("\ufffd", text)


def count(number: float) -> str:
    """Returns a number as 812, 20.5k, 1.27M or 3.4B."""
    if abs(number) < 10_000:
        return f"{number:,.0f}"
    number = float(f"{number:.3g}")
    scale, unit = next((s, u) for s, u in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")) if abs(number) >= s)
    return f"{number / scale:g}{unit}"


def duration(seconds: float) -> str:
    """Returns seconds as 0.4 s, 12 s, 3 min 28 s or 5 h 02 min."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes_left = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes_left:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def plain(value: Any) -> str:
    """Returns a value of a configuration as YAML would have it, numbers without needless digits."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, float) and math.isfinite(value):
        short = f"{value:.6g}" if float(f"{value:.6g}") == value else repr(value)
        return re.sub(r"e([-+])0+", r"e\1", short)
    if isinstance(value, list):
        return ", ".join(repr(item) if isinstance(item, str) else plain(item) for item in value)
    return visible(str(value))
