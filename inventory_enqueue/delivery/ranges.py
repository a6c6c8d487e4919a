"""Ranges of keys, and where to cut them so that both parts hold about as many. Pure.

S3 lists in the order of UTF-8's bytes, which is that of Python's strings (code points), and not that of UTF-16:
https://docs.aws.amazon.com/AmazonS3/latest/userguide/ListingKeysUsingAPIs.html
"""

import json
import os
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Final, NamedTuple, Self

_DIGITS: Final = frozenset("0123456789")
_FAMILIES: Final = (_DIGITS, _DIGITS | frozenset("abcdef"), _DIGITS | frozenset("ABCDEF"))
"""Characters that are used together: a position with some of them may have all."""
_NEAR: Final = 3
"""Positions to the right of one that may show the characters which it has elsewhere: those of random ids are alike."""
_SAMPLE: Final = 16
"""Keys of a page to learn from."""
_MOST: Final = 4096
"""Different characters of a position that are kept in mind."""
_FINE: Final = 1 << 80
"""Steps of a scale: some twenty digits after what a range's ends have in common."""
_SURROGATES: Final = (0xD800, 0xE000)
"""Code points that no text holds: from, and up to."""


@dataclass(eq=False)
class KeyRange:
    """Keys after `cursor` up to `hi`, both of which need not exist: what is left of a range to list."""

    cursor: str = ""
    """Exclusive; "" before all keys."""
    hi: str | None = None
    """Inclusive. None for no bound: no finite string is behind all keys."""
    token: str = ""
    """Of the next page, where the last one had no key to go on from."""
    first: str = ""
    """The first key that was listed."""
    listed: int = 0
    """Keys."""
    left: float = float("inf")
    """About how many keys are left; inf where nobody knows."""


