"""The projector: shapes, identity of its pair of models, files, and soft tokens within templated chats."""

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from embedspace import EmbeddingSpace, Projector, PromptEmbeds
from embedspace.projector import ProjectorConfig, SentenceEncoder, insert
from embedspace.projector.heads import HEADS, Lexical, away_from_mean
from embedspace.prompt import Recipe
from embedspace.runs.replayer import Replayer
from tests.checkpoints import make_tiny_checkpoint

TEXT = "a large mammal that lives in the sea"


@pytest.fixture(scope="module")
def encoder():
    return SentenceEncoder()


@pytest.fixture(scope="module")
def make(smollm2, encoder):
    def made(head="mlp", tokens=3, **options):
        sizes = {
            "mlp": {"width": 16},
            "lexical": {"candidates": 50, "query_width": 8, "width": 64, "layers": 1},
        }
        torch.manual_seed(0)
        projector = Projector(
            ProjectorConfig(
                head, tokens, 384, 576, encoder.name, encoder.fingerprint, smollm2.name, smollm2.fingerprint,
                sizes.get(head, {}) | options,
            ),
            smollm2,
        )  # fmt: skip
        if isinstance(projector.head, Lexical):
            projector.head.choose_from(torch.arange(1000, 1000 + len(projector.head.words)))
        return projector.eval()

    return made


@pytest.mark.parametrize("head", HEADS)
def test_every_head_makes_rows_as_long_as_those_of_the_vocabulary(make, smollm2, head):
    soft = make(head)(torch.nn.functional.normalize(torch.randn(5, 384), dim=1))
    assert soft.shape == (5, 3, 576)
    assert soft.isfinite().all()
    norms = soft.norm(dim=-1)
    if head == "lexical":
        assert smollm2.norms.min() <= norms.min()
        assert norms.max() <= smollm2.norms.max()
    else:
        torch.testing.assert_close(norms, smollm2.norms.mean().expand(5, 3))


def test_an_untrained_lexical_head_gives_the_rows_of_its_likeliest_words(make, smollm2, encoder):
    projector = make("lexical")
    vectors = encoder.encode([TEXT])
    projector.attach()
    best = projector.head.scores(vectors).topk(3).indices[0]
    rows = smollm2.lookup(projector.head.words[best].tolist()).float()
    torch.testing.assert_close(projector(vectors)[0], rows)
    assert smollm2.read(projector.project(TEXT, smollm2)) == smollm2.tokenizer.decode(
        projector.head.words[best].tolist()
    )


@pytest.mark.parametrize("candidates", [3, 1025, 2500])
def test_the_likeliest_words_are_those_of_all_scores_however_many_words_there_are(make, candidates):
    projector = make("lexical", candidates=candidates)
    projector.attach()
    head = projector.head
    with torch.no_grad():
        head.bias.normal_()
    vectors = torch.nn.functional.normalize(torch.randn(40, 384), dim=1)
    assert torch.equal(head.likeliest(vectors), head.scores(vectors).topk(3).indices)


@given(norm=st.floats(2.0, 50.0), seed=st.integers(0, 99))
def test_rows_are_put_at_the_wanted_norm_in_the_wanted_direction(norm, seed):
    generator = torch.Generator().manual_seed(seed)
    mean = torch.randn(6, generator=generator, dtype=torch.float64)
    mean = mean / mean.norm()
    directions = torch.randn(4, 6, generator=generator, dtype=torch.float64)
    rows = away_from_mean(directions, mean, torch.tensor(norm, dtype=torch.float64))
    torch.testing.assert_close(rows.norm(dim=1), torch.full((4,), norm, dtype=torch.float64))
    cosines = torch.nn.functional.cosine_similarity(rows - mean, directions)
    torch.testing.assert_close(cosines, torch.ones(4, dtype=torch.float64))


def test_the_closed_form_is_that_of_scikit_learn(make):
    from sklearn.linear_model import Ridge

    generator = torch.Generator().manual_seed(0)
    X = torch.randn(600, 384, generator=generator)
    Y = torch.randn(600, 3, 576, generator=generator)
    head = make("ridge").head
    head.fit(X, Y, penalty=2.0)
    theirs = Ridge(alpha=2.0).fit(X.double(), Y.flatten(1).double()).predict(X[:4].double())
    torch.testing.assert_close(
        head.directions(X[:4]).flatten(1).double(), torch.tensor(theirs), atol=1e-4, rtol=1e-4
    )


