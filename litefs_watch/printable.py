"""Text from outside, made fit for one line of a log or a terminal."""

from __future__ import annotations

from collections.abc import Iterable


def safe(text: str) -> str:
    """The text with whatever is not printable escaped."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def by_name(given: object) -> str:
    """A function by its name, and anything else as it is printed: without its address in memory."""
    return str(getattr(given, "__qualname__", None) or repr(given)[:80])


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """What is appended to a message about a name that is none of the known ones: the one that looks like it, if any does."""
    from difflib import get_close_matches  # not before somebody errs

    near = get_close_matches(name.lower(), list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""
