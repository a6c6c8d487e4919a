"""Types of option values: each turns a text into a value of ours, or says what was expected."""

import re
from datetime import date, timedelta
from typing import Any, Final, NoReturn

import click

from inventory_enqueue.config import Change, MessageGroups
from inventory_enqueue.filters import Moment
from inventory_enqueue.uris import Location, parse_location

_AMOUNT: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)")
_SECONDS: Final = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_BYTES: Final = {"": 1, "b": 1} | {
    f"{letter}{suffix}": 1024**power for power, letter in enumerate("kmgt", 1) for suffix in ("", "b", "ib")
}


class _Parsed(click.ParamType[Any]):
    """Hands over values that are no texts any more, such as defaults, as they are."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:  # noqa: ANN401 - click's signature
        """Parses a text."""
        if not isinstance(value, str):
            return value
        try:
            return self.parse(value)
        except (ValueError, OverflowError) as error:
            self.fail(str(error), param, ctx)

    def parse(self, text: str) -> Any:  # noqa: ANN401 - each type has its own value
        """The value, or ValueError with what was expected."""
        raise NotImplementedError


class LocationType(_Parsed):
    """An s3:// URL or a local path."""

    name = "uri"

    def parse(self, text: str) -> Location:
        """Parses it."""
        return parse_location(text)


class ChangesType(_Parsed):
    """A comma list of changes."""

    name = "list"

    def parse(self, text: str) -> frozenset[Change]:
        """Parses it."""
        try:
            return frozenset(Change(name.strip()) for name in text.split(","))
        except ValueError:
            _expected(text, f"a comma list of {', '.join(Change)}")


class NamesType(_Parsed):
    """A comma list of names."""

    name = "list"

    def parse(self, text: str) -> tuple[str, ...]:
        """Parses it."""
        return tuple(name.strip() for name in text.split(",") if name.strip())


class MomentType(_Parsed):
    """A date, a time, or an age such as 36h."""

    name = "time"

    def parse(self, text: str) -> Moment:
        """Parses it."""
        return Moment(text)


class DurationType(_Parsed):
    """A number of seconds, or of the unit behind it: 90, 30m, 36h, 2d."""

    name = "duration"

    def parse(self, text: str) -> timedelta:
        """Parses it."""
        return timedelta(seconds=_amount(text, _SECONDS, "a duration such as 90s, 30m, 36h or 2d"))


class SizeType(_Parsed):
    """A number of bytes, or of the unit behind it, in powers of 1,024: 512M, 2GiB."""

    name = "size"

    def parse(self, text: str) -> int:
        """Parses it."""
        return int(_amount(text, _BYTES, "a size such as 512M or 2GiB"))


class MessageGroupsType(_Parsed):
    """A MessageGroupId, or hash:N."""

    name = "group"

    def parse(self, text: str) -> MessageGroups:
        """Parses it."""
        return MessageGroups.parse(text)


class DayType(_Parsed):
    """A day: YYYY-MM-DD."""

    name = "date"

    def parse(self, text: str) -> date:
        """Parses it."""
        try:
            return date.fromisoformat(text)
        except ValueError:
            _expected(text, "a day such as 2026-11-24")


def _amount(text: str, units: dict[str, int], expected: str) -> float:
    match = _AMOUNT.fullmatch(text.strip())
    if match is None or match[2].lower() not in units:
        _expected(text, expected)
    return float(match[1]) * units[match[2].lower()]


def _expected(text: str, expected: str) -> NoReturn:
    raise ValueError(f"{text!r}: {expected} was expected")
