"""A stand-in for PgBouncer between a client and the server: it hands out process ids of its own, as every pooler does,
and in transaction mode passes no notifications."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator
from urllib.parse import urlsplit, urlunsplit


@contextlib.contextmanager
def pooler(dsn: str, *, is_transaction_mode: bool) -> Iterator[str]:
    """The DSN to connect to instead of `dsn`."""
    parts = urlsplit(dsn)
    upstream = (parts.hostname or "127.0.0.1", parts.port or 5432)
    listener = socket.create_server(("127.0.0.1", 0))
    open_sockets: list[socket.socket] = [listener]

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                server = socket.create_connection(upstream)
                open_sockets.extend((client, server))
                threading.Thread(target=_to_server, args=(client, server), daemon=True).start()
                threading.Thread(target=_to_client, args=(server, client, is_transaction_mode), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    try:
        port = listener.getsockname()[1]
        yield urlunsplit(parts._replace(netloc=f"{parts.netloc.rpartition(':')[0]}:{port}", query="sslmode=disable"))
    finally:
        for each in open_sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()


def _to_server(client: socket.socket, server: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := client.recv(65536):
            server.sendall(data)
        server.shutdown(socket.SHUT_WR)


def _to_client(server: socket.socket, client: socket.socket, is_transaction_mode: bool) -> None:
    """Message by message: a type byte, a length that counts itself, the rest."""
    buffer = b""
    with contextlib.suppress(OSError):
        while data := server.recv(65536):
            buffer += data
            while len(buffer) >= 5 and len(buffer) > (size := struct.unpack("!i", buffer[1:5])[0]):
                message, buffer = buffer[: size + 1], buffer[size + 1 :]
                if message[:1] == b"K":  # BackendKeyData
                    message = message[:5] + struct.pack("!i", 999_999_999) + message[9:]
                if not (is_transaction_mode and message[:1] == b"A"):  # NotificationResponse
                    client.sendall(message)
        client.shutdown(socket.SHUT_WR)
