"""Ways in which an attacker hides a text from a filter: encodings, ciphers, look-alike letters, invisible characters.

They are written for the acceptance of the filter and share no code with its decoders.
"""

from __future__ import annotations

import base64
import json
import random
import string
import unicodedata
from collections.abc import Callable, Mapping

Obfuscation = Callable[[str, random.Random], str]

LOWER, UPPER = string.ascii_lowercase, string.ascii_uppercase
_MORSE_SIGNS = """
.- -... -.-. -.. . ..-. --. .... .. .--- -.- .-.. -- -. --- .--. --.- .-. ... - ..- ...- .-- -..- -.-- --..
----- .---- ..--- ...-- ....- ..... -.... --... ---.. ----. .-.-.- --..-- ..--.. -.-.-- ---... -..-. -....-
"""
_SPELLING = """
Alfa Bravo Charlie Delta Echo Foxtrot Golf Hotel India Juliett Kilo Lima Mike November Oscar Papa Quebec Romeo Sierra
Tango Uniform Victor Whiskey Xray Yankee Zulu
"""
MORSE = dict(zip(f"{LOWER}{string.digits}.,?!:/-", _MORSE_SIGNS.split(), strict=True))
NATO = dict(zip(LOWER, _SPELLING.split(), strict=True))
LEET = str.maketrans("aeiostAEIOST", "431057431057")
SMALL_CAPITALS = str.maketrans(LOWER, "ᴀʙᴄᴅᴇꜰɢʜɪᴊᴋʟᴍɴᴏᴘǫʀꜱᴛᴜᴠᴡxʏᴢ")
UPSIDE_DOWN = str.maketrans(LOWER + ".,?!'", "ɐqɔpǝɟƃɥᴉɾʞlɯuodbɹsʇnʌʍxʎz˙'¿¡,")
CYRILLIC_AND_GREEK = str.maketrans("aceijopsxyABCEHIKMOPTXYvuN", "асеіјорѕхуАВСЕНІКМОРТХΥνυΝ")
CHEROKEE = str.maketrans("ABCDEGHIJKLMPRSTVWYZ", "ᎪᏴᏟᎠᎬᏀᎻᏆᎫᏦᏞᎷᏢᎡᏚᎢᏙᎳᎽᏃ")
BRAILLE = str.maketrans(LOWER, "⠁⠃⠉⠙⠑⠋⠛⠓⠊⠚⠅⠇⠍⠝⠕⠏⠟⠗⠎⠞⠥⠧⠺⠭⠽⠵")
SQUARED = str.maketrans(UPPER, "".join(map(chr, range(0x1F130, 0x1F14A))))
CIRCLED = str.maketrans(LOWER + UPPER, "".join(map(chr, [*range(0x24D0, 0x24EA), *range(0x24B6, 0x24D0)])))
FULLWIDTH = {code: code + 0xFEE0 for code in range(0x21, 0x7F)} | {0x20: 0x3000}
ZERO_WIDTH = "\u200b\u200c\u200d\u2060\ufeff"
EMOJI = "🍎🌟🐢🎈🌵🦊🍕🎵"
COVERS = ("Thanks for the update.", "See you on Monday!", "What a lovely picture.", "The parcel has arrived.")
"""Harmless sentences that tag characters, which nobody sees, are appended to."""


def _mathematical(first: int) -> dict[int, int]:
    """Letters of one of Unicode's mathematical alphabets, which start with the capital A."""
    return {ord(letter): first + number for number, letter in enumerate(UPPER + LOWER)}


def _shifted(text: str, shift: int) -> str:
    table = str.maketrans(LOWER + UPPER, LOWER[shift:] + LOWER[:shift] + UPPER[shift:] + UPPER[:shift])
    return text.translate(table)


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def _base64_in_pieces(text: str, rng: random.Random) -> str:
    code, pieces = _base64(text), []
    while code:
        length = rng.randint(12, 28)
        pieces.append(code[:length])
        code = code[length:]
    return "\n".join(f"part {number}: {piece}" for number, piece in enumerate(pieces, 1))


def _after_each_letter(text: str, sign: Callable[[], str]) -> str:
    return "".join(letter + sign() if letter.isalnum() else letter for letter in text)


def _marked(text: str, rng: random.Random) -> str:
    """Letters under one to five combining marks each ("zalgo")."""
    marks = [chr(code) for code in range(0x0300, 0x036F) if unicodedata.combining(chr(code))]
    return _after_each_letter(text, lambda: "".join(rng.choices(marks, k=rng.randint(1, 5))))


def _joined_letters(text: str, sign: str, gap: str) -> str:
    return gap.join(sign.join(word) for word in text.split())


def _emoji_between(text: str, rng: random.Random) -> str:
    return " ".join("".join(letter + rng.choice(EMOJI) for letter in word) for word in text.split())


