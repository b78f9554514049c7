"""Ways to damage files: bytes, lines of text, and values of JSON."""

from __future__ import annotations

import copy
import json
import re
from random import Random
from typing import Any

EDGES = (
    0, 1, 2, 7, 255, 256, 65535, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**53, 2**62, 2**63 - 1, 2**63, 2**64 - 1, -1, -2,
    -(2**31), -(2**63), 10**8, 3 * 10**8, 10**12,
)  # fmt: skip
WORDS = (
    "", " ", "\n", "x", "0", "-1", "nan", "inf", "1e400", "x" * 5000, "\x1b[31mred\x1b[0m", "a\nb\r\nc", "\u202eabc",
    "\u2028", "[/b]", "[bold]", "$\\frac{", "../../etc/passwd", "\x00", "\ud800", "é" * 300, "dense", "done", "W",
    "rbm.0", "float16", "%s%n", "9" * 30, "9" * 5000, "local:2/1", "mask:/dev/zero", "random:3", "radix-net:2x2/3",
    "pruned", "16", "2x8", "10000000000x1", "{}", "[]", "null", "true",
)  # fmt: skip
DEEP = 3000  # levels: more than Python's recursion has


def scalar(random: Random) -> Any:
    """A value that may be wrong anywhere."""
    return random.choice([
        random.choice(EDGES), random.choice(EDGES), random.choice(WORDS), None, True, False, 0.5, -0.0, 1e308, 1e-320,
        float("inf"), float("nan"), [], {}, [[]], [0, 0], ["x"], {"a": 1}, [2**62] * 4, 10**40, list(range(200)),
    ])  # fmt: skip


def damaged_bytes(content: bytes, random: Random) -> bytes:
    """One to four changes of bits, bytes, numbers, pieces or the length."""
    data = bytearray(content)
    for _ in range(random.choice((1, 1, 1, 2, 4))):
        at, kind = random.randrange(len(data) + 1), random.randrange(9)
        if kind == 0 and data:
            data[at % len(data)] ^= 1 << random.randrange(8)
        elif kind == 1 and data:
            data[at % len(data)] = random.choice((0, 1, 0x20, 0x22, 0x30, 0x7F, 0x80, 0xFF))
        elif kind == 2:
            size = random.choice((1, 2, 4, 8))
            value = random.choice(EDGES) % (1 << 8 * size)
            data[at : at + size] = value.to_bytes(size, random.choice(("little", "big")))
        elif kind == 3:
            del data[at : at + random.choice((1, 2, 8, 64))]
        elif kind == 4:
            data[at:at] = bytes(random.randrange(256) for _ in range(random.choice((1, 2, 8, 64))))
        elif kind == 5:
            del data[at:]
        elif kind == 6:
            piece = data[at : at + random.choice((1, 8, 64, 512))]
            data[at:at] = piece * random.choice((1, 2, 50))
        elif kind == 7:
            other = random.randrange(len(data) + 1)
            size = random.choice((1, 4, 16, 64))
            data[at : at + size] = data[other : other + size]
        else:
            data += bytes(random.choice((1, 7, 64, 4096)))
    return bytes(data)


def damaged_text(text: str, random: Random) -> str:
    """One to four changes of numbers, words, lines or the nesting."""
    for _ in range(random.choice((1, 1, 2, 4))):
        lines = text.split("\n")
        at, kind = random.randrange(len(lines)), random.randrange(9)
        if kind in (0, 1):
            numbers = list(re.finditer(r"-?\d+", text))
            if numbers:
                match = random.choice(numbers)
                other = random.choice((*map(str, EDGES), "9" * 5000, "0x" + "f" * 5000, "-0", "1.5", "1e999", ""))
                text = text[: match.start()] + other + text[match.end() :]
            continue
        if kind == 2:
            del lines[at]
        elif kind == 3:
            lines[at:at] = [lines[random.randrange(len(lines))]] * random.choice((1, 1, 100))
        elif kind == 4:
            other = random.randrange(len(lines))
            lines[at], lines[other] = lines[other], lines[at]
        elif kind == 5:
            place = random.randrange(len(lines[at]) + 1)
            lines[at] = lines[at][:place] + random.choice(WORDS) + lines[at][place:]
        elif kind == 6:
            words = lines[at].split(" ")
            words[random.randrange(len(words))] = random.choice(WORDS)
            lines[at] = " ".join(words)
        elif kind == 7:
            opening, closing = random.choice(("[]", "{}", "()", '""', "a.", "%\n"))
            lines[at] += opening * random.choice((1, DEEP)) + closing * random.choice((0, DEEP))
        else:
            lines = lines[:at]
        text = "\n".join(lines)
    return text


def damaged_json(value: Any, random: Random) -> Any:
    """A copy with one to three values exchanged, taken out, doubled, or of another type."""
    root = [copy.deepcopy(value)]
    for _ in range(random.choice((1, 1, 2, 3))):
        holder, key = _place(root, random)
        kind = random.randrange(6)
        if kind <= 2:
            holder[key] = scalar(random)
        elif kind == 3 and holder is not root:
            del holder[key]
        elif kind == 4 and isinstance(holder[key], int | float) and not isinstance(holder[key], bool):
            holder[key] = random.choice(
                (holder[key] + 1, holder[key] - 1, -holder[key], str(holder[key]), 2 * holder[key])
            )
        elif isinstance(holder, dict):
            holder[random.choice((*WORDS[:12], str(key) + "x", *map(str, holder)))] = copy.deepcopy(holder[key])
        elif isinstance(holder, list) and holder is not root:
            holder[key:key] = [holder[key]] * random.choice((1, 3, 2000))
    return root[0]


def as_json(value: Any, random: Random) -> str:
    """JSON, at times of a depth or of integers that Python's reader refuses."""
    text = json.dumps(value)
    if random.random() < 0.05:
        text = text.replace("0", "9" * 5000, 1)
    if random.random() < 0.05:
        text = text.replace("{", "{" + '"deep":' + "[" * 100_000 + "]" * 100_000 + ",", 1)
    return text


def _place(root: list[Any], random: Random) -> tuple[Any, Any]:
    """A holder and the key of one of the values in it, anywhere below ``root``."""
    holder: Any = root
    key: Any = 0
    while isinstance(holder[key], dict | list) and holder[key] and (holder is root or random.random() < 0.7):
        holder = holder[key]
        key = random.choice(list(holder)) if isinstance(holder, dict) else random.randrange(len(holder))
    return holder, key
