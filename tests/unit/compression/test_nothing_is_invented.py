"""What compression leaves are words and numbers of the text, whole and in order, on three real tokenizers."""

import string

import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st

from embedspace import compress
from embedspace.space import token_ids

TEXTS = {
    "numbers": "Bus lines 5, 17, 23, 101 and 210 stop here.",
    "rooms": "Room 12: 30 seats\nRoom 14: 8 seats\nRoom 15: 120 seats",
    "JSON": '{"id": 1042, "qty": 7, "price": 19.99, "tax": 3}',
    "dense JSON": '{"id":1042,"rows":[5,17,-23,4.5e-3],"ok":true,"at":"2024-05-12T10:30:00Z"}',
    "table": "| city | 2019 | 2020 |\n| --- | --- | --- |\n| Lyon | 1,250 | 98.5% |\n| Graz | 731 | 12 % |",
    "CSV": "name,code,number\nAlbania,ALB,008\nTonga,TON,776\nMalawi,MWI,454",
    "code": "def area(w, h=2.5):\n    total_cm2 = w*h  # in cm2\n    return [total_cm2, -1][h <= 0x1F]\n",
    "prices": "It costs $19.99, not €1.250,50 or 1 250 000 ¥; a tip of 15% (£3) is -2 °C colder, at ~5kg.",
    "dates": "On 12 May 2024, 2009-05-12, 12/05/24 and 10:30-12:00; v1.2.3 came 3 days later, in the 1990s.",
    "telephone": "Call +49 (30) 123-4567, 030 1234 5678 or (212) 555-0100; DE89 3704 0044 0532 0130 00.",
    "addresses": "See https://a.example/b?c=1&d=2#e, mail me.too@x-y.example.org or read /usr/share/doc/a_b-2.txt, OK?",
    "names": "Dr. O'Neill-Smith (U.S., R&D) doesn't re-enter the e-mail of x86_64 and COVID-19, i.e. state-of-the-art.",
    "English wrapped": "The museum in Lyon, founded in 1879 by\nweavers, opens at nine on weekdays\nand at 10 later.",
    "German": "Die Öffnungszeiten gelten für 12 Bäder; der Eintritt kostet 4,50 € (ermäßigt 3 €), außer am 1. Mai.",
    "German decomposed": "Mu\u0308ller mochte gro\u0308ßere Ha\u0308user u\u0308berhaupt nicht, sagte er.",
    "French": "L'été dernier, l'hôtel «Étoile» a vendu 1\u202f250 billets à 14,50\u00a0€ pièce ; c'était déjà trop.",
    "Hindi": "भारत की राजधानी नई दिल्ली है और यह यमुना नदी के किनारे बसी है। वहाँ १२ पुल और 30 बाग़ हैं।",
    "Bengali": "বাংলাদেশের রাজধানী ঢাকা শহরে ২১টি সেতু আছে, আর মানুষ প্রায় ১ কোটি।",
    "Tamil": "சென்னையில் 12 கோவில்கள் உள்ளன, மழைக்காலம் அக்டோபரில் தொடங்கும்.",
    "Thai": "กรุงเทพมหานครเป็นเมืองหลวงของประเทศไทย มีประชากร 8,500,000 คน และแม่น้ำเจ้าพระยา",
    "Khmer": "ភ្នំពេញជារាជធានីនៃព្រះរាជាណាចក្រកម្ពុជា មានប្រជាជន ២,១ លាននាក់។",
    "Chinese": "北京是中国的首都，2009年有1,200万人口。三千五百名学生住在这里，门票14元。",
    "Japanese": "東京は日本の首都で、2020年の人口は約1,400万人です。ラーメンは850円でした。",
    "Korean": "서울은 대한민국의 수도이며, 2020년 인구는 약 970만 명이다. 입장료는 3,000원이다.",
    "Arabic": "القاهرة عاصمةُ مصر، وفيها ٢٢ مليون نسمة و 15 جسرًا، وتفتح المتاحف الساعة 9:30.",
    "Hebrew": "ירושלים היא בירת ישראל; המוזיאון נפתח ב-9:00 וכרטיס עולה 35 ש\"ח לאדם.",
    "Persian": "می‌خواهم ۱۲ کتاب از کتاب‌فروشی بخرم، هر کدام ۵۰٬۰۰۰ تومان است.",
    "Russian": "Музей открыт с 9:30 до 17:00, билет стоит 350 ₽, а для 12 школьников — бесплатно.",
    "Greek": "Το μουσείο ανοίγει στις 9:30 και το εισιτήριο κοστίζει 14,50 €, όχι 20.",
    "Vietnamese": "Bảo tàng mở cửa lúc 9 giờ, vé vào cửa giá 40.000 đồng, trẻ em dưới 6 tuổi miễn phí.",
    "emoji": "Party 👩‍👩‍👧‍👦 at 8 🎉🎉, bring 3 🍕 & 12 🥤! 🇩🇪 flags ok ✌🏽",
}  # fmt: skip
UNSPACED = r"[\p{Han}\p{Hiragana}\p{Katakana}\u30fc\p{Thai}\p{Khmer}]"
WORD = regex.compile(rf"[[\p{{L}}\p{{M}}\p{{Nd}}]--{UNSPACED}]+", regex.V1)
NUMBER = regex.compile(r"\d+(?:[.,:/\u066c]\d+)*")
RUN = regex.compile(rf"(?:[{UNSPACED}&&\p{{L}}]\p{{M}}*)+", regex.V1)


