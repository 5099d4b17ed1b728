"""Messages between the gateway and its workers: a number, a JSON object and bytes, each with its length before it."""

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

    def to_bytes(self) -> bytes:
        """As it goes over a socket."""
        fields = json.dumps(self.fields).encode()
        return _HEAD.pack(self.number, len(fields), len(self.body)) + fields + self.body

    @classmethod
    async def read(cls, reader: asyncio.StreamReader, most: int) -> Frame:
        """The next message.

        Args:
            reader: of the socket.
            most: bytes that a message can have.

        Raises:
            EOFError: the other side is gone.
            ValueError: larger than that, or no JSON: the other side is not what it was.
        """
        number, fields, body = _HEAD.unpack(await reader.readexactly(_HEAD.size))
        if fields + body > most:
            raise ValueError(f"a message of {fields + body} bytes, and at most {most} are expected")
        return cls(number, json.loads(await reader.readexactly(fields)), await reader.readexactly(body))

    @classmethod
    def receive(cls, connection: socket.socket) -> Frame:
        """The next message, for a process that waits for nothing else; raises as :meth:`read`."""
        number, fields, body = _HEAD.unpack(_exactly(connection, _HEAD.size))
        return cls(number, json.loads(_exactly(connection, fields)), _exactly(connection, body))


def _exactly(connection: socket.socket, length: int) -> bytes:
    data = bytearray(length)
    view, filled = memoryview(data), 0
    while filled < length:
        received = connection.recv_into(view[filled:])
        if not received:
            raise EOFError("the other side is gone")
        filled += received
    return bytes(data)
