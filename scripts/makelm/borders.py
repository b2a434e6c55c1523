"""Where a long text can be cut so that its tokens stay the same: what a tokenizer's pattern says for sure.

A pattern matches piece after piece, each from where the last one ended. Where no match can hold one character followed
by another, there is always the end of a piece between the two. What stands before such a border is cut alike whatever
follows it, but for what the pattern sees by looking ahead: so who cuts a text there lets it see the one next
character, which is all that is looked at here.
"""

import re
from re import _constants as codes
from re import _parser as parser  # Python's own reader of patterns, the same from 3.11 on
from string import ascii_letters
from typing import NamedTuple

# \p{...} by what it has of ASCII, which is all that is asked; U+0100 stands for the rest
PROPERTIES = {"L": "A-Za-z", "Lu": "A-Z", "Ll": "a-z", "N": "0-9", "Nd": "0-9"}
PROPERTIES |= dict.fromkeys(("Lt", "Lm", "Lo", "M", "Mn", "Mc", "Nl", "No"), "")
OTHER = "\u0100"
ANY = frozenset([*ascii_letters, " ", "\n"])  # the characters that are asked for
FOLDED = "\u017f\u212a"  # the long s and the sign of kelvin: letters of ASCII in another case
# borders to look for, the ones that make pieces look natural first: what is asked, and how it is found in a text
BORDERS = (
    ("\n", ascii_letters, re.compile(r"\n(?=[A-Za-z])")),
    (ascii_letters, " ", re.compile(r"[A-Za-z](?= )")),
    (ascii_letters, "\n", re.compile(r"[A-Za-z](?=\n)")),
)
ONE = (codes.LITERAL, codes.NOT_LITERAL, codes.ANY, codes.IN)  # what matches one character
REPEATS = (codes.MAX_REPEAT, codes.MIN_REPEAT, codes.POSSESSIVE_REPEAT)


class Unknown(Exception):
    """Something in a pattern of which nothing is known for sure."""


class Edges(NamedTuple):
    """What the matches of a part of a pattern begin and end with, of ANY; whether nothing at all is one."""

    first: frozenset[str]
    last: frozenset[str]
    empty: bool


def border(pattern: str) -> re.Pattern[str] | None:
    """Returns what matches before each place of a kind where a text can be cut; None where there may be no such."""
    try:
        pairs = neighbours(pattern)
    except (Unknown, re.error):
        return None
    for before, after, found in BORDERS:
        if not any((left, right) in pairs for left in before for right in after):
            return found
    return None


def neighbours(pattern: str) -> set[tuple[str, str]]:
    """Returns the pairs of characters, of ANY, that may stand beside each other in a match; rather more than less."""
    pairs: set[tuple[str, str]] = set()
    walk(parser.parse(ascii_only(pattern)), pairs)
    return pairs


def ascii_only(pattern: str) -> str:
    """Returns a pattern with \\p{...} written out. Raises Unknown where one, or a class of characters, is not plain."""
    inside = False

    def written(match: re.Match[str]) -> str:
        nonlocal inside
        if match[0] in (")", "]") or (match["name"] is None and match[0][0] == "\\"):
            inside = inside and match[0] != "]"
            return match[0]
        if match["name"] is None:  # other libraries have classes in classes, and more between them
            if inside or match[0] not in ("[", "[^"):
                raise Unknown(match[0])
            inside = True
            return match[0]
        if match["name"] not in PROPERTIES:
            raise Unknown(match[0])
        members = PROPERTIES[match["name"]] + OTHER
        return members if inside else f"[{members}]"

    return re.sub(r"\\p\{(?P<name>\w+)\}|\\.|\[\^?\]?|\]|&&|--|~~", written, pattern, flags=re.DOTALL)


def walk(tree: parser.SubPattern, pairs: set[tuple[str, str]]) -> Edges:
    """Returns what matches of a sequence begin and end with, and adds the pairs within."""
    whole = Edges(frozenset(), frozenset(), True)
    for code, value in tree:
        part = node(code, value, pairs)
        pairs |= {(left, right) for left in whole.last for right in part.first}
        first = whole.first | part.first if whole.empty else whole.first
        last = whole.last | part.last if part.empty else part.last
        whole = Edges(first, last, whole.empty and part.empty)
    return whole


def node(code: int, value: tuple, pairs: set[tuple[str, str]]) -> Edges:
    """Returns the same of one part of a sequence."""
    if code in ONE:
        matched = members(code, value)
        return Edges(matched, matched, False)
    if code is codes.BRANCH:
        parts = [walk(each, pairs) for each in value[1]]
        first, last = (frozenset().union(*(part[end] for part in parts)) for end in (0, 1))
        return Edges(first, last, any(part.empty for part in parts))
    if code is codes.SUBPATTERN:
        return walk(value[3], pairs)
    if code is codes.ATOMIC_GROUP:
        return walk(value, pairs)
    if code in REPEATS:
        least, most, inner = value
        part = walk(inner, pairs)
        if most > 1:
            pairs |= {(left, right) for left in part.last for right in part.first}
        return part._replace(empty=part.empty or least == 0)
    if looks_one_ahead(code, value):
        return Edges(frozenset(), frozenset(), True)
    raise Unknown(code)


def looks_one_ahead(code: int, value: tuple) -> bool:
    """Returns whether this matches nothing and is decided by the one next character."""
    if code is codes.AT:
        return value in (codes.AT_END, codes.AT_END_STRING)
    if code not in (codes.ASSERT, codes.ASSERT_NOT):
        return False
    direction, inner = value
    return direction == 1 and len(inner) == 1 and inner[0][0] in ONE


def members(code: int, value: tuple) -> frozenset[str]:
    """Returns the characters of ANY that one character's part may match, in either case."""
    if code is codes.ANY:
        return ANY
    if code is codes.LITERAL:
        return either_case({chr(value)})
    if code is codes.NOT_LITERAL:
        return ANY - {chr(value)}
    excluded = value[0][0] is codes.NEGATE
    listed = {sign for sign in (*ANY, *FOLDED) for item in value if holds(*item, sign)}
    return ANY - listed if excluded else either_case(listed)


def either_case(signs: set[str]) -> frozenset[str]:
    """Returns signs as a pattern that ignores case reads them; it is not asked whether it does."""
    folded = {other for sign in signs for other in (sign, sign.lower(), sign.upper(), sign.casefold())}
    return ANY & folded


def holds(code: int, value: int | tuple, sign: str) -> bool:
    """Returns whether an item of a class of characters has this one."""
    if code is codes.NEGATE:
        return False
    if code is codes.LITERAL:
        return value == ord(sign)
    if code is codes.RANGE:
        return value[0] <= ord(sign) <= value[1]
    space = sign in " \n"
    if value in (codes.CATEGORY_SPACE, codes.CATEGORY_NOT_SPACE):
        return space == (value is codes.CATEGORY_SPACE)
    if value in (codes.CATEGORY_WORD, codes.CATEGORY_NOT_WORD):
        return space != (value is codes.CATEGORY_WORD)
    if value in (codes.CATEGORY_DIGIT, codes.CATEGORY_NOT_DIGIT):
        return value is codes.CATEGORY_NOT_DIGIT
    raise Unknown(code)
