"""The load: clients behind the edge, each in a thread, over HTTP; and the pace of the faults."""

from __future__ import annotations

import http.client
import random
import threading
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from benchmarks.soak.machines import Address, Machines
from tests.chaos.client import Client, Record
from tests.chaos.http import BACK_OFF, Conversation, Request, Response, Sent

CLIENTS = 12
PAUSE = 0.05
"""Seconds that a client pauses after each answer, on average: a load, and no flood."""
RATE = 20
"""What the faults take for requests, a second: they are to come as often on a slow machine as on a quick one."""
CALM = 30
"""Of these until another fault begins, on average, where none ends before."""
GIVEN_UP = 20.0
"""Seconds after which a client gives up."""


class Paced(Record):
    """Tells the faults of `RATE` requests a second, and keeps what is measured, not what was done."""

    def __init__(self) -> None:
        super().__init__()
        self._latencies: list[float] = []
        self._since = time.monotonic()

    @property
    def begun(self) -> int:
        return int((time.monotonic() - self._since) * RATE)

    def wait_for(self, begun: int, timeout: float) -> bool:
        with self._progress:
            self._progress.wait_for(lambda: self.over, max(0.0, self._since + begun / RATE - time.monotonic()))
            return not self.over

    def answered(self, seconds: float) -> None:
        self._latencies.append(seconds)

    def take_latencies(self) -> list[float]:
        """Those since the last call, in seconds. Forgets what was done until now."""
        self.operations.clear()
        self.trails.clear()
        taken, self._latencies = self._latencies, []
        return taken


class TimedClient(Client):
    """Pauses between its requests, and takes the time of each, with all that the edge does."""

    def __init__(self, name: str, seed: str, edge: Any, record: Paced) -> None:
        super().__init__(name, seed, edge, record)
        self._paced = record
        self._pauses = random.Random(f"{seed}/{name}/pauses")

    def _operate(self) -> Generator[Sent, Response, None]:
        began = time.perf_counter()
        yield from super()._operate()
        self._paced.answered(time.perf_counter() - began)
        time.sleep(self._pauses.uniform(0, 2 * PAUSE))


def ask(address: Address, request: Request) -> Response:
    """As Fly's proxy would: what the network raises is a 502."""
    connection = http.client.HTTPConnection(*address, timeout=GIVEN_UP)
    try:
        path = f"{request.path}?{request.query}" if request.query else request.path
        connection.request(request.method, path, headers=dict(request.headers))
        answer = connection.getresponse()
        headers = tuple((name.lower(), value) for name, value in answer.getheaders())
        return Response(answer.status, headers, answer.read())
    except (OSError, http.client.HTTPException) as error:
        return Response(502, body=repr(error).encode())
    finally:
        connection.close()


def converse(conversation: Conversation, addresses: Mapping[str, Address]) -> None:
    """Drive it, in this thread."""
    response = None
    while True:
        try:
            sent = next(conversation) if response is None else conversation.send(response)
        except StopIteration:
            return
        if response is not None and response.status >= 500:
            time.sleep(BACK_OFF)
        response = ask(addresses[sent.hostname], sent.request)


@contextmanager
def load(conversations: list[Conversation], machines: Machines, record: Record) -> Iterator[None]:
    """Half of the clients talk to the ASGI applications, half to the WSGI ones, until the block is left."""
    threads = [
        threading.Thread(target=converse, args=(each, machines.wsgi if number % 2 else machines.asgi))
        for number, each in enumerate(conversations)
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        record.finish()
        for thread in threads:
            thread.join()