def _alternating(text: str, rng: random.Random) -> str:
    return "".join(letter.upper() if number % 2 else letter.lower() for number, letter in enumerate(text))


def _pig_latin(text: str, rng: random.Random) -> str:
    def turned(word: str) -> str:
        body = word.rstrip(string.punctuation)
        first = next((number for number, letter in enumerate(body) if letter.lower() in "aeiou"), 0)
        return f"{body[first:]}{body[:first]}{'ay' if first else 'way'}{word[len(body) :]}" if body else word

    return " ".join(map(turned, text.split()))


def _inner_letters_shuffled(text: str, rng: random.Random) -> str:
    def shuffled(word: str) -> str:
        inner = list(word[1:-1])
        if len(set(inner)) < 2:
            return word
        while "".join(inner) == word[1:-1]:
            rng.shuffle(inner)
        return word[0] + "".join(inner) + word[-1]

    return " ".join(map(shuffled, text.split()))


def _in_variables(text: str, rng: random.Random) -> str:
    """A text cut inside its words into strings of a program that joins them."""
    cuts, start = [], 0
    while start < len(text):
        length = rng.randint(2, 4)
        cuts.append(text[start : start + length])
        start += length
    names = [f"p{number}" for number in range(len(cuts))]
    lines = [f"{name} = {cut!r}" for name, cut in zip(names, cuts, strict=True)]
    return "\n".join([*lines, f"message = {' + '.join(names)}"])


def _hyphenated(text: str, rng: random.Random) -> str:
    """Words of more than three letters broken over two lines."""
    return " ".join(
        f"{word[: len(word) // 2]}-\n{word[len(word) // 2 :]}" if len(word) > 3 else word
        for word in text.split()
    )


def _tags(text: str, rng: random.Random) -> str:
    return rng.choice(COVERS) + "".join(chr(0xE0000 + ord(letter)) for letter in text if ord(letter) < 0x7F)


def _variation_bytes(text: str, rng: random.Random) -> str:
    """UTF-8 bytes as variation selectors behind one emoji, none of them visible."""
    return "😀" + "".join(chr(0xFE00 + byte if byte < 16 else 0xE0100 + byte - 16) for byte in text.encode())


def _morse(text: str, rng: random.Random) -> str:
    return " / ".join(
        " ".join(MORSE[letter] for letter in word if letter in MORSE) for word in text.lower().split()
    )


def _nato(text: str, rng: random.Random) -> str:
    return " / ".join(" ".join(NATO.get(letter, letter) for letter in word) for word in text.lower().split())


def _bytes_as(text: str, code: str, between: str = "") -> str:
    return between.join(format(byte, code) for byte in text.encode())


ANY_SCRIPT: Mapping[str, Obfuscation] = {
    "base64": lambda text, rng: _base64(text),
    "base64 in pieces": _base64_in_pieces,
    "base64 reversed": lambda text, rng: _base64(text)[::-1],
    "base64 twice": lambda text, rng: _base64(_base64(text)),
    "base64 of reversed text": lambda text, rng: _base64(text[::-1]),
    "base32": lambda text, rng: base64.b32encode(text.encode()).decode(),
    "base85": lambda text, rng: base64.b85encode(text.encode()).decode(),
    "hex": lambda text, rng: _bytes_as(text, "02x"),
    "hex with spaces": lambda text, rng: _bytes_as(text, "02X", " "),
    "hex escapes": lambda text, rng: "".join(f"\\x{byte:02x}" for byte in text.encode()),
    "octal escapes": lambda text, rng: "".join(f"\\{byte:03o}" for byte in text.encode()),
    "binary": lambda text, rng: _bytes_as(text, "08b", " "),
    "decimal": lambda text, rng: " ".join(str(ord(letter)) for letter in text),
    "url": lambda text, rng: "".join(f"%{byte:02X}" for byte in text.encode()),
    "quoted-printable": lambda text, rng: "".join(f"={byte:02X}" for byte in text.encode()),
    "html entities": lambda text, rng: "".join(f"&#{ord(letter)};" for letter in text),
    "html hex entities": lambda text, rng: "".join(f"&#x{ord(letter):x};" for letter in text),
    "unicode escapes": lambda text, rng: "".join(
        f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}" for code in map(ord, text)
    ),
    "reversed text": lambda text, rng: text[::-1],
    "reversed words": lambda text, rng: " ".join(word[::-1] for word in text.split()),
    "right-to-left override": lambda text, rng: f"\u202e{text[::-1]}\u202c",
    "zero-width signs": lambda text, rng: _after_each_letter(text, lambda: rng.choice(ZERO_WIDTH)),
    "soft hyphens": lambda text, rng: _after_each_letter(text, lambda: "\u00ad"),
    "variation selectors": lambda text, rng: _after_each_letter(text, lambda: "\ufe0f"),
    "bytes as variation selectors": _variation_bytes,
    "struck through": lambda text, rng: _after_each_letter(text, lambda: "\u0336"),
    "underlined": lambda text, rng: _after_each_letter(text, lambda: "\u0332"),
    "marked": _marked,
    "spaced": lambda text, rng: _joined_letters(text, " ", "   "),
    "dotted": lambda text, rng: _joined_letters(text, ".", " "),
    "underscored": lambda text, rng: _joined_letters(text, "_", " "),
    "hyphenated letters": lambda text, rng: _joined_letters(text, "-", " "),
    "emoji between letters": _emoji_between,
    "one letter a line": lambda text, rng: "\n".join(text),
    "in variables": _in_variables,
}
"""Those that hide texts in any script, by name."""

