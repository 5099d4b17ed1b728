"""Messages between the gateway and its workers: a job number, a JSON object and bytes, with their lengths first."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from dataclasses import dataclass
from typing import Any

_HEAD = struct.Struct("!QII")


@dataclass(frozen=True)
class Frame:
    """One message."""

    number: int
    """Of the job."""
    fields: dict[str, Any]
    body: bytes = b""

    def head(self) -> bytes:
        """What is sent before the body."""
        fields = json.dumps(self.fields).encode()
        return _HEAD.pack(self.number, len(fields), len(self.body)) + fields

    def to_bytes(self) -> bytes:
        """As sent over a socket."""
        return self.head() + self.body

    @classmethod
    async def read(cls, reader: asyncio.StreamReader, max_bytes: int) -> Frame:
        """The next message.

        Args:
            reader: of the socket.
            max_bytes: largest size of a message.

        Raises:
            EOFError: the other side closed the connection.
            ValueError: too large or not JSON, so the other side is compromised.
        """
        number, fields, body = _HEAD.unpack(await reader.readexactly(_HEAD.size))
        if fields + body > max_bytes:
            raise ValueError(f"a message has {fields + body} bytes; at most {max_bytes} are expected")
        return cls(number, json.loads(await reader.readexactly(fields)), await reader.readexactly(body))

    @classmethod
    def receive(cls, connection: socket.socket) -> Frame:
        """The next message, blocking; raises as :meth:`read`."""
        number, fields, body = _HEAD.unpack(_receive_exactly(connection, _HEAD.size))
        return cls(
            number, json.loads(_receive_exactly(connection, fields)), _receive_exactly(connection, body)
        )


def _receive_exactly(connection: socket.socket, length: int) -> bytes:
    data = bytearray(length)
    view, filled = memoryview(data), 0
    while filled < length:
        received = connection.recv_into(view[filled:])
        if not received:
            raise EOFError("the other side closed the connection")
        filled += received
    return bytes(data)
