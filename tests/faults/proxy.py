"""A proxy in front of PostgreSQL that cuts the line around a COMMIT, as a network does that fails at the worst moment.

Rules that must stay true:
- the line is cut either before the COMMIT reached the server or after the server answered it, which the client
  cannot tell apart;
- once cut, a line stays cut on both sides; the client connects anew.
"""

from __future__ import annotations

import random
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress


class Proxy:
    """Listens on a port of its own.

    Args:
        port: of the server, on the loopback.
        dice: decides which COMMITs are lost.
        share: how many of them, from 0 to 1.
    """

    def __init__(self, port: int, dice: random.Random, share: float) -> None:
        self._server = port
        self._dice = dice
        self._share = share
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.dropped = 0
        """COMMITs whose outcome the client was not told."""
        self._lines: set[socket.socket] = set()
        self._lock = threading.Lock()
        threading.Thread(target=self._listen, daemon=True).start()

    def close(self) -> None:
        """Cut all lines and listen no more."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._cut(*self._lines)

    def _listen(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._server))
            except OSError:
                return
            for line in (client, server):
                line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._lines |= {client, server}
            awaited = threading.Event()
            for work in (self._upward, self._downward):
                threading.Thread(target=work, args=(client, server, awaited), daemon=True).start()

    def _upward(self, client: socket.socket, server: socket.socket, awaited: threading.Event) -> None:
        """From the client to the server; the COMMIT is the whole of a message."""
        with suppress(OSError):
            while data := client.recv(65536):
                if b"COMMIT\0" in data:
                    with self._lock:
                        is_lost, reaches = self._dice.random() < self._share, self._dice.random() < 0.5
                        self.dropped += is_lost
                    if is_lost and not reaches:
                        break
                    if is_lost:
                        awaited.set()  # before it is sent, so that the answer cannot be faster
                server.sendall(data)
        if not awaited.is_set():
            self._cut(client, server)

    def _downward(self, client: socket.socket, server: socket.socket, awaited: threading.Event) -> None:
        """From the server to the client, who never sees the answer to a lost COMMIT."""
        with suppress(OSError):
            while data := server.recv(65536):
                if awaited.is_set():
                    break
                client.sendall(data)
        self._cut(client, server)

    def _cut(self, *lines: socket.socket) -> None:
        for line in lines:
            with suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)
            line.close()
            self._lines.discard(line)


@contextmanager
def proxy(port: int, dice: random.Random, share: float) -> Iterator[Proxy]:
    """A proxy for as long as the context lasts."""
    opened = Proxy(port, dice, share)
    try:
        yield opened
    finally:
        opened.close()