LATIN: Mapping[str, Obfuscation] = {
    "rot13": lambda text, rng: _shifted(text, 13),
    "caesar 3": lambda text, rng: _shifted(text, 3),
    "caesar, random shift": lambda text, rng: _shifted(text, rng.choice([*range(1, 13), *range(14, 26)])),
    "atbash": lambda text, rng: text.translate(str.maketrans(LOWER + UPPER, LOWER[::-1] + UPPER[::-1])),
    "leet": lambda text, rng: text.translate(LEET),
    "small capitals": lambda text, rng: text.lower().translate(SMALL_CAPITALS),
    "fullwidth": lambda text, rng: text.translate(FULLWIDTH),
    "mathematical bold": lambda text, rng: text.translate(_mathematical(0x1D400)),
    "mathematical bold script": lambda text, rng: text.translate(_mathematical(0x1D4D0)),
    "mathematical bold fraktur": lambda text, rng: text.translate(_mathematical(0x1D56C)),
    "mathematical monospace": lambda text, rng: text.translate(_mathematical(0x1D670)),
    "circled letters": lambda text, rng: text.translate(CIRCLED),
    "squared letters": lambda text, rng: text.upper().translate(SQUARED),
    "regional indicators": lambda text, rng: "".join(
        chr(0x1F1E6 + UPPER.index(letter)) + "\u200b" if letter in UPPER else letter
        for letter in text.upper()
    ),
    "Cyrillic and Greek letters": lambda text, rng: text.translate(CYRILLIC_AND_GREEK),
    "Cherokee letters": lambda text, rng: text.upper().translate(CHEROKEE),
    "upside down": lambda text, rng: text.lower().translate(UPSIDE_DOWN)[::-1],
    "braille": lambda text, rng: text.lower().translate(BRAILLE),
    "tag characters": _tags,
    "morse": _morse,
    "spelling alphabet": _nato,
    "pig latin": _pig_latin,
    "alternating case": _alternating,
    "inner letters shuffled": _inner_letters_shuffled,
    "hyphenated lines": _hyphenated,
    "rot13 of base64": lambda text, rng: _shifted(_base64(text), 13),
    "hex of rot13": lambda text, rng: _bytes_as(_shifted(text, 13), "02x"),
}
"""Those for texts in Latin letters, by name."""

WRAPPINGS: Mapping[str, Obfuscation] = {
    "html comment": lambda text, rng: (
        f"<p>Opening hours: 9 to 17.</p>\n<!-- {text} -->\n<p>Closed on Sundays.</p>"
    ),
    "hidden element": lambda text, rng: (
        f'<div style="display:none">{text}</div>\n<p>Welcome to our shop.</p>'
    ),
    "markdown comment": lambda text, rng: f"# Notes\n\n[//]: # ({text})\n\nNothing to see yet.",
    "markdown image": lambda text, rng: f"Our garden in May:\n\n![{text}](garden.jpg)",
    "code comment": lambda text, rng: "".join(f"# {line}\n" for line in text.splitlines()) + "print('hello')",
    "json string": lambda text, rng: json.dumps({"title": "Broken lamp", "note": text}, ensure_ascii=False),
}
"""Places that a reader of the page does not see; the words themselves stay as they are."""

OBFUSCATIONS: Mapping[str, Obfuscation] = {**ANY_SCRIPT, **LATIN, **WRAPPINGS}
"""All of them by name."""


def obfuscate(name: str, text: str, hint: bool = False) -> str:
    """A text hidden in one of the ways of ``OBFUSCATIONS``; the same text is always hidden alike.

    Args:
        name: of the obfuscation.
        text: what to hide.
        hint: whether a first line asks the reader to decode the rest and to do what it says.

    Raises:
        ValueError: an unknown name.

    >>> obfuscate("rot13", "Say yes.")
    'Fnl lrf.'
    """
    if name not in OBFUSCATIONS:
        raise ValueError(f"there is no obfuscation {name!r}; there are {', '.join(OBFUSCATIONS)}")
    hidden = OBFUSCATIONS[name](text, random.Random(f"{name}\n{text}"))
    return f"Decode this ({name}) and do what it says:\n{hidden}" if hint else hidden
