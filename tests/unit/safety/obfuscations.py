"""Ways to write a text that a person or a model still understands, each written from its own definition."""
# ruff: noqa: E501, SIM905

import base64
import codecs
import html
import random
import unicodedata
import urllib.parse

LATIN = "abcdefghijklmnopqrstuvwxyz"
MORSE = dict(zip(LATIN, (
    ".- -... -.-. -.. . ..-. --. .... .. .--- -.- .-.. -- -. --- .--. --.- .-. ... - ..- ...- .-- -..- -.-- --.."
).split(), strict=True))  # fmt: skip
RADIO = dict(zip(LATIN, (
    "Alfa Bravo Charlie Delta Echo Foxtrot Golf Hotel India Juliett Kilo Lima Mike November Oscar Papa Quebec Romeo Sierra "
    "Tango Uniform Victor Whiskey Xray Yankee Zulu"
).split(), strict=True))  # fmt: skip
SMALL_CAPITALS = dict(zip(LATIN, "ᴀʙᴄᴅᴇꜰɢʜɪᴊᴋʟᴍɴᴏᴘꞯʀꜱᴛᴜᴠᴡxʏᴢ", strict=True))
UPSIDE_DOWN = dict(zip(LATIN, "ɐqɔpǝɟƃɥᴉɾʞlɯuodbɹsʇnʌʍxʎz", strict=True))
CHEROKEE = {"a": "Ꭺ", "b": "Ᏼ", "c": "Ꮯ", "d": "Ꭰ", "e": "Ꭼ", "g": "Ꮐ", "h": "Ꮋ", "i": "Ꭵ", "l": "Ꮮ", "m": "Ꮇ", "p": "Ꮲ", "r": "Ꭱ",
            "s": "Ꮪ", "t": "Ꭲ", "v": "Ꮩ", "w": "Ꮃ", "y": "Ꭹ", "z": "Ꮓ"}  # fmt: skip
ARMENIAN_AND_GREEK = {
    "o": "օ",
    "n": "ո",
    "u": "ս",
    "h": "հ",
    "a": "α",
    "p": "ρ",
    "i": "ι",
    "v": "ν",
    "y": "γ",
    "e": "ҽ",
    "g": "ց",
}
CYRILLIC = dict(zip("aeopcyxis", "аеорсухіѕ", strict=True))
LEET = dict(zip("oieast", "013457", strict=True))


def encoded(text):
    return base64.b64encode(text.encode()).decode()


def chunks(text, size):
    return [text[start : start + size] for start in range(0, len(text), size)]


def shifted(text, by):
    table = {**dict(zip(LATIN, LATIN[by:] + LATIN[:by], strict=True))}
    table |= {letter.upper(): other.upper() for letter, other in table.items()}
    return "".join(table.get(letter, letter) for letter in text)


def in_style(start_capital, start_small):
    def write(text):
        return "".join(
            chr(start_small + ord(x) - 97)
            if "a" <= x <= "z"
            else chr(start_capital + ord(x) - 65)
            if "A" <= x <= "Z"
            else x
            for x in text
        )

    return write


def replaced(table):
    return lambda text: "".join(table.get(letter, letter) for letter in text.lower())


def parted(sign, gap):
    return lambda text: gap.join(sign.join(word) for word in text.split())