def test_a_sentence_becomes_content_rows_that_its_recipe_makes_again(make, smollm2, tmp_path):
    make().save_pretrained(tmp_path / "p")
    projector = Projector.from_pretrained(tmp_path / "p", space=smollm2)
    soft = projector.project(TEXT, smollm2)
    assert len(soft) == projector.tokens == 3
    assert bool(soft.content.all())
    chat = smollm2.embed_chat([{"role": "user", "content": "Repeat this:"}])
    prompt = insert(chat, soft)
    recipe = Recipe.from_dict(json.loads(json.dumps(prompt.recipe.to_dict())))
    again = Replayer(smollm2, {}).prompt(recipe)
    assert torch.equal(again.vectors, prompt.vectors)
    assert torch.equal(again.content, prompt.content)


def test_a_projector_that_was_never_saved_is_not_replayed(make, smollm2):
    with pytest.raises(ValueError, match="never saved"):
        Replayer(smollm2, {}).prompt(make().project(TEXT, smollm2).recipe)


def test_other_weights_than_those_used_are_not_replayed(make, smollm2, tmp_path):
    make().save_pretrained(tmp_path)
    recipe = Projector.from_pretrained(tmp_path, space=smollm2).project(TEXT, smollm2).recipe
    make(width=17).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="was used"):
        Replayer(smollm2, {}).prompt(recipe)


