"""A stand-in for Fly's edge: it sends a request to any machine, and again to the one that ``fly-replay`` names.

As Fly documents it: fields separated by ``;``; a replayed request carries ``fly-replay-src`` with the machine that sent it
on and with the ``state`` that this one gave; any answer with the header is thrown away. A machine's death is none of its
business here: it goes on to send requests there.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Generator, Sequence

from tests.chaos.http import Request, Response, Sent

REPLAYS = 3
"""More than so many, and it is a loop: a node sends on what has been sent on twice, and no more."""


class Edge:
    def __init__(self, hostnames: Sequence[str]) -> None:
        self.hostnames = list(hostnames)
        self.replays = 0
        self.loops = 0

    def route(self, request: Request, chance: random.Random, trail: list[str]) -> Generator[Sent, Response, Response]:
        """Send it on its way; the answer is the client's. ``trail`` gets each step."""
        hostname = chance.choice(self.hostnames)
        for _ in range(1 + REPLAYS):
            response = yield Sent(hostname, request)
            trail.append(_step(hostname, request, response))
            wanted = response.header("fly-replay")
            if wanted is None:
                return response
            self.replays += 1
            fields = _fields(wanted)
            if unknown := fields.keys() - {"instance", "state"}:
                raise ValueError(f"fields that this edge does not know: {unknown}")
            source = f"instance={hostname};region=ams;t=1700000000000000"
            if "state" in fields:
                source += f";state={fields['state']}"
            request = dataclasses.replace(request, headers={**request.headers, "fly-replay-src": source})
            hostname = fields["instance"]
            if hostname not in self.hostnames:
                raise ValueError(f"no machine is named {hostname!r}")
        self.loops += 1
        return Response(508)


def _fields(header: str) -> dict[str, str]:
    return {name.strip(): value.strip() for name, _, value in (field.partition("=") for field in header.split(";"))}


def _step(hostname: str, request: Request, response: Response) -> str:
    kept = {name: value for name, value in response.headers if name.startswith(("set-", "litefs-", "fly-"))}
    return f"{hostname}: {request.method} {request.path}?{request.query} {dict(request.headers)} -> {response.status} {kept}"
