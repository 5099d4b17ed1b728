"""Compression for a question: sentences that answer it are kept, in any kind of text, and it itself is not touched."""

import itertools

import pytest
import torch

from embedspace import PromptEmbeds, Recipe, compress
from embedspace.compression.relevance import sentence_starts
from embedspace.encoders import SentenceEncoder
from embedspace.prompt import mask_from_text
from embedspace.space import token_ids

MUSEUM = (
    "The museum in Lyon, founded in 1879, opens at nine. A ticket costs 14 euros. The director is Paula Adams. "
    "Dogs must wait outside. The cafe closes at five in the evening. Parking is behind the church. Guided tours start "
    "at eleven each Sunday. The roof was repaired last summer after a storm."
)
RIVERS = " ".join(
    f"The river {name} is {length} km long."
    for name, length in {"Aar": 288, "Inn": 518, "Po": 652, "Oder": 840, "Elbe": 1094, "Ebro": 930}.items()
)
WRAPPED = (
    "The museum in Lyon, founded in 1879 by\nweavers who came from the north, opens at\nnine on weekdays. A ticket for "
    "grown people\ncosts 14 euros, and children pay only\nhalf of that. The director of the house is\nPaula Adams, who "
    "was born in Trieste and\nstudied there. Dogs must wait outside, but\nthere is a bowl of water for them."
)
ENTRIES = (
    '{"entries": [{"name": "Brisk", "price": 41}, {"name": "Tonga", "price": 776}, {"name": "Malawi", "price": 454}, '
    '{"name": "Albania", "price": 8}, {"name": "Lyon", "price": 1250}]}'
)
CODE = (
    "def area(width, height):\n    return width * height\n\ndef read_lines(path):\n    return open(path).read()\n\n"
    "def parse_date(text):\n    return datetime.strptime(text, '%Y-%m-%d')\n\nMAX_RETRIES = 7\nTIMEOUT_SECONDS = 30\n"
)
GERMAN = (
    "Das Museum in Lyon wurde 1879 gegründet. Die Eintrittskarten kosten 14 Euro. Der Direktor heißt Paul Adam. "
    "Hunde müssen draußen warten. Das Café schließt um fünf. Führungen beginnen sonntags um elf."
)
HINDI = (
    "संग्रहालय सुबह नौ बजे खुलता है। टिकट की कीमत 14 रुपये है। निदेशक का नाम पूजा शर्मा है। "
    "कुत्तों को बाहर रुकना पड़ता है। पार्किंग मंदिर के पीछे है।"
)
CHINESE = (
    "博物馆早上九点开门。门票价格是14元。馆长叫王小明。狗不能进入。停车场在教堂后面。咖啡馆下午五点关门。"
)
FOREIGN = "Zxqv wqjk blorptang?"
"""Nothing of it stands in any of the texts."""


def read(space, prompt):
    return space.tokenizer.decode(token_ids(space, prompt.vectors).tolist())


def parameters(prompt):
    return dict(prompt.recipe.parameters)


def kept(space, text, query, ratio=4, **options):
    short = compress(space.embed(text), ratio, query=query, space=space, **options)
    assert parameters(short)["matched"], query
    return read(space, short)


@pytest.mark.parametrize(
    ("text", "query", "answer"),
    [
        (MUSEUM, "How much is a ticket?", "A ticket costs 14 euros."),
        (MUSEUM, "Who is the director?", "The director is Paula Adams."),
        (MUSEUM, "When do guided tours start?", "Guided tours start at eleven each Sunday."),
        (MUSEUM, "When was the roof repaired?", "The roof was repaired last summer after a storm."),
        (MUSEUM, "what about DOGS", "Dogs must wait outside."),
        (WRAPPED, "Where was the director born?", "was born in Trieste"),
        (WRAPPED, "What costs a ticket?", "A ticket for grown people\ncosts 14 euros"),
        (ENTRIES, "What is the price of Malawi?", '"Malawi", "price": 454'),
        (ENTRIES, "price of Albania, please", '"Albania", "price": 8'),
        (CODE, "What is the value of MAX_RETRIES?", "MAX_RETRIES = 7"),
        (CODE, "Which function reads lines?", "def read_lines(path):"),
        (CODE, "the timeout in seconds?", "TIMEOUT_SECONDS = 30"),
        (GERMAN, "Was kostet eine Eintrittskarte?", "Eintrittskarten kosten 14 Euro."),
        (GERMAN, "Wer ist der Direktor?", "Der Direktor heißt Paul Adam."),
        (GERMAN, "Wann schließen die Cafés?", "Das Café schließt um fünf."),
        (GERMAN, "Wann beginnt die Führung?", "Führungen beginnen sonntags um elf."),
        (HINDI, "टिकट की कीमत क्या है?", "टिकट की कीमत 14 रुपये है।"),
        (HINDI, "निदेशक कौन है?", "निदेशक का नाम पूजा शर्मा है।"),
        (HINDI, "पार्किंग कहाँ है?", "पार्किंग मंदिर के पीछे है।"),
        (CHINESE, "门票多少钱？", "门票价格是14元。"),
        (CHINESE, "馆长是谁？", "馆长叫王小明。"),
        (CHINESE, "停车场在哪里？", "停车场在教堂后面。"),
    ],
)  # fmt: skip
def test_the_sentence_that_answers_is_kept_at_a_fourth_of_the_rows(smollm2, text, query, answer):
    assert answer in kept(smollm2, text, query, ratio=3 if text is WRAPPED else 4)


