"""The terminal, key by key, and as it was afterwards."""

from __future__ import annotations

import os
import termios
import tty
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import anyio


@contextmanager
def unbuffered(descriptor: int) -> Iterator[None]:
    """Keys come at once and are not echoed. Ctrl-C still interrupts; Ctrl-Z does nothing: the shell would get a screen that
    is not its own."""
    before = termios.tcgetattr(descriptor)
    tty.setcbreak(descriptor, termios.TCSADRAIN)
    changed = termios.tcgetattr(descriptor)
    changed[6][termios.VSUSP] = b"\0"
    termios.tcsetattr(descriptor, termios.TCSADRAIN, changed)
    try:
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


async def pressed(descriptor: int) -> AsyncIterator[str]:
    """Each key; what a function key sends is several. Ends where the terminal does."""
    while True:
        await anyio.wait_readable(descriptor)
        try:
            read = os.read(descriptor, 64)
        except OSError:
            return
        if not read:
            return
        for key in read.decode(errors="replace"):
            yield key
