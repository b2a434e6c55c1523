"""Tokenizers that do not give a text back, and what bits per byte are worth then.

What a tokenizer drops or changes (unknown words, ends of lines, capitals) no model has to predict: its bits per byte
are fewer, and are those of another text.
"""

from collections.abc import Mapping
from typing import Any

MOST = 1e-3  # share of the validation text that may be lost: less changes no digit that is shown


def lost_share(scores: Mapping[str, Any]) -> float:
    """Returns the share of the validation text that its tokens lost, or 0 where that is too little to matter."""
    share = scores.get("lost_share") or 0.0  # scores of an older makelm have none, nor have those of ready tokens
    return share if share > MOST else 0.0


def warning(share: float) -> str:
    """Returns what stands beside bits per byte of such a text; of one that comes back whole, nothing."""
    return f"without the {100 * share:.1f}% of the text that the tokenizer loses" if share else ""


def order(scores: Mapping[str, Any]) -> tuple[bool, float]:
    """Returns what sorts scores: the least bits per byte first, those of a text that was lost in part last."""
    return bool(lost_share(scores)), scores["bits_per_byte"]
