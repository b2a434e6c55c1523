"""What the devices of a compiled step exchange, read from XLA's text of the program (HLO)."""

import re
from collections import Counter
from dataclasses import dataclass
from functools import cache
from math import prod

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")

COMPUTATION = re.compile(r"(?P<entry>ENTRY )?%?(?P<name>[\w.-]+) \(.*\) -> .*\{$")
INSTRUCTION = re.compile(r"\s+(?:ROOT )?%?(?P<name>[\w.-]+) = (?P<type>.*?) (?P<op>[a-z][a-z0-9-]*)\((?P<rest>.*)")
ARRAY = re.compile(r"\b(pred|[a-z]+(\d+)\w*)\[([\d,]*)\]")
CALLED = re.compile(r"(?:calls|to_apply|(?:true|false)_computation)=%?([\w.-]+)|branch_computations=\{([^}]*)\}")
TRIPS = re.compile(r'known_trip_count":\{"n":"(\d+)"')
WHILE = re.compile(r"condition=%?([\w.-]+), body=%?([\w.-]+)")


@dataclass(frozen=True)
class Instruction:
    """One line of a computation."""

    name: str
    type: str
    op: str
    rest: str  # operands and attributes


@dataclass(frozen=True)
class Exchanged:
    """What one device exchanges with others in one run of a program."""

    bytes_by_kind: dict[str, int]  # of each of KINDS
    complete: bool  # False: a loop exchanges something and does not say how often it goes round; it counts once


def exchanged(text: str) -> Exchanged:
    """Returns the bytes of arrays that take part in collectives on one device: what goes in, of an all-gather what
    comes out; within a loop, times its rounds.
    """
    program, entry = computations(text)
    unknown = []

    @cache
    def total(name: str) -> Counter:
        instructions = program[name]
        types = {each.name: each.type for each in instructions}
        sums: Counter = Counter()
        for each in instructions:
            kind = each.op.removesuffix("-start")
            if kind in KINDS:
                # XLA for TPUs makes a reduce-scatter of an all-reduce and a slice in a computation of this name
                whole = kind == "all-reduce" and name.startswith("all-reduce-scatter")
                sums["reduce-scatter" if whole else kind] += moved(each, kind, types)
            elif each.op == "while":
                condition, body = WHILE.search(each.rest).groups()
                rounds, inside = trips(each, program[condition]), total(body)
                if rounds is None and inside:
                    unknown.append(body)
                sums += Counter({kind: (rounds or 1) * size for kind, size in inside.items()})
            else:
                for inner in called(each.rest):
                    sums += total(inner)
        return sums

    sums = total(entry)
    return Exchanged({kind: sums[kind] for kind in KINDS}, not unknown)


def computations(text: str) -> tuple[dict[str, list[Instruction]], str]:
    """Returns a program's computations by name, and the name of the one it begins with."""
    program, entry, current = {}, "", None
    for line in text.splitlines():
        if found := COMPUTATION.match(line):
            current = program[found["name"]] = []
            entry = found["name"] if found["entry"] else entry
        elif current is not None and (found := INSTRUCTION.match(line)):
            current.append(Instruction(**found.groupdict()))
    return program, entry


def moved(instruction: Instruction, kind: str, types: dict[str, str]) -> int:
    """Returns the bytes of a collective's operands, or of an all-gather's results."""
    operands = re.findall(r"%([\w.-]+)", instruction.rest.partition(")")[0])
    given = sum(size(types[name]) for name in operands)
    if kind != "all-gather":
        return given
    # one that only starts gives its operands on beside the results
    return size(instruction.type) - (given if instruction.op.endswith("-start") else 0)


def size(type_text: str) -> int:
    """Returns the bytes of an array, or of all arrays of a tuple, such as (f32[2,8]{1,0}, s32[])."""
    bits = 0
    for name, width, dims in ARRAY.findall(type_text):
        each = 8 if name == "pred" else int(width or 0)
        bits += each * prod(int(dim) for dim in dims.split(",") if dim)
    return bits // 8


def trips(loop: Instruction, condition: list[Instruction]) -> int | None:
    """Returns how often a loop goes round; JAX's loops count from 0, should XLA not write it down."""
    if found := TRIPS.search(loop.rest):
        return int(found[1])
    limits = [re.match(r"(\d+)\)", each.rest) for each in condition if each.op == "constant"]
    counts = any(each.op == "compare" and "direction=LT" in each.rest for each in condition)
    return int(limits[0][1]) if counts and len(limits) == 1 and limits[0] else None


def called(rest: str) -> list[str]:
    """Returns the computations that an instruction other than a loop calls."""
    names = []
    for single, several in CALLED.findall(rest):
        names += [single] if single else [name.strip().lstrip("%") for name in several.split(",")]
    return names
