"""Imported by every Python that a test starts: what tries to reach the network fails."""

import socket
import sys

WITHIN = getattr(socket, "AF_UNIX", None)


def refuse(event: str, args: tuple[object, ...]) -> None:
    """Refuse all but sockets between processes of this machine."""
    if event in ("socket.getaddrinfo", "socket.gethostbyname"):
        raise RuntimeError(f"the network was tried: {event}")
    if event in ("socket.connect", "socket.bind", "socket.sendto", "socket.sendmsg"):
        found = args[0]
        if not (isinstance(found, socket.socket) and found.family == WITHIN):
            raise RuntimeError(f"the network was tried: {event}")


sys.addaudithook(refuse)
