"""One dense tensor as ``torch.save`` writes it, read without unpickling: the only file that a payload may be.

The file is a zip archive of a few stored entries. All of it but the name of its folder, the padding, the checksums and
an id follows from the tensor, so the reader compares bytes with what ``torch.save`` would have written: the headers,
which must cover the file without a gap, and the opcodes of the pickle with their arguments. No opcode is executed.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

# Names of storages in the pickle.
_STORAGES = {
    b"FloatStorage": torch.float32,
    b"BFloat16Storage": torch.bfloat16,
    b"HalfStorage": torch.float16,
    b"DoubleStorage": torch.float64,
}
# In the order in which torch.save writes them, each with what it may hold. Releases before 2.1 wrote the required ones
# only.
_ENTRIES: Mapping[bytes, re.Pattern[bytes]] = {
    b"data.pkl": re.compile(rb".{1,1024}", re.DOTALL),
    b".format_version": re.compile(rb"1"),
    b".storage_alignment": re.compile(rb"[1-9][0-9]{0,4}"),
    b"byteorder": re.compile(rb"little"),
    b"data/0": re.compile(rb".*", re.DOTALL),
    b"version": re.compile(rb"[23]\n"),
    b".data/serialization_id": re.compile(rb"[0-9]{1,40}"),
}
_REQUIRED = {b"data.pkl", b"data/0", b"version"}
_LEGACY_MAGIC = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."

_LOCAL, _DESCRIPTOR = struct.Struct("<4s5H3I2H"), struct.Struct("<4s3I")
_CENTRAL, _END = struct.Struct("<4s6H3I5H2I"), struct.Struct("<4s4H2IH")
# torch.save writes the records of zip64 into every archive; their numbers must be those of the ordinary record.
_END64, _LOCATOR = struct.Struct("<4sQ2H2I4Q"), struct.Struct("<4sIQI")
_TAIL = _END64.size + _LOCATOR.size + _END.size
_FLAGS = 0x0808  # sizes behind the data, names in UTF-8
_STORED = 0


@dataclass(frozen=True)
class _Description:
    """What the pickle says about the tensor."""

    dtype: torch.dtype
    numel: int
    """Of the storage."""
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read_saved_tensor(data: bytes) -> Tensor:
    """The tensor of a file that ``torch.save`` wrote, without executing anything in it.

    Args:
        data: the whole file.

    Returns:
        a contiguous tensor with its own memory and without a gradient.

    Raises:
        ValueError: anything but one dense, contiguous floating-point tensor on its whole storage.

    >>> import io
    >>> torch.save(torch.ones(2, 3), file := io.BytesIO())
    >>> read_saved_tensor(file.getvalue())
    tensor([[1., 1., 1.],
            [1., 1., 1.]])
    """
    entries = _stored_entries(data)
    described = _description(bytes(entries[b"data.pkl"]))
    storage = entries[b"data/0"]
    if len(storage) != described.numel * described.dtype.itemsize:
        raise ValueError("the payload's description and its data have different sizes")
    if described.offset or not _is_contiguous(described):
        raise ValueError(
            f"the payload's tensor of shape {list(described.shape)} is a view of its storage (expanded, cut or "
            "transposed); save a contiguous clone"
        )
    # A copy, which the tensor keeps: the payload itself is not held in memory, and cannot be written to.
    return torch.frombuffer(bytearray(storage), dtype=described.dtype).view(described.shape)


def _stored_entries(data: bytes) -> dict[bytes, memoryview]:
    """The entries of the archive by their names, without the folder; they and their headers are the whole file."""
    if data.startswith(_LEGACY_MAGIC):
        raise ValueError(
            "the payload is in the format of torch before 1.6; save it without _use_new_zipfile_serialization=False"
        )
    if len(data) < _TAIL or not data.startswith(b"PK\x03\x04"):
        raise ValueError("the payload is not a file of torch.save")
    *_, count, size, start, _ = _END.unpack_from(data, len(data) - _END.size)
    if data[-_TAIL:] != _tail(count, size, start) or start + size != len(data) - _TAIL:
        raise _malformed()
    if not len(_REQUIRED) <= count <= len(_ENTRIES):
        raise _not_one_tensor()
    entries: dict[bytes, memoryview] = {}
    folder, place, position = b"", start, 0
    for _ in range(count):
        name, content, place, position = _entry(data, place, position)
        prefix, _, name = name.partition(b"/")
        if not prefix or prefix != (folder or prefix):
            raise _malformed()
        folder = prefix
        entries[name] = content
    if position != start or place != len(data) - _TAIL:
        raise _malformed()
    in_order = [name for name in _ENTRIES if name in entries]
    if len(entries) != count or list(entries) != in_order or not entries.keys() >= _REQUIRED:
        raise _not_one_tensor()
    if any(not _ENTRIES[name].fullmatch(content) for name, content in entries.items()):
        raise _not_one_tensor()
    return entries


def _entry(data: bytes, place: int, position: int) -> tuple[bytes, memoryview, int, int]:
    """The entry whose directory record is at ``place``: its name and content, and the places of the next one.

    Its header must be at ``position``, and say the same as the record.
    """
    if place + _CENTRAL.size > len(data):
        raise _malformed()
    record = _CENTRAL.unpack_from(data, place)
    method, checksum, size, length = record[4], record[7], record[9], record[10]
    if method != _STORED:
        raise ValueError("the payload is compressed, which torch.save never does")
    if not size:
        raise ValueError("the payload's tensor is empty; a prompt has at least one row")
    name = data[place + _CENTRAL.size : place + _CENTRAL.size + length]
    expected = (
        b"PK\x01\x02",
        0,
        0,
        _FLAGS,
        _STORED,
        0,
        0,
        checksum,
        size,
        size,
        len(name),
        0,
        0,
        0,
        0,
        0,
        position,
    )
    if record != expected or position + _LOCAL.size > len(data):
        raise _malformed()
    *_, padding = _LOCAL.unpack_from(data, position)
    header = (
        _LOCAL.pack(b"PK\x03\x04", 0, _FLAGS, _STORED, 0, 0, 0, 0, 0, len(name), padding)
        + name
        + _padding(padding)
    )
    begin = position + len(header)
    end = begin + size
    if data[position:begin] != header:
        raise _malformed()
    content = memoryview(data)[begin:end]
    if data[end : end + _DESCRIPTOR.size] != _DESCRIPTOR.pack(b"PK\x07\x08", checksum, size, size):
        raise _malformed()
    if zlib.crc32(content) != checksum:
        raise ValueError("the payload is damaged: a checksum in it is wrong")
    return name, content, place + _CENTRAL.size + len(name), end + _DESCRIPTOR.size


def _padding(length: int) -> bytes:
    """The extra field that aligns an entry's content."""
    return struct.pack("<2sH", b"FB", max(length - 4, 0)) + b"Z" * (length - 4)