@pytest.mark.parametrize(
    ("query", "answer"),
    [
        ("How much do the children pay?", "children pay only\nhalf of that"),
        ("What may the children do?", "children pay only\nhalf of that"),
    ],
)
def test_questions_of_frequent_words_alone_are_matched_too(smollm2, query, answer):
    assert answer in kept(smollm2, WRAPPED, query, ratio=2)


@pytest.mark.parametrize(
    ("name", "length"), [("Aar", 288), ("Inn", 518), ("Po", 652), ("Oder", 840), ("Ebro", 930)]
)
def test_words_that_stand_in_every_sentence_do_not_decide(smollm2, name, length):
    text = kept(smollm2, RIVERS, f"How long is the river {name}?", ratio=6)
    assert f"The river {name} is {length} km long." in text


def test_two_facts_in_two_sentences_are_both_kept(smollm2):
    text = kept(smollm2, MUSEUM, "Who is the director, and what does a ticket cost?", ratio=3)
    assert "A ticket costs 14 euros." in text
    assert "The director is Paula Adams." in text


@pytest.mark.parametrize(
    ("start", "query", "answer"),
    [("ticket", "What does a ticket cost?", "14"), ("Oder", "How long is the Oder?", "840")],
)
def test_a_smaller_ratio_keeps_what_a_larger_one_kept(smollm2, start, query, answer):
    text = MUSEUM if start == "ticket" else RIVERS
    for ratio in (1.5, 2, 4, 6):
        assert answer in kept(smollm2, text, query, ratio=ratio)


def test_sentences_are_kept_in_the_text_s_own_words_and_order(smollm2):
    text = kept(smollm2, MUSEUM, "When does the cafe close, and who repaired the roof?", ratio=3)
    assert text.index("The cafe closes at five") < text.index("The roof was repaired")


