"""Makes the two tables by which the safety filter reads obfuscated text, embedspace/safety/canonical/tables:

    python experiments/safety/text_tables.py confusables confusables.txt
    python experiments/safety/text_tables.py trigrams langdetect-1.0.9/langdetect/profiles

The first input is Unicode's file of confusable characters (https://www.unicode.org/Public/security/, also in the source
of ICU, as in Debian's source package ``icu``), the second the folder of language profiles in the source of langdetect.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

from embedspace.safety.canonical.plausibility import ALPHABET, fold_letters

TABLES = Path(__file__).parents[2] / "embedspace" / "safety" / "canonical" / "tables"
WEIGHTS = {"en": 10, **dict.fromkeys(("de", "es", "fr", "it", "nl", "pt"), 2)}
"""Weights of languages in the trigram table; every other one with Latin letters has weight 1."""
OTHERS = "af cs da et fi hr hu id lt lv no pl ro sk sl so sq sv sw tl tr vi"
_FINEST, _HIGHEST = 5, 78
"""Steps of the stored costs in a bit, and the highest step: one printable character each, from 0 to ~."""
_UNREAD_SCRIPTS = ("CJK", "IDEOGRAPHIC", "HANGUL", "HIRAGANA", "KATAKANA", "BOPOMOFO", "LATIN", "MUSICAL")
"""First words of the names of characters that stand beside Latin letters in honest words."""
_STYLES = re.compile(
    r"LATIN LETTER SMALL CAPITAL ([A-Z])|REGIONAL INDICATOR SYMBOL LETTER ([A-Z])|SQUARED LATIN CAPITAL LETTER ([A-Z])"
    r"|(?:CROSSED )?NEGATIVE (?:CIRCLED|SQUARED) LATIN CAPITAL LETTER ([A-Z])|LATIN SMALL LETTER SCRIPT ([A-Z])"
    r"|LATIN SMALL LETTER (A)LPHA|PARENTHESIZED LATIN (?:SMALL|CAPITAL) LETTER ([A-Z])"
)


def letter_styles() -> dict[str, str]:
    """Latin letters in another style that Unicode's compatibility forms leave as they are, by their names."""
    styles = {}
    for number in range(0x80, 0x1FBFF):
        found = _STYLES.fullmatch(unicodedata.name(chr(number), ""))
        form = unicodedata.normalize("NFKC", chr(number))
        if found and (not form.isascii() or form.startswith("(")):
            styles[chr(number)] = next(filter(None, found.groups())).lower()
    return styles


def lookalikes(lines: Iterable[str]) -> dict[str, str]:
    """Letters and digits of other scripts -> the Latin letters and digits that they look like, in lower case.

    A letter without an entry of its own takes that of its other case; marks of a prototype are left out. Where a
    capital looks like a small l because Unicode counts I and l as one, it is read as its small letter is.
    """
    prototypes = {}
    for line in lines:
        source, target, *_ = [part.strip() for part in line.split("#")[0].split(";")] + ["", ""]
        if target and " " not in source:
            prototypes[chr(int(source, 16))] = "".join(chr(int(code, 16)) for code in target.split())
    styles = letter_styles()

    def plain(character: str) -> str:
        target = "".join(styles.get(part, part) for part in prototypes.get(character, ""))
        target = "".join(part for part in target if not unicodedata.combining(part))
        return target if len(target) == 1 and target.isascii() and target.isalnum() else ""

    found = {}
    for character in {*prototypes, *(c.upper() for c in prototypes), *(c.lower() for c in prototypes)}:
        if len(character) != 1 or unicodedata.normalize("NFKC", character).isascii() or character in "μµ":
            continue  # mu stands in units beside Latin letters
        if unicodedata.category(character)[0] not in "LN" and character != "℮":
            continue
        if unicodedata.name(character, "LATIN").startswith(_UNREAD_SCRIPTS):
            continue
        own, small, capital = (plain(form) for form in (character, character.lower(), character.upper()))
        if target := (small if own == "l" and small else own) or small or capital:
            found[character] = target.lower()
    return found