def _tail(count: int, size: int, start: int) -> bytes:
    """The end of an archive whose directory has so many records and bytes, and begins there."""
    return (
        _END64.pack(b"PK\x06\x06", _END64.size - 12, 0x031E, 45, 0, 0, count, count, size, start)
        + _LOCATOR.pack(b"PK\x06\x07", 0, start + size, 1)
        + _END.pack(b"PK\x05\x06", 0, 0, count, count, size, start, 0)
    )


def _description(pickled: bytes) -> _Description:
    """What the pickle of a dense tensor says; every opcode is compared with what ``torch.save`` writes."""
    reader = _PickleReader(pickled)
    reader.expect(b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\nq\x00((X\x07\x00\x00\x00storageq\x01ctorch\n")
    storage = reader.match(rb"([A-Za-z0-9]{1,40})\nq\x02X\x01\x00\x00\x000q\x03")
    # Where the tensor was (cpu, cuda:0), which has no effect.
    place = reader.match(rb"X(.)\x00\x00\x00([a-z]{1,16}(?::[0-9]{1,3})?)q\x04")
    if place[1][0] != len(place[2]):
        raise _not_one_tensor()
    numel = reader.number()
    reader.expect(b"tq\x05Q")
    offset = reader.number()
    shape = reader.sizes(b"q\x06")
    strides = reader.sizes(b"q\x07")
    reader.match(rb"[\x88\x89]")  # whether it requires a gradient, which has no effect
    reader.expect(b"ccollections\nOrderedDict\nq\x08)Rq\x09tq\x0aRq\x0b.")
    reader.expect_end()
    if storage[1] not in _STORAGES:
        raise ValueError(f"the payload's tensor is not of one of the dtypes {', '.join(_names())}")
    if len(strides) != len(shape):
        raise _not_one_tensor()
    return _Description(_STORAGES[storage[1]], numel, offset, shape, strides)


class _PickleReader:
    """Compares a pickle with what is expected, from its first byte to its last."""

    def __init__(self, pickled: bytes) -> None:
        self._pickled = pickled
        self._place = 0

    def expect(self, opcodes: bytes) -> None:
        if not self._pickled.startswith(opcodes, self._place):
            raise _not_one_tensor()
        self._place += len(opcodes)

    def expect_end(self) -> None:
        if self._place != len(self._pickled):
            raise _not_one_tensor()

    def match(self, pattern: bytes) -> re.Match[bytes]:
        found = re.compile(pattern, re.DOTALL).match(self._pickled, self._place)
        if found is None:
            raise _not_one_tensor()
        self._place = found.end()
        return found

    def number(self) -> int:
        """A number that is not negative, in the shortest of its forms, as ``pickle`` writes it."""
        found = self.match(rb"K(.)|M(..)|J(....)|\x8a([\x01-\x08])")
        digits = found[1] or found[2] or found[3]
        if found[4]:
            digits = self.match(rb".{%d}" % found[4][0])[0]
        value = int.from_bytes(digits, "little", signed=not (found[1] or found[2]))
        if value < 0 or found[0] + (digits if found[4] else b"") != _number(value):
            raise _not_one_tensor()
        return value

    def sizes(self, memo: bytes) -> tuple[int, ...]:
        """A pair of numbers. Other counts are read for the sake of the message about them."""
        sizes: list[int] = []
        while len(sizes) < 3 and self._pickled[self._place : self._place + 1] in (b"K", b"M", b"J", b"\x8a"):
            sizes.append(self.number())
        if len(sizes) != 2:
            raise ValueError(
                "the payload's tensor must have two dimensions, [tokens, hidden], and no more of them"
            )
        self.expect(b"\x86" + memo)
        return tuple(sizes)


def _number(value: int) -> bytes:
    """As ``pickle`` writes a number that is not negative in protocol 2."""
    if value < 2**8:
        return b"K" + value.to_bytes(1, "little")
    if value < 2**16:
        return b"M" + value.to_bytes(2, "little")
    if value < 2**31:
        return b"J" + value.to_bytes(4, "little")
    length = value.bit_length() // 8 + 1
    return b"\x8a" + bytes([length]) + value.to_bytes(length, "little")


def _is_contiguous(described: _Description) -> bool:
    (rows, columns), (row_stride, column_stride) = described.shape, described.strides
    if rows * columns != described.numel:
        return False
    return (columns <= 1 or column_stride == 1) and (rows <= 1 or row_stride == columns)


def _names() -> list[str]:
    return [str(dtype).removeprefix("torch.") for dtype in _STORAGES.values()]


def _malformed() -> ValueError:
    return ValueError(
        "the payload is not a file of torch.save: its headers are not those that torch.save writes"
    )


def _not_one_tensor() -> ValueError:
    return ValueError(
        "the payload is not one dense floating-point tensor as torch.save writes it; save tensor.detach().clone(), "
        "and no parameter, subclass, list or dictionary"
    )
