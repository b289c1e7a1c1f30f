"""How a stage and a loaded process talk: lines of JSON, and open files beside the first of them."""

import json
import os
import socket
import struct
from collections.abc import Sequence

# What type checkers take for true. To import `typing` would slow the start of every stage.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

CHUNK = 65536
STREAMS = (0, 1, 2)


class Connection:
    """One end of a conversation, over a socket."""

    def __init__(self, endpoint: socket.socket) -> None:
        self.endpoint = endpoint
        self._received = b""

    def send(self, message: "dict[str, Any]") -> None:
        self.endpoint.sendall(json.dumps(message).encode() + b"\n")

    def receive(self) -> "dict[str, Any] | None":
        """Wait for the next message; None once the other end has closed."""
        while b"\n" not in self._received:
            content = self.endpoint.recv(CHUNK)
            if not content:
                return None
            self._received += content

        line, _, self._received = self._received.partition(b"\n")
        message: dict[str, Any] = json.loads(line)
        return message

    @property
    def holds_message(self) -> bool:
        """Whether `receive` would return without a look at the socket."""
        return b"\n" in self._received

    def send_streams(self, streams: Sequence[int]) -> None:
        """Hand over open files. The other end must call `receive_streams` before it reads on.

        They come with a byte of their own. A plain read of that byte would lose them.
        """
        socket.send_fds(self.endpoint, [b"\n"], streams)

    def receive_streams(self, count: int) -> list[int]:
        """Receive open files; none if the other end has closed.

        Raises:
            ConnectionError: if they are not as many as expected.
        """
        content, streams, _, _ = socket.recv_fds(self.endpoint, 1, count)
        if content and len(streams) != count:
            raise ConnectionError("the streams of a stage did not arrive")
        return streams


def peer(endpoint: socket.socket) -> tuple[int, int]:
    """The process and the user at the other end; of a socket that listens, those that made it."""
    credentials = endpoint.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    process, user, _ = struct.unpack("3i", credentials)
    return int(process), int(user)


def is_own(endpoint: socket.socket) -> bool:
    """Whether this user is at the other end."""
    return peer(endpoint)[1] == os.getuid()
