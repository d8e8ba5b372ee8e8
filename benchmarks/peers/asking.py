"""Requests over connections that stay open, and what a process has used."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from types import TracebackType
from typing import Self


class Client:
    """One connection."""

    def __init__(self, port: int) -> None:
        self._port = port

    async def __aenter__(self) -> Self:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._writer.close()

    def send(self, header: str) -> None:
        """A GET; ``header`` is a line, or empty."""
        lines = ["GET / HTTP/1.1", "host: localhost", *([header] if header else [])]
        self._writer.write("".join(f"{line}\r\n" for line in lines).encode() + b"\r\n")

    async def answer(self) -> int:
        """The status of the next answer."""
        head = await self._reader.readuntil(b"\r\n\r\n")
        length = head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
        if length.strip():
            await self._reader.readexactly(int(length))
        elif b"chunked" in head.lower():
            while int((await self._reader.readline()).strip() or b"0", 16):
                await self._reader.readline()
            await self._reader.readline()
        return int(head.split(maxsplit=2)[1])

    async def ask(self, header: str) -> int:
        self.send(header)
        return await self.answer()


def used(process: int) -> tuple[float, int]:
    """Seconds of processor time, and calls of read(2), which on LiteFS's side are requests of the mount."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    reads = next(line for line in Path(f"/proc/{process}/io").read_text().splitlines() if line.startswith("syscr"))
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"), int(reads.split()[1])