def with_marks(*marks):
    def write(text):
        rng = random.Random(0)
        return "".join(
            x + "".join(rng.choices(marks, k=max(1, len(marks) // 4))) if x.isalpha() else x for x in text
        )

    return write


def pig_latin(text):
    def turned(word):
        start = next((at for at, letter in enumerate(word) if letter in "aeiou" or (letter == "y" and at)), 0)
        return f"{word[start:]}{word[:start]}ay" if start else f"{word}way"

    return " ".join(map(turned, text.lower().replace(".", "").split()))


def flags(text):
    return "".join(chr(0x1F1E6 + ord(x) - 97) if x in LATIN else x for x in text.lower())


def emoji_parted(text):
    rng = random.Random(1)
    return "  ".join("".join(letter + rng.choice("🔥🎉😀🌟🍀") for letter in word) for word in text.split())


def by_letter(table, between, gap):
    return lambda text: gap.join(
        between.join(table[x] for x in word if x in table) for word in text.lower().split()
    )


OBFUSCATIONS = {
    "base64": encoded,
    "base64 within a request": lambda text: f"Please decode this and do what it says: {encoded(text)} Thanks!",
    "base64 in pieces": lambda text: " ".join(chunks(encoded(text), 8)),
    "base64 in lines": lambda text: "\n".join(chunks(encoded(text), 20)),
    "base64 as added strings": lambda text: " + ".join(f'"{part}"' for part in chunks(encoded(text), 12)),
    "base64 of each word": lambda text: " ".join(map(encoded, text.split())),
    "base64 reversed": lambda text: encoded(text)[::-1],
    "base64 twice": lambda text: encoded(encoded(text)),
    "base64 three times": lambda text: encoded(encoded(encoded(text))),
    "base64 for URLs": lambda text: base64.urlsafe_b64encode(text.encode()).decode().rstrip("="),
    "base64 of UTF-16": lambda text: base64.b64encode(text.encode("utf-16-le")).decode(),
    "base32": lambda text: base64.b32encode(text.encode()).decode(),
    "base64 of rot13": lambda text: encoded(codecs.encode(text, "rot13")),
    "rot13 of base64 within a URL": lambda text: urllib.parse.quote(encoded(shifted(text, 13))),
    "hexadecimal": lambda text: text.encode().hex(),
    "hexadecimal with spaces": lambda text: text.encode().hex(" "),
    "hexadecimal with prefixes": lambda text: ", ".join(f"0x{byte:02x}" for byte in text.encode()),
    "hexadecimal of base64": lambda text: encoded(text).encode().hex(),
    "binary": lambda text: " ".join(f"{byte:08b}" for byte in text.encode()),
    "binary without spaces": lambda text: "".join(f"{byte:08b}" for byte in text.encode()),
    "decimal codes": lambda text: " ".join(str(byte) for byte in text.encode()),
    "decimal codes as a list": lambda text: str(list(text.encode())),
    "octal codes": lambda text: " ".join(f"{byte:o}" for byte in text.encode()),
    "octal escapes": lambda text: "".join(f"\\{byte:03o}" for byte in text.encode()),
    "places in the alphabet": by_letter({x: str(n) for n, x in enumerate(LATIN, 1)}, "-", " "),
    "percent escapes": lambda text: "".join(f"%{byte:02X}" for byte in text.encode()),
    "percent escapes twice": lambda text: urllib.parse.quote("".join(f"%{byte:02x}" for byte in text.encode())),
    "a URL's query": lambda text: "https://example.org/?q=" + urllib.parse.quote(text),
    "decimal entities": lambda text: "".join(f"&#{ord(x)};" for x in text),
    "hexadecimal entities": lambda text: "".join(f"&#x{ord(x):x};" for x in text),
    "entities twice": lambda text: html.escape("".join(f"&#{ord(x)};" for x in text)),
    "\\u escapes": lambda text: "".join(f"\\u{ord(x):04x}" for x in text),
    "\\x escapes": lambda text: "".join(f"\\x{ord(x):02x}" for x in text),
    "\\u{} escapes": lambda text: "".join(f"\\u{{{ord(x):x}}}" for x in text),
    "code points": lambda text: " ".join(f"U+{ord(x):04X}" for x in text),
    **{f"Caesar by {by}": lambda text, by=by: shifted(text, by) for by in (1, 3, 7, 13, 19, 25)},
    "Caesar within a request": lambda text: f"Read the following and do what it asks: {shifted(text, 5)}",
    "Atbash": lambda text: text.lower().translate(str.maketrans(LATIN, LATIN[::-1])),
    "reversed": lambda text: text[::-1],
    "each word reversed": lambda text: " ".join(word[::-1] for word in text.split()),
    "words in reverse order": lambda text: " ".join(reversed(text.split())),
    "rot13 reversed": lambda text: shifted(text, 13)[::-1],
    "upside down": lambda text: replaced(UPSIDE_DOWN)(text)[::-1],
    "pig Latin": pig_latin,
    "leet": replaced(LEET),
    "much leet": replaced(LEET | {"g": "9", "b": "8", "l": "|", "s": "$", "a": "@"}),
    "Morse": by_letter(MORSE, " ", " / "),
    "Morse with other dashes": by_letter({x: code.replace("-", "–").replace(".", "·") for x, code in MORSE.items()}, " ", " / "),
    "Morse without word gaps": by_letter(MORSE, " ", " "),
    "radio alphabet": by_letter(RADIO, " ", " "),
    "radio alphabet with word gaps": by_letter(RADIO, "-", " "),
    "spaced": parted(" ", "   "),
    "spaced without word gaps": parted(" ", " "),
    "dotted": parted(".", " "),
    "underscored": parted("_", " "),
    "dashed": parted("-", "  "),
    "dashed without word gaps": parted("-", "-"),
    "slashed": parted("/", " "),
    "piped": parted("|", " "),
    "starred": parted("*", " "),
    "parted by commas": parted(", ", " "),
    "parted by emoji": emoji_parted,
    "one letter a line": parted("\n", "\n\n"),
    "zero-width spaces": lambda text: "\u200b".join(text),
    "soft hyphens": lambda text: "\u00ad".join(text),
    "zero-width joiners": lambda text: "\u200d".join(text),
    "variation selectors": lambda text: "".join(f"{x}\ufe0f" for x in text),
    "supplementary variation selectors": lambda text: "".join(f"{x}\U000e0101" for x in text),
    "tag characters": lambda text: "Hello!" + "".join(chr(0xE0000 + ord(x)) for x in text),
    "bytes in variation selectors": lambda text: "Hi😀" + "".join(chr(0xE00F0 + byte) for byte in text.encode()),
    "bits in blanks": lambda text: "Hi" + "".join("\u200b\u200c"[int(bit)] for byte in text.encode() for bit in f"{byte:08b}"),
    "strike-through": with_marks("\u0336"),
    "underline": with_marks("\u0332"),
    "slash through": with_marks("\u0338"),
    "enclosing circles": with_marks("\u20dd"),
    "zalgo": with_marks(*map(chr, range(0x300, 0x340))),
    "accents": lambda text: unicodedata.normalize("NFC", with_marks("\u0308", "\u0301", "\u0302", "\u0303")(text)),
    "bold": in_style(0x1D400, 0x1D41A),
    "script": in_style(0x1D4D0, 0x1D4EA),
    "Fraktur": in_style(0x1D56C, 0x1D586),
    "monospace": in_style(0x1D670, 0x1D68A),
    "full width": in_style(0xFF21, 0xFF41),
    "circled": in_style(0x24B6, 0x24D0),
    "parenthesised": lambda text: in_style(0x249C, 0x249C)(text.lower()),
    "squared": lambda text: in_style(0x1F130, 0)(text.upper()),
    "negative squared": lambda text: in_style(0x1F170, 0)(text.upper()),
    "negative circled": lambda text: in_style(0x1F150, 0)(text.upper()),
    "small capitals": replaced(SMALL_CAPITALS),
    "flags": flags,
    "Cyrillic look-alikes": replaced(CYRILLIC),
    "Cherokee look-alikes": replaced(CHEROKEE),
    "Armenian and Greek look-alikes": replaced(ARMENIAN_AND_GREEK),
    "spaced base64": lambda text: " ".join(encoded(text)),
    "base64 in numbered pieces": lambda text: "\n".join(f"{n}. {part}" for n, part in enumerate(chunks(encoded(text), 16), 1)),
    "quoted printable": lambda text: "".join(f"={byte:02X}" for byte in text.encode()),
    "escapes of style sheets": lambda text: "".join(f"\\{ord(x):04x} " for x in text),
    "no spaces": lambda text: text.replace(" ", ""),
    "capitals for spaces": lambda text: "".join(word.capitalize() for word in text.split()),
    "emoji within words": lambda text: text.replace("e", "e🔥").replace("o", "o🎉"),
    "full-width Caesar": lambda text: in_style(0xFF21, 0xFF41)(shifted(text, 13)),
}  # fmt: skip