@pytest.mark.parametrize("text", [MUSEUM, RIVERS, GERMAN, CODE])
@pytest.mark.parametrize("ratio", [2, 4, 8])
def test_a_query_keeps_at_most_as_many_rows_as_the_ratio_allows(smollm2, text, ratio):
    made = smollm2.embed(text)
    short = compress(made, ratio, query="What does the ticket to the Oder cost?", space=smollm2)
    assert 1 <= len(short) <= -(-len(made) // ratio)


@pytest.mark.parametrize(
    ("text", "query"),
    [
        (MUSEUM, "How much is a ticket?"),
        (RIVERS, "How long is the river Oder?"),
        (GERMAN, "Wer ist der Direktor?"),
    ],
)
def test_a_query_as_rows_keeps_the_same_as_its_text(smollm2, text, query):
    made, rows = smollm2.embed(text), smollm2.embed(query)
    by_text, by_rows = compress(made, 4, query=query), compress(made, 4, query=rows)
    assert torch.equal(by_text.vectors, by_rows.vectors)
    assert parameters(by_text)["query"] == query
    assert "query" not in parameters(by_rows)
    assert by_rows.recipe.inputs == (made.recipe, rows.recipe)
    assert by_text.recipe.inputs == (made.recipe,)


def test_only_the_content_of_a_chat_is_the_query(smollm2):
    query = "How much is a ticket?"
    chat = smollm2.embed_chat([{"role": "user", "content": query}])
    made = smollm2.embed(MUSEUM)
    assert torch.equal(compress(made, 4, query=chat).vectors, compress(made, 4, query=query).vectors)


def test_a_question_in_a_message_of_its_own_is_bit_identical(smollm2):
    query = "And how much is a ticket today?"
    chat = smollm2.embed_chat([{"role": "system", "content": MUSEUM}, {"role": "user", "content": query}])
    short = compress(chat, 4, query=query, space=smollm2)
    assert torch.equal(short.vectors[short.content_runs[1]], chat.vectors[chat.content_runs[1]])
    assert "A ticket costs 14 euros." in read(smollm2, short)
    scope = mask_from_text(parameters(short)["only"])
    assert not bool(scope[chat.content_runs[1]].any())
    rows = int(scope.sum())
    assert len(short) - (len(chat) - rows) <= -(-rows // 4)


@pytest.mark.parametrize(
    ("before", "after"), [("", "\n\n"), ("\n\nQuestion: ", ""), (" ", "\nAnswer in one word.")]
)
def test_a_question_in_the_message_of_the_document_is_bit_identical(smollm2, before, after):
    query = "How much is a ticket today?"
    content = f"{query}{after}{MUSEUM}" if not before else f"{MUSEUM}{before}{query}{after}"
    chat = smollm2.embed_chat([{"role": "user", "content": content}])
    for ratio in (4, 50):
        short = compress(chat, ratio, query=query, space=smollm2)
        text = read(smollm2, short)
        assert query in text
        if ratio == 4:
            assert "A ticket costs 14 euros." in text
        assert torch.equal(short.vectors[~short.content], chat.vectors[~chat.content])
        outside = chat.vectors[~mask_from_text(parameters(short)["only"])]
        known = {row.float().numpy().tobytes() for row in short.vectors}
        assert all(row.float().numpy().tobytes() in known for row in outside)


def test_a_question_that_stands_twice_is_left_where_it_stands_last(smollm2):
    query = "How much is a ticket today?"
    made = smollm2.embed(f"{query} {MUSEUM} {query}")
    short = compress(made, 6, query=query, space=smollm2)
    assert read(smollm2, short).endswith(query)
    assert not mask_from_text(parameters(short)["only"])[-6:].any()


@pytest.mark.parametrize("query", ["ticket", "Paula Adams", "roof"])
def test_words_of_a_sentence_are_no_question_that_stands_in_the_prompt(smollm2, query):
    sentence = {
        "ticket": "A ticket costs 14 euros.",
        "Paula Adams": "The director is Paula Adams.",
        "roof": "The roof was repaired last summer after a storm.",
    }[query]
    assert sentence in kept(smollm2, MUSEUM, query)


@pytest.mark.parametrize("query", [FOREIGN, "What is the?", "???", "—", "🎉"])
def test_where_nothing_matches_the_same_rows_are_kept_as_without_a_question(smollm2, query):
    made = smollm2.embed(MUSEUM)
    plain, asked = compress(made, 4, space=smollm2), compress(made, 4, query=query, space=smollm2)
    assert torch.equal(plain.vectors, asked.vectors)
    assert parameters(asked)["matched"] is False
    assert parameters(asked)["query"] == query


def test_a_match_in_one_of_two_messages_is_a_match(smollm2):
    chat = smollm2.embed_chat(
        [{"role": "system", "content": RIVERS}, {"role": "user", "content": MUSEUM}],
        add_generation_prompt=False,
    )
    short = compress(chat, 4, query="When was the roof repaired?", space=smollm2)
    assert parameters(short)["matched"] is True
    assert "The roof was repaired last summer" in read(smollm2, short)
    unasked = compress(chat, 4, space=smollm2)
    assert torch.equal(short.vectors[short.content_runs[0]], unasked.vectors[unasked.content_runs[0]])


def test_a_query_longer_than_the_passage_is_no_problem(smollm2):
    query = f"Please tell me, as I asked so often already, {' or '.join(MUSEUM.split())} what a ticket costs?"
    text = "The director is Paula Adams. A ticket costs 14 euros. Dogs must wait outside."
    assert len(smollm2.tokenize(query)) > 3 * len(smollm2.tokenize(text))
    short = compress(smollm2.embed(text), 2, query=query, space=smollm2)
    assert 1 <= len(short) <= -(-len(smollm2.tokenize(text)) // 2)


def test_a_number_in_a_question_matches_itself_alone(smollm2):
    text = "Room 12 has 30 seats. Room 13 has 45 seats. Room 120 has 9 seats. Room 121 has 77 seats."
    assert "Room 120 has 9 seats." in kept(smollm2, text, "How many seats are in room 120?", ratio=3)


BAKERY = (
    "The bakery on Mill Lane was founded in 1902. Fresh loaves are sold from 5:45 in the morning. "
    "Its owner, Ruth Kaplan, lives upstairs. The walls were painted green last spring. "
    "A cat called Button sleeps behind the counter. Deliveries are made by bicycle on Fridays."
)


@pytest.mark.parametrize(
    ("query", "answer"),
    [
        ("When can one buy bread?", "Fresh loaves are sold from 5:45"),
        ("Which animal is there?", "A cat called Button sleeps"),
        ("What colour is the room?", "The walls were painted green"),
    ],
)
def test_with_an_encoder_a_question_in_other_words_finds_its_sentence(smollm2, query, answer):
    prompt = smollm2.embed(BAKERY)
    by_words = compress(prompt, 4, query=query)
    by_sentences = compress(prompt, 4, query=query, encoder=SentenceEncoder())
    assert answer not in read(smollm2, by_words)
    assert answer in read(smollm2, by_sentences)
    as_rows = compress(prompt, 4, query=smollm2.embed(f" {query}"), encoder=SentenceEncoder())
    assert torch.equal(as_rows.vectors, by_sentences.vectors)


def test_an_encoder_is_recorded_and_needs_a_question(smollm2):
    made = parameters(compress(smollm2.embed(BAKERY), 4, query="Who owns it?", encoder=SentenceEncoder()))
    assert made["encoder"] == "all-minilm-l6-v2"
    assert made["encoder_fingerprint"] == SentenceEncoder().fingerprint
    assert "encoder" not in parameters(compress(smollm2.embed(BAKERY), 4, query="Who owns it?"))
    with pytest.raises(ValueError, match="encoder compares sentences with a query, and there is none"):
        compress(smollm2.embed(BAKERY), 4, encoder=SentenceEncoder())


@pytest.mark.parametrize("query", ["", "  ", "\n"])
def test_an_empty_query_is_an_error(smollm2, query):
    with pytest.raises(ValueError, match="give the question's text, or leave query out"):
        compress(smollm2.embed(MUSEUM), 4, query=query, space=smollm2)


def test_a_query_of_another_space_without_content_or_not_finite_is_an_error(smollm2):
    made, rows = smollm2.embed(MUSEUM), smollm2.embed("How much?")
    other = PromptEmbeds(rows.vectors, rows.content, "elsewhere", Recipe("made"))
    with pytest.raises(ValueError, match="the prompt lives in the space elsewhere"):
        compress(made, 4, query=other, space=smollm2)
    bare = PromptEmbeds(rows.vectors, torch.zeros_like(rows.content), made.space, Recipe("made"))
    with pytest.raises(ValueError, match="has none"):
        compress(made, 4, query=bare, space=smollm2)
    broken = PromptEmbeds(rows.vectors.clone(), rows.content, made.space, Recipe("made"))
    broken.vectors[0, 0] = torch.nan
    with pytest.raises(ValueError, match=r"row 0\)"):
        compress(made, 4, query=broken, space=smollm2)


@pytest.mark.parametrize("query", [5, ["How much?"], b"How much?"])
def test_a_query_is_a_text_or_a_prompt(smollm2, query):
    with pytest.raises(TypeError, match="query must be a text or a PromptEmbeds, got a"):
        compress(smollm2.embed(MUSEUM), 4, query=query, space=smollm2)


def test_a_prompt_that_is_nothing_but_the_query_is_an_error(smollm2):
    query = "How much is a ticket?"
    for made in (smollm2.embed(query), smollm2.embed_chat([{"role": "user", "content": query}])):
        with pytest.raises(ValueError, match="the query itself"):
            compress(made, 2, query=query, space=smollm2)


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("It opens at nine. Tickets cost 14 euros.", ["It opens at nine.", "Tickets cost 14 euros."]),
        ("Dr. Adams (b. 1950) met Mr. Po. He left!", ["Dr. Adams (b. 1950) met Mr. Po.", "He left!"]),
        ("At 9.30 we met. So?", ["At 9.30 we met.", "So?"]),
        ('He said "Go." Then he went.', ['He said "Go."', "Then he went."]),
        ("one\ntwo\n\nthree", ["one", "two", "three"]),
        ("博物馆开门。门票14元。", ["博物馆开门。", "门票14元。"]),
        ("वह खुलता है। टिकट है।", ["वह खुलता है।", "टिकट है।"]),
        ('[{"a": 1}, {"a": 2}]', ['[{"a": 1},', '{"a": 2}]']),
        ("int a = 1; int b = 2;", ["int a = 1;", "int b = 2;"]),
    ],
)  # fmt: skip
def test_a_text_is_parted_into_sentences_lines_statements_and_entries(text, sentences):
    starts = [*sentence_starts(text), len(text)]
    found = [text[first:last].strip() for first, last in itertools.pairwise(starts)]
    if text.startswith("[{"):
        assert len(found) >= 2
        assert any('"a": 2' in own and '"a": 1' not in own for own in found)
    else:
        assert found == sentences


def test_lines_that_break_sentences_are_not_sentences():
    starts = [*sentence_starts(WRAPPED), len(WRAPPED)]
    found = [WRAPPED[first:last].strip() for first, last in itertools.pairwise(starts)]
    assert "A ticket for grown people\ncosts 14 euros, and children pay only\nhalf of that." in found
    assert len(found) == 4


DEPOT = (
    "The depot closes at 18:45. A day pass costs 14 euros. Dogs ride free. Bikes pay half. The lift is broken. "
    "Seats cannot be reserved. Staff wear red."
)
PASS = "How much is a day pass?"


def test_a_question_that_was_asked_before_is_no_part_of_the_passage(smollm2):
    prompt = smollm2.embed(f"{PASS}\n\n{DEPOT}\n\n{PASS}")
    left = smollm2.read(compress(prompt, 4, query=PASS, space=smollm2))
    assert left.startswith(PASS)
    assert left.endswith(PASS)
    assert "14 euros" in left
    turns = [("user", f"{DEPOT}\n\n{PASS}"), ("assistant", "Let me look."), ("user", PASS)]
    chat = smollm2.embed_chat([{"role": role, "content": text} for role, text in turns])
    for ratio in (8, 1000):
        assert smollm2.read(compress(chat, ratio, query=PASS, space=smollm2)).count(PASS) == 2


def test_a_question_within_a_passage_is_a_part_of_it(smollm2):
    answers = f"When do you open?\nAt nine.\n{PASS}\n14 euros.\nMay I bring a dog?\nYes."
    prompt = smollm2.embed(f"{answers}\n\n{PASS}")
    left = smollm2.read(compress(prompt, 2, query=PASS, space=smollm2))
    assert left.endswith(PASS)
    assert len(left) < len(answers)


@pytest.mark.parametrize(("query", "wanted"), [("Can I pay by card?", "Cards aren't accepted"),
                                               ("Is my dog welcome?", "dogs stay out")])  # fmt: skip
def test_short_words_match_their_plural(smollm2, query, wanted):
    text = (
        "The hall was built in 1921 by monks. It stands in Lille. Cards aren't accepted. Its roof is green. The dogs "
        "stay out. Bread is sold on Fridays."
    )
    made = compress(smollm2.embed(text), 3, query=query, space=smollm2)
    assert wanted in smollm2.read(made)
    assert dict(made.recipe.parameters)["matched"] is True


def test_words_of_a_question_that_is_not_in_the_prompt_are_kept_with_the_answer(smollm2):
    text = "The museum in Lyon, founded in 1879, opens at nine. The café closes at 17:30 except on Mondays."
    left = smollm2.read(compress(smollm2.embed(text), 5, query="17:30", space=smollm2))
    assert "17:30" in left


@pytest.mark.parametrize("encoder", ["all-minilm-l6-v2", 5])
def test_an_encoder_of_another_type_is_named(smollm2, encoder):
    with pytest.raises(
        TypeError, match=f"encoder is a {type(encoder).__name__}; it must be a SentenceEncoder"
    ):
        compress(smollm2.embed(BAKERY), 4, query="Who owns it?", encoder=encoder, space=smollm2)


def test_a_text_in_place_of_a_prompt_says_how_to_make_one():
    with pytest.raises(TypeError, match=r"got a str; make them of text with space.embed_chat"):
        compress("A loaf costs 3 euros.", 4)
