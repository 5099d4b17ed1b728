"""No word is kept without the negation that it belongs to."""

import pytest

from embedspace import compress
from embedspace.compression.negation import is_negation, negated
from embedspace.compression.text_units import Units
from embedspace.space import RowText, token_ids

TEXTS = {
    "tabs": ("Ann\tready\nBob  \t14.5\nnot  available\t", "available", "not  available"),
    "emphasis": ("Lagos grows by 3%. Osaka is *not* growing, and Rome neither.", "growing", "not* growing"),
    "modal": ("The lid must not be opened while the drum turns at 900 rpm.", "opened", "not be opened"),
    "two": ("He did not pay and she was not told about the 12 invoices.", "told", "not told"),
    "never": ("You are terse and never apologise to the other players.", "apologise", "never apologise"),
    "contraction": ("The lift doesn't work on Sundays, use the stairs to floor 3.", "work", "doesn't work"),
    "German": ("Hunde sind im Garten nicht erlaubt, Katzen kosten 3 Euro.", "erlaubt", "nicht erlaubt"),
    "German end": ("Das weiß ich nicht. Der Eintritt kostet 4 Euro für alle.", " ich", "ich nicht"),
    "French": (
        "L'ascenseur n'est pas accessible le lundi. L'entrée coûte 12 €.",
        "accessible",
        "pas accessible",
    ),
    "Spanish": ("El museo nunca abre los lunes y la entrada cuesta 12 euros.", "abre", "nunca abre"),
    "Arabic": ("يفتح المتحف في التاسعة ولا يسمح بالتصوير داخل القاعة اليوم", "يسمح", "ولا يسمح"),
    "Korean": ("월요일에는 열지 않습니다. 주차는 무료가 아닙니다.", "열지", "열지 않습니다"),
    "Turkish": ("Bu kat boş değil, kira 300 lira ve depozito var.", "boş", "boş değil"),
    "Hebrew": ("אין להכניס כלבים לגן, ולא ניתן לצלם בתערוכה", "ניתן", "ולא ניתן"),
    "Persian": ("موزه دوشنبه باز نیست و بلیت ۱۲ یورو است", "باز", "باز نیست"),
    "Japanese": ("日曜日は開いていません。入場料は1200円です。", "開いてい", "開いていません"),
    "Thai": ("ห้ามนำสัตว์เลี้ยงเข้า ตั๋วราคา 120 บาท", "นำสัตว์", "ห้ามนำสัตว์"),
    "auxiliaries": (
        "Your parcel could not be delivered. We have charged your card.",
        "delivered",
        "not be delivered",
    ),
    "adverb": (
        "Consent shall not be unreasonably withheld by either of the parties.",
        "unreasonably",
        "not be unreasonably",
    ),
    "limit": ("Do not take more than 2 tablets (500 mg each) in 24 hours.", "take", "not take more than 2"),
    "exception": (
        "The firm is liable for all damages other than indirect losses.",
        "indirect",
        "other than indirect",
    ),
    "shell": ('if [ ! -f "$HOME/settings" ]; then echo "nothing there"; fi', " -f", "! -f"),
    "script": ("if (!failed.retryable) throw failed; retries = 12;", "retryable", "!failed.retryable"),
    "query language": (
        "SELECT name FROM staff WHERE department <> 'HR' AND age > 30;",
        "department",
        "department <>",
    ),
    "Hindi": ("यहाँ कुत्तों की अनुमति नहीं है और टिकट 12 रुपये का है।", "अनुमति", "अनुमति नहीं"),
}


def read(space, prompt):
    return space.tokenizer.decode(token_ids(space, prompt.vectors).tolist())


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("model", ["smollm2", "qwen", "gemma"])
def test_what_is_negated_is_never_left_without_its_negation(request, model, name):
    space = request.getfixturevalue(model)
    text, word, whole = TEXTS[name]
    prompt = space.embed(text)
    is_seen = False
    for ratio in (1.1, 1.3, 1.5, 2, 2.5, 3, 4, 5, 8):
        for options in ({}, {"opening": 1.0}, {"query": word}):
            left = read(space, compress(prompt, ratio, space=space, **options))
            assert word not in left or whole in left, (ratio, options, left)
            is_seen |= whole in left
    assert is_seen


def test_a_negation_that_must_be_kept_brings_its_word_where_that_fits(smollm2):
    text = "The pool opens at nine. Children are not admitted alone. Towels cost 3 euros."
    prompt = smollm2.embed(text)
    left = smollm2.read(compress(prompt, 3, keep="admitted", space=smollm2))
    assert "not admitted" in left


def test_a_clause_ends_what_is_negated(smollm2):
    ids = smollm2.tokenize("Is it open? No. Come on Monday")
    units = Units.of(RowText.of(smollm2, ids))
    together = negated(ids, units)
    [number] = [unit for unit, text in enumerate(units.texts) if is_negation(text)]
    assert number not in together


def test_the_last_rows_go_to_a_word_that_nothing_negates(smollm2):
    prompt = smollm2.embed("Never park here at night")
    assert smollm2.read(compress(prompt, 50, space=smollm2)).strip() in ("here", "at", "night")


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        (
            "Fax no longer in use. Post and WhatsApp reach us at any time.",
            ("use WhatsApp", "use Post", "use reach"),
        ),
        (
            "The lift does not work. The stairs and the ramp are open.",
            ("work stairs", "work ramp", "work open"),
        ),
        (
            "Parcels arrive on Monday. We have not charged your card.",
            ("Parcels not", "arrive not", "Monday not"),
        ),
    ],
)
@pytest.mark.parametrize("model", ["smollm2", "qwen"])
def test_a_negation_is_not_read_with_a_word_of_another_clause(request, model, text, wrong):
    space = request.getfixturevalue(model)
    prompt = space.embed(text)
    for ratio in (1.1, 1.3, 1.5, 2, 2.5, 3, 4, 5, 8):
        left = read(space, compress(prompt, ratio, space=space))
        assert not any(each in left for each in wrong), (ratio, left)
