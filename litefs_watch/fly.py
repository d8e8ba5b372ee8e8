"""Fly.io's private network: the machines of an application, and how to reach one.

The names are Fly's (https://fly.io/docs/networking/private-networking/): ``vms.APP.internal`` is a TXT record
``"ID REGION,ID REGION,…"`` of the started machines, ``ID.vm.APP.internal`` one machine's address. A machine's id is its
hostname, and so LiteFS's name for it.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterable

from litefs_watch.errors import ConfigError

Resolve = Callable[[str], Awaitable[Iterable[bytes]]]
"""The texts of a name's TXT records, each whole: its chunks of 255 bytes joined."""


async def get_all_instances(app_name: str | None = None, *, resolve: Resolve | None = None) -> dict[str, str]:
    """The region of each started machine of the application, by the machine's id.

    ``app_name`` is ``FLY_APP_NAME`` without it. Off Fly, where neither is set: this machine alone, in ``FLY_REGION`` or
    ``local``. ``resolve`` stands in for the DNS.

    Raises `ConfigError` where dnspython is missing (the extra ``fly``), and dnspython's own errors where the DNS does not
    answer.
    """
    app_name = app_name or os.environ.get("FLY_APP_NAME")
    if not app_name:
        return {os.environ.get("FLY_MACHINE_ID") or os.uname().nodename: os.environ.get("FLY_REGION") or "local"}
    texts = await (resolve or resolve_txt)(f"vms.{app_name}.internal")
    machines = [entry.split() for text in texts for entry in text.decode("ascii", "replace").split(",")]
    return {machine[0]: machine[1] for machine in machines if len(machine) == 2}


async def resolve_txt(name: str) -> list[bytes]:
    """A name's TXT records, through the system's resolver. A record is split into chunks of 255 bytes, wherever that is: in
    the middle of a machine's id, too."""
    try:
        from dns.asyncresolver import resolve
    except ImportError:
        raise ConfigError("get_all_instances needs dnspython: pip install 'litefs-watch[fly]'") from None
    return [b"".join(record.strings) for record in await resolve(name, "TXT")]


def get_internal_instance_domain(instance: str, port: int | str | None = None, *, app_name: str | None = None) -> str:
    """Where the machine ``instance`` answers this application's other machines: ``http://ID.vm.APP.internal:PORT``.

    ``port`` is ``INTERNAL_PORT``, else ``PORT``, without it; ``app_name`` is ``FLY_APP_NAME``. Off Fly, where neither is
    set, ``http://localhost:PORT``. Raises `ConfigError` where no port is known.
    """
    port = port or os.environ.get("INTERNAL_PORT") or os.environ.get("PORT")
    if not port or not str(port).isdecimal():
        seen = f"{str(port)[:40]!r} is no port:" if port else "which port?"
        raise ConfigError(f"{seen} set INTERNAL_PORT (or PORT, or port=) to internal_port in fly.toml")
    app_name = app_name or os.environ.get("FLY_APP_NAME")
    return f"http://{instance}.vm.{app_name}.internal:{port}" if app_name else f"http://localhost:{port}"
