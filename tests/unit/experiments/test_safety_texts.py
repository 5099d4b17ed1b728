"""The texts of this project's own patterns, and the rules by which sources are used."""

import random
import re
import unicodedata
from collections import Counter
from functools import cache

import pytest
import yaml

from experiments.safety.data import MAX_CHARACTERS, Source, distinct, own_sources, sources
from experiments.safety.patterns import CARRIERS_FROM, CONFIGS, filled, own, patterns, planted

LANGUAGES = ("en", "de", "es", "fr", "pt", "it", "ru", "zh", "ja", "hi", "ar")
SCRIPTS = {"ru": "CYRILLIC", "zh": "CJK", "ja": "CJK HIRAGANA KATAKANA", "hi": "DEVANAGARI", "ar": "ARABIC"}
FUNCTION_WORDS = {
    "de": "der die das und nicht ist du sie ich mit den wir",
    "es": "el los una y no es la por las con que del",
    "fr": "le les une et ne est la vous des pour que du",
    "pt": "o os uma e não é da para as com que do",
    "it": "il gli una e non è la per i con che di",
}
EVERYDAY = {
    "email", "thread", "ticket", "newsletter", "legal", "school", "recipe", "manual", "commit", "meeting", "log",
    "code_review", "short", "role", "system_prompt", "few_shot", "translation", "security", "product_review", "job",
    "chat",
}  # fmt: skip
FORBIDDEN = (
    "agentdojo",
    "bipia",
    "injecagent",
    "notinject",
    "cyberseceval",
    "tensor_trust",
    "wildguard",
    "s-labs",
)


@cache
def own_texts() -> dict[Source, list[str]]:
    return {source: source.texts() for source in sources() if source.own}


def without_duplicates(texts):
    return [text for text, kept in zip(texts, distinct(texts), strict=True) if kept]


@cache
def counts() -> Counter:
    """Texts without near duplicates, by side, kind, language and use."""
    return Counter(
        {
            (source.side, source.kind, source.language, source.use, source.name): len(
                without_duplicates(texts)
            )
            for source, texts in own_texts().items()
        }
    )


def total(**wanted):
    names = ("side", "kind", "language", "use")
    return sum(
        count
        for key, count in counts().items()
        if all(dict(zip(names, key[:4], strict=True))[name] == value for name, value in wanted.items())
    )


@pytest.mark.slow
def test_there_are_150_english_texts_to_train_on_and_20_of_every_other_language_of_each_kind():
    assert {source.kind for source in own_texts() if source.side == "benign"} >= EVERYDAY
    for kind in EVERYDAY:
        assert total(side="benign", kind=kind, language="en", use="training") >= 150, kind
        assert total(side="benign", kind=kind, use="calibration") >= 60, kind
        for language in LANGUAGES:
            assert total(side="benign", kind=kind, language=language) >= 20, (kind, language)


@pytest.mark.slow
def test_there_are_150_attacks_to_train_on_in_each_language():
    for language in LANGUAGES:
        assert total(side="attack", language=language, use="training") >= 150, language


def test_no_slot_is_left_unfilled():
    for source, texts in own_texts().items():
        files = [source.options["file"], *source.options.get("carriers", {})]
        literal = {
            name for file in files for name in re.findall(r"\{\{(\w+)\}\}", (CONFIGS / file).read_text())
        }
        slots = {name for file in files for name in patterns(file)["slots"]} | {"int", "big"}
        unfilled = re.compile(rf"\{{({'|'.join(slots - literal)})(\*\d|:\w+|\}})")
        for text in texts:
            assert not unfilled.search(text), (source.name, text)


def test_no_sentence_is_used_for_training_and_for_calibration():
    by_use: dict[str, set[str]] = {"training": set(), "calibration": set()}
    for source, texts in own_texts().items():
        longest_shared = 14 if source.language in ("zh", "ja") else 40
        sentences = (part.strip(" >-") for text in texts for part in re.split(r"[.!?。！？।؟\n]|\d+", text))
        by_use[source.use] |= {part for part in sentences if len(part) > longest_shared}
    assert not by_use["training"] & by_use["calibration"]


def test_no_benign_text_is_among_the_attacks_and_no_text_has_two_uses():
    by_side: dict[str, set[str]] = {"benign": set(), "attack": set()}
    by_use: dict[str, set[str]] = {"training": set(), "calibration": set()}
    for source, texts in own_texts().items():
        by_side[source.side] |= set(texts)
        by_use[source.use] |= set(texts)
    assert not by_side["benign"] & by_side["attack"]
    assert not by_use["training"] & by_use["calibration"]