class Checkpoint(NamedTuple):
    """What is left to list, at a time."""

    ranges: list[tuple[str, str | None]]
    """(cursor, hi) as in KeyRange, in order of keys."""
    token: str | None = None
    """Of the next page, where the listing goes page by page; "" before the first one."""

    def to_json(self) -> str:
        """As text, in ASCII."""
        return json.dumps({"ranges": self.ranges, "token": self.token})

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Back again.

        Raises:
            ValueError: It is none.
        """
        try:
            document = json.loads(text)
            ranges = [(str(cursor), None if hi is None else str(hi)) for cursor, hi in document["ranges"]]
            return cls(ranges, document["token"])
        except (KeyError, TypeError) as error:
            raise ValueError(f"no checkpoint of a listing: {error}") from error


class Alphabets:
    """The characters that keys have at each position, as far as they were seen."""

    def __init__(self) -> None:
        """Knows nothing."""
        self._seen: defaultdict[int, set[str]] = defaultdict(set)
        self._wide: dict[int, frozenset[str]] = {}

    def learn(self, keys: Sequence[str]) -> None:
        """Looks at a page's keys, or at prefixes: some of them, and the first and the last."""
        if not keys:
            return
        sample = [*keys[:: max(1, len(keys) // _SAMPLE)], keys[-1]]
        for position, characters in enumerate(zip_longest(*sample, fillvalue="")):
            seen = self._seen[position]
            if seen.issuperset(characters) or len(seen) >= _MOST:
                continue
            seen.update(characters)
            for near in range(position - _NEAR, position + 1):
                self._wide.pop(near, None)

    def seen(self, position: int) -> int:
        """How many characters were seen at a position."""
        return len(self._seen[position] - {""}) if position in self._seen else 0

    def at(self, position: int) -> frozenset[str]:
        """The characters that keys may have at a position: digits stay digits, hex stays hex."""
        wide = self._wide.get(position)
        if wide is None:
            wide = self._wide[position] = self._widened(position)
        return wide

    def _widened(self, position: int) -> frozenset[str]:
        seen = self._seen.get(position, set()) - {""}
        if not seen:
            return frozenset()
        for near in range(position + 1, position + 1 + _NEAR):
            other = self._seen.get(near, set())
            if len(other) > len(seen) and other >= seen and (other & _DIGITS):
                seen = other - {""}
        for family in _FAMILIES:
            if seen <= family and seen & _DIGITS:
                return family
        return frozenset(seen)


class Scale:
    """Keys as numbers, between what a range's two ends have in common: 0 before all of them, `top` behind all."""

    def __init__(self, alphabets: Alphabets, base: str, anchors: Iterable[str]) -> None:
        """Makes it.

        Args:
            alphabets: What keys look like.
            base: What the keys begin with.
            anchors: Keys that it can tell apart, whatever was learned.
        """
        self._base = base
        self._digits: list[list[str]] = []
        """Characters by position: the digits of a number, after 0 for the text's end."""
        self.top = 1
        anchors = list(anchors)
        position = len(base)
        while self.top < _FINE:
            characters = alphabets.at(position) | {text[position] for text in anchors if len(text) > position}
            if not characters:
                break
            self._digits.append(sorted(characters))
            self.top *= len(characters) + 1
            position += 1

    def number(self, text: str | None) -> int:
        """Of a key, or of a range's end."""
        if text is None:
            return self.top
        base = self._base
        if not text.startswith(base):
            return 0 if text < base else self.top
        number, step, exact = 0, self.top, True
        for position, characters in enumerate(self._digits, len(base)):
            step //= len(characters) + 1
            if not exact or position >= len(text):
                break
            digit = bisect_left(characters, text[position])
            exact = digit < len(characters) and characters[digit] == text[position]
            # A character between two digits stands at the end of the lower one.
            number += (digit + 1) * step if exact else (digit + 1) * step - 1
        return number

    def text(self, number: int, low: str, high: str | None, slack: int) -> str | None:
        """The shortest text near a number that is between two others; None where there is none."""
        text, step, rest = self._base, self.top, number
        for characters in self._digits:
            step //= len(characters) + 1
            digit, rest = divmod(rest, step)
            if digit == 0:
                break
            text += characters[digit - 1]
            if rest <= slack and low < text and (high is None or text < high):
                return text
        return text if low < text and (high is None or text < high) else None


def _common(one: str, other: str) -> str:
    return os.path.commonprefix([one, other])


def scale_of(span: KeyRange, alphabets: Alphabets, prefix: str) -> Scale:
    """A scale for a range.

    Args:
        span: The range.
        alphabets: What keys look like.
        prefix: What all keys begin with.
    """
    low = span.first or span.cursor
    base = prefix if span.hi is None else _common(low, span.hi)
    return Scale(alphabets, base, [text for text in (low, span.cursor, span.hi) if text])


def estimate(span: KeyRange, alphabets: Alphabets, prefix: str) -> float:
    """About how many keys are left of a range that some were listed of, as dense as those."""
    scale = scale_of(span, alphabets, prefix)
    begin, now, end = scale.number(span.first), scale.number(span.cursor), scale.number(span.hi)
    if now <= begin:
        return float("inf") if now < end else 0.0
    return max(0.0, span.listed * (end - now) / (now - begin))


def middle(span: KeyRange, share: float, alphabets: Alphabets, prefix: str, points: Sequence[str]) -> str | None:
    """Where to cut what is left of a range; a point that is known to separate folders, if one is near.

    Args:
        span: The range.
        share: Of what is left that is to stay before the cut, 0 to 1.
        alphabets: What keys look like.
        prefix: What all keys begin with.
        points: Sorted.

    Returns:
        A text that is greater than span.cursor and less than span.hi; None where none is known.
    """
    base = prefix if span.hi is None else _common(span.cursor, span.hi)
    scale = Scale(alphabets, base, [text for text in (span.cursor, span.hi) if text])
    low, high = scale.number(span.cursor), scale.number(span.hi)
    # In whole numbers: a float has not as many digits.
    target = low + (high - low) * int(share * 1024) // 1024
    slack = (high - low) // 8
    text = scale.text(target, span.cursor, span.hi, slack)
    inside = _near(points, span, text)
    near = [point for point in inside if abs(scale.number(point) - target) <= 2 * slack]
    if near:
        return min(near, key=lambda point: abs(scale.number(point) - target))
    return text or (inside[len(inside) // 2] if inside else None)


def _near(points: Sequence[str], span: KeyRange, text: str | None) -> list[str]:
    """Points in a range: the two beside a text, or the one in the middle."""
    low = bisect_left(points, span.cursor)
    high = len(points) if span.hi is None else bisect_left(points, span.hi)
    at = bisect_left(points, text, low, high) if text is not None else (low + high) // 2
    return [point for point in points[max(low, at - 1) : min(high, at + 1)] if span.cursor < point]


def rungs(span: KeyRange, alphabets: Alphabets, prefix: str) -> list[str]:
    """Where what the listed keys begin with ends, at each depth: like a ladder, from the next key up to the range's end.

    A range of which nobody knows where its keys are is cut there: one round trip later everybody does.

    Returns:
        Texts between span.cursor and span.hi, ascending.
    """
    page = _common(span.first, span.cursor)
    start = len(prefix) if span.hi is None else len(_common(span.cursor, span.hi))
    found = []
    for position in range(len(page) - 1, start - 1, -1):
        if _may_vary(page, position, start, alphabets):
            text = _behind(page[: position + 1])
            if text is not None and (span.hi is None or text < span.hi):
                found.append(text)
    return found


def _may_vary(page: str, position: int, start: int, alphabets: Alphabets) -> bool:
    """Whether other keys may have another character there: a number's digit, the first one of a name, or one that has."""
    character = page[position]
    begins = position == start or not page[position - 1].isalnum()
    return character in _DIGITS or (begins and character.isalnum()) or alphabets.seen(position) > 1


def _behind(text: str) -> str | None:
    """The least text of this length behind all that begin with this one; None behind the last character of Unicode."""
    code = ord(text[-1]) + 1
    if _SURROGATES[0] <= code < _SURROGATES[1]:
        code = _SURROGATES[1]
    return None if code > 0x10FFFF else text[:-1] + chr(code)  # noqa: PLR2004 - the last character of Unicode
