"""The text of each token, and of a sequence of tokens row by row, to the byte."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import accumulate
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    from embedspace.space.embedding_space import EmbeddingSpace

_UNDECODABLE = "\N{REPLACEMENT CHARACTER}"
"""What a token that holds only some bytes of a character is decoded to."""
_BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")
_KNOWN: WeakKeyDictionary[EmbeddingSpace, dict[int, bytes]] = WeakKeyDictionary()


def token_texts(space: EmbeddingSpace, ids: Sequence[int]) -> list[str]:
    """Text of each token within a sentence, with the space before it where it has one.

    >>> from embedspace import EmbeddingSpace
    >>> space = EmbeddingSpace.from_pretrained("smollm2-135m-instruct")
    >>> token_texts(space, space.tokenize("Bread rises."))
    ['B', 'read', ' rises', '.']
    """
    return [each.decode(errors="replace") for each in token_bytes(space, ids)]


def token_bytes(space: EmbeddingSpace, ids: Sequence[int]) -> list[bytes]:
    """UTF-8 bytes of each token within a sentence; a token may hold only some bytes of a character.

    >>> from embedspace import EmbeddingSpace
    >>> space = EmbeddingSpace.from_pretrained("smollm2-135m-instruct")
    >>> b"".join(token_bytes(space, space.tokenize("鬱"))).decode()
    '鬱'
    """
    known = _KNOWN.setdefault(space, {})
    missing = {token for token in ids if token not in known}
    if missing:
        # Decoded alone, a token may lose its leading space: each is decoded after another token.
        anchor = space.tokenize("a")
        before = len(space.tokenizer.decode(anchor))
        for token in missing:
            text = space.tokenizer.decode([*anchor, token])[before:]
            known[token] = _raw_bytes(space, token) if _UNDECODABLE in text else text.encode()
    return [known[token] for token in ids]


@dataclass(frozen=True)
class RowText:
    """The text that rows read as, and where in it each row stands.

    >>> from embedspace import EmbeddingSpace
    >>> space = EmbeddingSpace.from_pretrained("smollm2-135m-instruct")
    >>> text = RowText.of(space, space.tokenize("Bread rises."))
    >>> text.text, text.starts, text.rows(6, 11)
    ('Bread rises.', (0, 1, 5, 11, 12), slice(2, 3, None))
    """

    text: str
    """Bytes that are no valid UTF-8 stand as lone surrogates."""
    row_bytes: tuple[int, ...]
    """Number of the first byte of each row, and of all bytes at the end."""

    @classmethod
    def of(cls, space: EmbeddingSpace, ids: Sequence[int]) -> RowText:
        """The text of tokens."""
        pieces = token_bytes(space, ids)
        text = b"".join(pieces).decode(errors="surrogateescape")
        return cls(text, tuple(accumulate(map(len, pieces), initial=0)))

    @cached_property
    def starts(self) -> tuple[int, ...]:
        """For each row the number of its first character, and the text's length at the end; -1 where a row begins
        inside a character."""
        places = {byte: character for character, byte in enumerate(self._character_bytes)}
        return tuple(places.get(byte, -1) for byte in self.row_bytes)

    def rows(self, start: int, stop: int) -> slice:
        """The rows that hold any byte of the characters from ``start`` to ``stop``."""
        first, last = self._character_bytes[start], self._character_bytes[stop]
        return slice(bisect_right(self.row_bytes, first) - 1, bisect_left(self.row_bytes, last))

    @cached_property
    def _character_bytes(self) -> Sequence[int]:
        """Number of the first byte of each character, and of all bytes at the end."""
        if self.text.isascii():
            return range(len(self.text) + 1)
        widths = (len(character.encode(errors="surrogateescape")) for character in self.text)
        return list(accumulate(widths, initial=0))


def _raw_bytes(space: EmbeddingSpace, token: int) -> bytes:
    """Bytes of a token that holds parts of characters: a byte-level token, or one of the 256 byte tokens."""
    name = space.tokenizer.token_name(token)
    if found := _BYTE_TOKEN.fullmatch(name):
        return bytes([int(found[1], 16)])
    alphabet = _byte_alphabet()
    if all(character in alphabet for character in name):
        return bytes(alphabet[character] for character in name)
    return name.encode()


@cache
def _byte_alphabet() -> dict[str, int]:
    """The byte that each character of a byte-level vocabulary stands for (Radford et al. 2019)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {
        chr(256 + place): byte for place, byte in enumerate(others)
    }