@pytest.fixture(params=["smollm2", "qwen", "gemma"])
def space(request):
    return request.getfixturevalue(request.param)


def read(space, prompt):
    return space.tokenizer.decode(token_ids(space, prompt.vectors).tolist())


def inventions(text, left):
    """What is in ``left`` and not in the text: words, numbers, runs of a script without spaces, broken characters."""
    wrong = [
        each for pattern in (WORD, NUMBER) for each in set(pattern.findall(left)) - set(pattern.findall(text))
    ]
    wrong += [run for run in RUN.findall(left) if run not in text]
    return wrong + ["broken character"] * (left.count("\ufffd") > text.count("\ufffd"))


def in_order(text, left):
    """Whether the words and numbers of ``left`` stand in the text in this order."""
    place = 0
    for each in WORD.findall(left):
        found = text.find(each, place)
        if found < 0:
            return False
        place = found + len(each)
    return True


@pytest.mark.parametrize("name", TEXTS)
def test_nothing_is_invented_or_cut_at_any_ratio(space, name):
    prompt = space.embed(TEXTS[name])
    text = read(space, prompt)  # what the tokenizer itself makes of it: some compose letters and marks
    for ratio in (1.3, 2, 3, 5, 8, 50):
        for options in ({}, {"opening": 1.0}, {"query": (WORD.findall(text) or RUN.findall(text))[-1]}):
            left = read(space, compress(prompt, ratio, space=space, **options))
            assert not inventions(text, left), (ratio, options, left)
            assert in_order(text, left), (ratio, options, left)


@given(st.data())
def test_nothing_is_invented_in_any_mixture_of_texts(smollm2, qwen, gemma, data):
    pieces = st.one_of(
        st.sampled_from(list(TEXTS.values())),
        st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cn", "Co", "Cc"]), max_size=30),
        st.text(string.digits + ".,:;-+/ \n()ab", max_size=30),
    )
    text = data.draw(st.lists(pieces, min_size=1, max_size=3).map(" ".join).filter(str.strip))
    space = data.draw(st.sampled_from([smollm2, qwen, gemma]))
    prompt = space.embed(text)
    text = read(space, prompt)  # what the tokenizer itself makes of it
    left = read(space, compress(prompt, data.draw(st.floats(1.1, 20)), space=space))
    assert not inventions(text, left), left
