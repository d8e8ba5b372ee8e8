"""What systemd is told, by sd_notify(3): a few words to a socket that the environment names. Elsewhere nothing happens."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Mapping

logger: logging.Logger = logging.getLogger("litefs_watch")

READY = "READY=1"
ALIVE = "WATCHDOG=1"
STOPPING = "STOPPING=1"


def notify(message: str, environ: Mapping[str, str] = os.environ) -> bool:
    """Send it. Whether it went: there is somebody to tell, and has room for it. Doesn't wait."""
    address = environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):  # vsock is for virtual machines
        return False
    if address.startswith("@"):  # Linux's abstract sockets have no file
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK) as sender:
            sender.sendto(message.encode(), address)
    except OSError as error:
        if message != ALIVE:  # which comes again, and need not be said each time
            logger.warning("systemd was not told %s: %s", message, error)
        return False
    return True


def watchdog_interval(environ: Mapping[str, str] = os.environ) -> float | None:
    """Seconds between two `ALIVE`: half of those after which systemd takes this process for dead; None: it doesn't ask."""
    text, pid = environ.get("WATCHDOG_USEC", ""), environ.get("WATCHDOG_PID", "")
    if not text.isascii() or not text.isdigit() or int(text) == 0 or pid not in ("", str(os.getpid())):
        return None
    return int(text) / 2e6