@pytest.mark.parametrize(("at", "before"), [("start", 0), ("end", 3), (0, 0), (2, 2), (3, 3)])
def test_soft_tokens_stand_among_the_content_and_touch_no_template_row(make, smollm2, at, before):
    chat = smollm2.embed_chat(
        [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Repeat this:"}]
    )
    soft = make().project(TEXT, smollm2)
    prompt = insert(chat, soft, at)
    run = chat.content_runs[-1]
    assert run.stop - run.start == 3
    new = prompt.content_runs[-1]
    assert (new.start, new.stop) == (run.start, run.stop + 3)
    assert torch.equal(prompt.vectors[run.start + before : run.start + before + 3], soft.vectors)
    assert torch.equal(prompt.vectors[~prompt.content], chat.vectors[~chat.content].float())
    assert torch.equal(
        prompt.only_run(1).content_vectors[:before], chat.only_run(1).content_vectors[:before].float()
    )


@pytest.mark.parametrize("at", ["middle", 4, -1, True, 1.5])
def test_a_place_outside_the_message_is_refused(make, smollm2, at):
    chat = smollm2.embed_chat([{"role": "user", "content": "Repeat this:"}])
    with pytest.raises(ValueError, match="from 0 to 3"):
        insert(chat, make().project(TEXT, smollm2), at)


def test_soft_tokens_need_a_message_to_stand_in(make, smollm2):
    soft = make().project(TEXT, smollm2)
    bare = PromptEmbeds(soft.vectors, torch.zeros(3, dtype=torch.bool), soft.space, soft.recipe)
    with pytest.raises(ValueError, match="acts on content rows"):
        insert(bare, soft)


def test_what_is_saved_is_what_is_loaded(make, smollm2, tmp_path, encoder):
    for head in HEADS:
        projector = make(head)
        projector.describe(training={"data": "none"}, metrics={"nats": 5.0})
        projector.save_pretrained(tmp_path / head)
        loaded = Projector.from_pretrained(str(tmp_path / head))
        vectors = encoder.encode([TEXT, "another text"])
        torch.testing.assert_close(loaded(vectors), projector(vectors), atol=2e-2, rtol=1e-2)
        assert loaded.config == projector.config
        loaded.save_pretrained(tmp_path / "again")
        assert Projector.from_pretrained(tmp_path / "again").digest == loaded.digest


def test_vectors_are_the_encoders_own_and_remembered(encoder, monkeypatch, tmp_path):
    from sentence_transformers import SentenceTransformer

    monkeypatch.setenv("EMBEDSPACE_CACHE", str(tmp_path))
    texts = ["one", "a longer text than the others", "two three"]
    vectors = encoder.encode(texts, batch_size=2, cache=True)
    theirs = SentenceTransformer(str(encoder.folder)).encode(texts, normalize_embeddings=True)
    torch.testing.assert_close(vectors, torch.tensor(theirs), atol=1e-5, rtol=1e-4)
    (kept,) = (tmp_path / "sentence-vectors").iterdir()
    monkeypatch.setattr(
        "embedspace.encoders.sentence_encoder.sentence_vectors", lambda *_, **__: pytest.fail("encoded again")
    )
    assert torch.equal(encoder.encode(texts, cache=True), vectors)
    kept.write_bytes(kept.read_bytes()[:-40])
    monkeypatch.undo()
    monkeypatch.setenv("EMBEDSPACE_CACHE", str(tmp_path))
    assert torch.allclose(encoder.encode(texts, cache=True), vectors, atol=1e-6), "a damaged file is a miss"


@pytest.mark.parametrize("texts", [[], ["fine", " "]])
def test_there_must_be_words_to_encode(encoder, texts):
    with pytest.raises(ValueError, match="empty"):
        encoder.encode(texts)


def test_vectors_of_another_length_are_refused(make):
    with pytest.raises(ValueError, match=r"\[batch, 384\].*got \[2, 768\]"):
        make()(torch.randn(2, 768))


def test_vectors_with_nan_are_refused(make):
    vectors = torch.randn(3, 384)
    vectors[1, 5] = torch.nan
    with pytest.raises(ValueError, match=r"NaN or infinity in 1 of them .first: 1."):
        make()(vectors)


def test_another_encoder_is_refused(make, smollm2, encoder):
    projector = make()
    object.__setattr__(projector.config, "encoder_fingerprint", "0" * 32)
    with pytest.raises(ValueError, match="train a projector for this one"):
        projector.project(TEXT, smollm2)


def test_another_space_is_refused(make, smollm2, tmp_path):
    other = EmbeddingSpace.from_pretrained(make_tiny_checkpoint(tmp_path))
    projector = make()
    with pytest.raises(ValueError, match="gives soft tokens for 'smollm2-135m-instruct'"):
        projector.project(TEXT, other)
    with pytest.raises(ValueError, match="train one for that model"):
        Projector(projector.config, other)


@pytest.mark.parametrize("size", [0, -1, 2.5, True])
def test_no_soft_tokens_are_no_projector(make, size):
    with pytest.raises(ValueError, match="tokens of a projector must be a whole number of at least 1"):
        make(tokens=size)


def test_an_unknown_head_is_refused(make):
    with pytest.raises(ValueError, match="the heads are ridge, linear, mlp, lexical"):
        make("transformer")


def test_an_unknown_name_says_what_there_is():
    with pytest.raises(ValueError, match=r"no projector 'minilm-to-gpt'.*minilm-to-smollm2"):
        Projector.from_pretrained("minilm-to-gpt")


def _spoil(name, change):
    def spoiled(folder):
        path = folder / name
        change(path)

    return spoiled


def _rewrite(**changes):
    def change(path):
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


def _nan(path):
    from safetensors.torch import load_file, save_file

    tensors = load_file(path)
    tensors["body.0.bias"][0] = torch.nan
    save_file(tensors, path)


@pytest.mark.parametrize(
    ("name", "change", "reported"),
    [
        ("model.safetensors", lambda path: path.unlink(), "has no model.safetensors"),
        (
            "model.safetensors",
            lambda path: path.write_bytes(path.read_bytes()[:1000]),
            "damaged or cut short",
        ),
        ("model.safetensors", lambda path: path.write_bytes(b"\0" * 64), "damaged or cut short"),
        ("model.safetensors", _nan, "NaN or infinity in body.0.bias"),
        ("config.json", lambda path: path.unlink(), "it has no config.json"),
        ("config.json", lambda path: path.write_text("{"), "is not valid JSON"),
        ("config.json", lambda path: path.write_text("[]"), "must hold a JSON object"),
        ("config.json", _rewrite(format="other"), "not the configuration of a projector"),
        (
            "config.json",
            lambda path: path.write_text('{"format": "embedspace.projector.v1"}'),
            "not a complete projector",
        ),
        ("config.json", _rewrite(tokens=4), "does not belong to the config.json"),
        ("config.json", _rewrite(options={"width": 32}), "does not belong to the config.json"),
        ("config.json", _rewrite(tokens=0), "at least 1"),
        ("config.json", _rewrite(space="f" * 32), "not for 'smollm2"),
    ],
)
def test_damaged_files_and_those_of_another_configuration_are_refused(
    make, smollm2, tmp_path, name, change, reported
):
    make().save_pretrained(tmp_path)
    _spoil(name, change)(tmp_path)
    with pytest.raises(ValueError, match=reported):
        Projector.from_pretrained(tmp_path, space=smollm2)