def trigram_costs(profiles: Mapping[str, Mapping[str, int]]) -> list[list[list[float]]]:
    """Bits that each letter costs after two others, over several languages; accents are left out.

    Estimates are smoothed with those after one letter, and those with the letters' own frequencies.

    Args:
        profiles: of each language, how often each sequence of one to three characters was seen.
    """
    triples: defaultdict[str, float] = defaultdict(float)
    for language, counts in profiles.items():
        own: Counter[str] = Counter()
        for sequence, count in counts.items():
            folded = fold_letters(sequence)
            if len(sequence) == len(folded) == 3 and set(folded) <= set(ALPHABET):
                own[folded] += count
        for sequence, count in own.items():
            triples[sequence] += WEIGHTS.get(language, 1) * count / own.total()
    total = sum(triples.values())
    heads, pairs, firsts, letters = (defaultdict[str, float](float) for _ in range(4))
    for sequence, weight in triples.items():
        heads[sequence[:2]] += weight / total
        pairs[sequence[1:]] += weight / total
        firsts[sequence[1]] += weight / total
        letters[sequence[2]] += weight / total

    def after_one(a: str, b: str) -> float:
        single = (letters[b] + 1e-4) / (1 + 1e-4 * len(ALPHABET))
        return float((pairs[a + b] + 2e-4 * single) / (firsts[a] + 2e-4))

    def cost(a: str, b: str, c: str) -> float:
        if a == b == " ":  # the first letter of a word
            return -math.log2(after_one(" ", c))
        return -math.log2((triples[a + b + c] / total + 3e-5 * after_one(b, c)) / (heads[a + b] + 3e-5))

    return [[[cost(a, b, c) for c in ALPHABET] for b in ALPHABET] for a in ALPHABET]


def write_confusables(source: Path, target: Path) -> None:
    """A line for each style or look-alike: its meaning, a tab, the characters; styles stand first."""
    text = source.read_text("utf-8-sig")
    version = re.search(r"# Version: (\S+)", text)
    copyright_line = re.search(r"# (© \d+ Unicode.*)", text)
    if not version or not copyright_line:
        raise SystemExit(f"error: {source} has no version and copyright line of Unicode's confusables.txt")
    lines = [
        f"# Derived from confusables.txt of Unicode {version[1]} (UTS #39), {copyright_line[1]}",
        "# Used under the Unicode licence, UNICODE-LICENSE.txt beside this file; and from the names of characters.",
        "# Made by experiments/safety/text_tables.py. Styles of Latin letters, then look-alikes of other scripts.",
    ]
    for entries in (letter_styles(), lookalikes(text.splitlines())):
        groups: defaultdict[str, str] = defaultdict(str)
        for character in sorted(entries):
            groups[entries[character]] += character
        lines += ["", *(f"{meaning}\t{groups[meaning]}" for meaning in sorted(groups))]
    target.write_text("\n".join(lines) + "\n", "utf-8")


def write_trigrams(source: Path, target: Path) -> None:
    """A line of costs for each pair of letters, a character for each third letter."""
    profiles = {
        name: json.loads((source / name).read_text("utf-8"))["freq"] for name in [*WEIGHTS, *OTHERS.split()]
    }
    lines = [
        "# What a letter costs after two others, in fifths of a bit from the character 0 on; rows and columns in the",
        f"# order of a space and the alphabet. From the profiles of {len(profiles)} languages in langdetect 1.0.9",
        "# (Apache License 2.0), made by experiments/safety/text_tables.py",
        "",
    ]
    for head in trigram_costs(profiles):
        for row in head:
            lines.append("".join(chr(48 + min(_HIGHEST, round(_FINEST * bits))) for bits in row))
    target.write_text("\n".join(lines) + "\n", "utf-8")


def main() -> None:
    """Make one table."""
    parser = argparse.ArgumentParser(description="Make a table of the safety filter.")
    parser.add_argument("table", choices=["confusables", "trigrams"])
    parser.add_argument("source", type=Path, help="Unicode's file, or the folder of profiles")
    arguments = parser.parse_args()
    write = {"confusables": write_confusables, "trigrams": write_trigrams}[arguments.table]
    write(arguments.source, TABLES / f"{arguments.table}.txt")


if __name__ == "__main__":
    main()
