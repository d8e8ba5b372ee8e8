"""Text from outside, made fit for one line of a log or a terminal."""

from __future__ import annotations


def safe(text: str) -> str:
    """The text with whatever is not printable escaped."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