@pytest.mark.parametrize("language", SCRIPTS)
def test_texts_are_in_the_script_of_their_language(language):
    for source, texts in own_texts().items():
        if source.language == language:
            letters = [letter for text in texts for letter in text if letter.isalpha()]
            named = [unicodedata.name(letter).split()[0] in SCRIPTS[language].split() for letter in letters]
            assert sum(named) > 0.7 * len(letters), source.name
            japanese = re.search(r"[\u3040-\u30ff]", "".join(texts))
            assert bool(japanese) == (language == "ja"), source.name


@pytest.mark.parametrize("language", FUNCTION_WORDS)
def test_texts_in_latin_script_have_the_function_words_of_their_language(language):
    words = Counter(
        word
        for source, texts in own_texts().items()
        if source.language == language
        for word in re.findall(r"\w+", " ".join(texts).lower())
    )
    found = {name: sum(words[word] for word in group.split()) for name, group in FUNCTION_WORDS.items()}
    assert max(found, key=found.__getitem__) == language, found


def test_calibration_has_documents_of_every_length_up_to_3000_tokens(smollm2):
    lengths = [
        len(smollm2.tokenizer.encode(text))
        for source, texts in own_texts().items()
        if source.use == "calibration" and source.language == "en"
        for text in texts
    ]
    bounds = [(1, 8), (9, 64), (65, 512), (513, 3500)]
    assert [sum(low <= length <= high for length in lengths) >= 40 for low, high in bounds] == [True] * 4
    assert max(lengths) > 2500


def test_training_texts_are_cut_and_calibration_texts_are_whole():
    longest = {"training": 0, "calibration": 0}
    for source, texts in own_texts().items():
        longest[source.use] = max(longest[source.use], *map(len, texts))
    assert longest["training"] <= MAX_CHARACTERS < 6000 < longest["calibration"]


def test_instructions_are_planted_in_kinds_that_are_not_held_out():
    held_out = {
        (source.options["file"], source.kind) for source in own_texts() if source.use == "calibration"
    }
    for source in own_texts():
        for file, kinds in source.options.get("carriers", {}).items():
            assert not {(file, kind) for kind in kinds} & held_out


def test_an_instruction_is_planted_between_the_sentences_of_a_benign_text():
    carriers = {"benign/de.yaml": ["ticket"]}
    made = list(planted(CONFIGS, "attacks/de.yaml", carriers, 30))
    assert made == list(planted(CONFIGS, "attacks/de.yaml", carriers, 30))
    benign = "\n".join(own(CONFIGS, "benign/de.yaml", "ticket", 120, first=CARRIERS_FROM))
    for text in made:
        assert text[:12] in benign or text.strip()[-12:] in benign
        assert text.strip() not in benign


def test_every_source_has_a_kind_and_a_language_and_sealed_sources_are_no_patterns():
    for source in sources():
        assert source.kind
        assert source.language in (*LANGUAGES, "mixed")
        assert source.use != "sealed" or not source.own
    training = yaml.safe_load((CONFIGS / "sources.yaml").read_text())
    used = str(
        [training[side][use] for side in ("attack", "benign") for use in training[side] if use != "sealed"]
    )
    assert not [name for name in FORBIDDEN if name in used.lower()]


def test_a_kind_that_the_file_does_not_have_cannot_be_held_out():
    with pytest.raises(ValueError, match="no kinds"):
        own_sources("benign/de.yaml", "benign", 10, held_out=["poem"])


def test_pattern_files_are_small_enough_to_read():
    for path in CONFIGS.rglob("*.yaml"):
        assert path.stat().st_size < 150_000, path


def test_a_pattern_is_filled_with_slots_within_slots_and_in_the_form_that_it_names():
    slots = {"a": ["x {b}"], "b": ["y"], "c": ["1", "2", "3"]}
    rng = random.Random(0)
    assert filled("{a} {{kept}}", slots, rng) == "x y {kept}"
    assert sorted(filled("{c*3-3:line}", slots, rng).splitlines()) == ["1", "2", "3"]
    assert filled("{b:quote}", {"b": ["p\nq"]}, rng) == "> p\n> q"
    assert re.fullmatch(r"1\. [123]\n2\. [123]", filled("{c*2-2:step}", slots, rng))
    assert sorted(filled("{c} {c} {c}", slots, rng).split()) == ["1", "2", "3"]
    with pytest.raises(KeyError):
        filled("{unknown}", slots, rng)
