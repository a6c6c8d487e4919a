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
_LETTERS: Final = (frozenset("abcdefghijklmnopqrstuvwxyz"), frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZ"))
_ASCII: Final = "\x7f"
_STEPS: Final = 16
"""Characters to make up between the least and the greatest of another script, evenly."""
_BLOCKS: Final = ("0", "A", "a", _ASCII, "\u0400", "\u3000", "\u6000", "\uac00", "\U00010000")
"""Where scripts begin: what might come behind keys that are all of another one."""
_NEAR: Final = 3
"""Positions to the right of one that may show the characters which it has elsewhere: those of random ids are alike."""
_SAMPLE: Final = 16
"""Keys of a page to learn from."""
_MOST: Final = 4096
"""Different characters of a position that are kept in mind."""
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
    outlasts: bool = False
    """Whether more was listed than estimates said."""
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


class Place(NamedTuple):
    """Where a character stands in a key. Folders' names differ in length, so what is behind them is counted anew."""

    depth: int
    """Slashes before it."""
    offset: int
    """Characters since the last one."""

    def after(self, character: str) -> "Place":
        """The place behind a character that stands here."""
        return Place(self.depth + 1, 0) if character == "/" else Place(self.depth, self.offset + 1)


def place_of(text: str) -> Place:
    """The place behind a text."""
    return Place(text.count("/"), len(text) - text.rfind("/") - 1)


class Alphabets:
    """The characters that keys have at each place, as far as they were seen."""

    def __init__(self) -> None:
        """Knows nothing."""
        self._seen: defaultdict[Place, set[str]] = defaultdict(set)
        """With "" where a key ends."""
        self._missed: set[Place] = set()
        self._wide: dict[Place, tuple[str, ...]] = {}

    def learn(self, keys: Sequence[str]) -> None:
        """Looks at a page's keys, or at prefixes: some of them, and the first and the last."""
        if not keys:
            return
        sample = [*keys[:: max(1, len(keys) // _SAMPLE)], keys[-1]]
        for depth, names in enumerate(zip_longest(*(_names(key) for key in sample), fillvalue="")):
            for offset, characters in enumerate(zip_longest(*names, fillvalue="")):
                place = Place(depth, offset)
                seen = self._seen[place]
                if not seen.issuperset(characters) and len(seen) < _MOST:
                    seen.update(characters)
                    self._forget(place)

    def miss(self, place: Place) -> None:
        """Nothing was found behind a character that was made up for a place: no more are, but those that were seen."""
        if place not in self._missed:
            self._missed.add(place)
            self._forget(place)

    def _forget(self, place: Place) -> None:
        for offset in range(place.offset - _NEAR, place.offset + 1):
            self._wide.pop(Place(place.depth, offset), None)

    def varies(self, place: Place, character: str) -> bool:
        """Whether keys may have another character there than this one."""
        others = len(self._seen.get(place, set()) - {"", character})
        begins = place.offset == 0 and character.isalnum()
        return others > 0 or (place not in self._missed and (character in _DIGITS or begins))

    def at(self, place: Place) -> tuple[str, ...]:
        """The characters that keys may have at a place, sorted: digits stay digits, hex stays hex.

        The first one is "" where keys may end.
        """
        wide = self._wide.get(place)
        if wide is None:
            wide = self._wide[place] = tuple(sorted(self._widened(place)))
        return wide

    def _widened(self, place: Place) -> frozenset[str] | set[str]:
        seen = self._seen.get(place, set())
        known = seen - {""}
        if not known or place in self._missed:
            return seen
        for near in range(1, 1 + _NEAR):
            other = self._seen.get(Place(place.depth, place.offset + near), set()) - {"", "/"}
            if len(other) > len(known) and other >= known and other & _DIGITS:
                known = other
        for family in _FAMILIES:
            if known <= family and known & _DIGITS:
                return family | seen
        for family in _LETTERS:
            if len(known & family) > 1:
                known = known | family
        return known | seen


def _between(characters: list[str]) -> set[str]:
    """Characters between those of a script, evenly: nobody can know which of thousands there are."""
    if not characters:
        return set()
    low, high = ord(characters[0]), ord(characters[-1])
    codes = range(low, high, max(1, (high - low) // _STEPS))
    return {chr(code) for code in codes if not _SURROGATES[0] <= code < _SURROGATES[1]}


def _names(key: str) -> list[str]:
    """A key's parts, each but the last with its slash."""
    *folders, name = key.split("/")
    return [*(f"{folder}/" for folder in folders), name]


class Scale:
    """Keys as numbers from 0 to TOP, between what a range's two ends have in common: as arithmetic coding has it."""

    TOP: Final = 1 << 200

    def __init__(self, alphabets: Alphabets, base: str, anchors: Iterable[str]) -> None:
        """Makes it.

        Args:
            alphabets: What keys look like.
            base: What the keys begin with.
            anchors: Keys that it can tell apart, whatever was learned.
        """
        self._alphabets = alphabets
        self._base = base
        self._anchors = [text for text in anchors if text.startswith(base)]
        self._digits: dict[str, list[str]] = {}

    def _at(self, text: str, place: Place) -> list[str]:
        """The characters that may follow a text."""
        digits = self._digits.get(text)
        if digits is None:
            length = len(text)
            also = {anchor[length : length + 1] for anchor in self._anchors if anchor.startswith(text)}
            characters = also.union(self._alphabets.at(place))
            if len(also) > 1:
                characters |= _between(sorted(character for character in also if character >= _ASCII))
            digits = self._digits[text] = sorted(characters)
        return digits

    def number(self, text: str | None) -> int:
        """Of a key, or of a range's end."""
        if text is None:
            return self.TOP
        base = self._base
        if not text.startswith(base):
            return 0 if text < base else self.TOP
        number, width, place = 0, self.TOP, place_of(base)
        for position in range(len(base), len(text)):
            digits, character = self._at(text[:position], place), text[position]
            if not digits or width < len(digits):
                break
            width //= len(digits)
            digit = bisect_left(digits, character)
            number += digit * width
            if digit == len(digits) or digits[digit] != character:
                break
            place = place.after(character)
        return number

    def text(self, number: int, low: str, high: str | None, slack: int) -> str | None:
        """The shortest text near a number that is between two others; None where there is none."""
        text, width, rest, place = self._base, self.TOP, number, place_of(self._base)
        found = None
        while True:
            digits = self._at(text, place)
            if not digits or width < len(digits):
                return found
            width //= len(digits)
            digit, rest = divmod(rest, width)
            character = digits[min(digit, len(digits) - 1)]
            if character == "":
                return found
            text, place = text + character, place.after(character)
            if low < text and (high is None or text < high):
                found = text
                if rest <= slack:
                    return found


def _common(one: str, other: str) -> str:
    return os.path.commonprefix([one, other])  # noqa: RUF071 - of characters, not of folders


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
    text = _folder(scale.text(target, span.cursor, span.hi, slack), span.hi)
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
    """Where what the listed keys begin with ends, at each depth: a ladder from the next key up to the range's end.

    A range of which nobody knows where its keys are is cut there: one round trip later everybody does.

    Returns:
        Texts between span.cursor and span.hi, ascending.
    """
    page = _common(span.first, span.cursor)
    start = len(prefix) if span.hi is None else len(_common(span.cursor, span.hi))
    found = []
    for position in range(len(page) - 1, start - 1, -1):
        if alphabets.varies(place_of(page[:position]), page[position]):
            text = _folder(_behind(page[: position + 1]), span.hi)
            if text is not None:
                found.append(text)
    return [*found, *_blocks(span, alphabets, page[:start])]


def _blocks(span: KeyRange, alphabets: Alphabets, base: str) -> list[str]:
    """Where other scripts begin, in a range of which no end is known."""
    if span.hi is not None:
        return []
    place = place_of(base)
    is_ascii = all(character <= _ASCII for character in (*alphabets.at(place), span.cursor[len(base) :][:1]))
    blocks = _BLOCKS[: _BLOCKS.index(_ASCII) + 1] if is_ascii else _BLOCKS
    behind = _behind(span.cursor[: len(base) + 1])
    return [f"{base}{character}/" for character in blocks if behind is not None and base + character > behind]


def _folder(text: str | None, hi: str | None) -> str | None:
    """A cut as a folder's name; None where it isn't before a range's end.

    To start after `a/10/` gives what is in that folder wherever folders are directories, too; to start after `a/10`
    doesn't in SeaweedFS.
    """
    if text is None:
        return None
    folder = text if text.endswith("/") else f"{text}/"
    return folder if hi is None or folder < hi else None


def _behind(text: str) -> str | None:
    """The least text of this length behind all that begin with this one; None behind the last character of Unicode."""
    code = ord(text[-1]) + 1
    if _SURROGATES[0] <= code < _SURROGATES[1]:
        code = _SURROGATES[1]
    return None if code > 0x10FFFF else text[:-1] + chr(code)  # noqa: PLR2004 - the last character of Unicode
