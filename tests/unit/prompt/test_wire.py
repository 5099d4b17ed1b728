"""The wire format: what is sent is exact, what is received is distrusted."""

import base64
import io
import pickle
import zipfile

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from embedspace import decode_prompt_embeds, encode_prompt_embeds
from embedspace.prompt.wire import FLOATING, preflight


def saved(value):
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return base64.b64encode(buffer.getvalue()).decode()


@given(st.integers(1, 40), st.integers(1, 70), st.sampled_from(FLOATING))
def test_vectors_survive_the_round_trip_bit_for_bit_in_a_predictable_size(tokens, hidden, dtype):
    vectors = torch.randn(tokens, hidden, generator=torch.Generator().manual_seed(tokens)).to(dtype)
    text = encode_prompt_embeds(vectors)
    assert torch.equal(decode_prompt_embeds(text, hidden_size=hidden), vectors)
    exact = 4 * -(-tokens * hidden * dtype.itemsize // 3)
    assert exact <= len(text) <= exact + 11_000


def test_a_view_is_sent_without_the_storage_behind_it():
    table = torch.randn(10_000, 64)
    assert len(encode_prompt_embeds(table[5:8])) == len(encode_prompt_embeds(table[5:8].clone()))
    assert torch.equal(decode_prompt_embeds(encode_prompt_embeds(table[:6].T)), table[:6].T)


def test_a_prompt_of_a_bfloat16_space_takes_half_the_bytes_of_float32(smollm2):
    prompt = smollm2.embed("a text of some length, " * 20)
    half, full = (len(encode_prompt_embeds(prompt, dtype)) for dtype in (None, torch.float32))
    assert half < 0.55 * full
    assert torch.equal(decode_prompt_embeds(encode_prompt_embeds(prompt)), prompt.vectors)


def test_the_server_reads_the_payload_with_plain_torch_load():
    vectors = torch.randn(3, 8)
    data = base64.b64decode(encode_prompt_embeds(vectors))
    assert torch.equal(torch.load(io.BytesIO(data), weights_only=True), vectors)


@pytest.mark.parametrize(
    ("vectors", "limits", "error", "words"),
    [
        (
            torch.zeros(2, 4).index_fill(0, torch.tensor([1]), torch.nan),
            {},
            ValueError,
            r"1 of 2 rows.*row 1",
        ),
        (torch.full((9, 4), torch.inf), {}, ValueError, r"9 of 9 rows.*row 0, 1, 2, 3, 4, \.\.\."),
        (torch.zeros(2, 4), {"hidden_size": 8}, ValueError, "hidden size 8.*have 4"),
        (torch.zeros(9, 4), {"max_rows": 8}, ValueError, "9 rows and at most 8"),
        (torch.zeros(0, 4), {}, ValueError, r"\[0, 4\]"),
        (torch.zeros(4), {}, ValueError, r"\[4\]"),
        (torch.zeros(1, 2, 4), {}, ValueError, r"\[1, 2, 4\]"),
        (torch.zeros(2, 4).long(), {}, TypeError, "int64"),
        (torch.zeros(2, 4, dtype=torch.complex64), {}, TypeError, "complex64"),
    ],
)
def test_preflight_names_what_is_wrong(vectors, limits, error, words):
    with pytest.raises(error, match=words):
        preflight(vectors, **limits)


def test_overflow_in_a_smaller_dtype_is_caught_before_it_is_sent():
    with pytest.raises(ValueError, match="row 1"):
        encode_prompt_embeds(torch.tensor([[1.0], [1e30]]), torch.float16)


class Reducer:
    def __reduce__(self):
        return (print, ("this must never run",))


def zipped(name="archive/data.pkl", body=b"x", compression=zipfile.ZIP_STORED):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        archive.writestr(name, body)
    return base64.b64encode(buffer.getvalue()).decode()


HOSTILE = {
    "not base64": "%%%",
    "truncated base64": encode_prompt_embeds(torch.zeros(2, 3))[:-3],
    "cut in the middle": encode_prompt_embeds(torch.zeros(2, 3))[:400],
    "empty": "",
    "random bytes": base64.b64encode(b"\x00\x01 not a zip").decode(),
    "a bare pickle": base64.b64encode(pickle.dumps([1.0])).decode(),
    "a reducer": saved(Reducer()),
    "a list of tensors": saved([torch.zeros(1, 2)]),
    "a dictionary": saved({"weight": torch.zeros(1, 2)}),
    "a parameter": saved(torch.nn.Parameter(torch.zeros(1, 2))),
    "a sparse tensor": saved(torch.eye(3).to_sparse()),
    "an expanded tensor": saved(torch.zeros(1).expand(1000, 1000)),
    "a transposed tensor": saved(torch.zeros(2, 3).T),
    "a view of more": saved(torch.zeros(100, 3)[:2]),
    "integers": saved(torch.zeros(2, 3).long()),
    "complex numbers": saved(torch.zeros(2, 3, dtype=torch.complex64)),
    "a scalar": saved(torch.tensor(1.0)),
    "five dimensions": saved(torch.zeros(1, 1, 1, 2, 3)),
    "no rows": saved(torch.zeros(0, 3)),
    "NaN": saved(torch.full((2, 3), torch.nan)),
    "a zip without a tensor": zipped("other.txt"),
    "a zip whose pickle is rubbish": zipped(body=b"\x80\x05rubbish"),
    "a zip bomb": zipped(body=b"\x00" * 10_000_000, compression=zipfile.ZIP_DEFLATED),
    "a huge pickle": zipped(body=b"\x00" * 100_000),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_payloads_are_refused(name, capsys):
    with pytest.raises((ValueError, TypeError)):
        decode_prompt_embeds(HOSTILE[name])
    assert "never run" not in capsys.readouterr().out


def test_a_payload_over_the_bound_is_refused_by_its_length_alone():
    # Not even base64: if it were decoded before it is measured, the message would be another one.
    with pytest.raises(ValueError, match="characters"):
        decode_prompt_embeds("%" * 100_000, max_bytes=1000)
    with pytest.raises(ValueError, match="characters"):
        decode_prompt_embeds(encode_prompt_embeds(torch.zeros(2000, 4)), max_bytes=1000)


def test_another_hidden_size_is_refused():
    with pytest.raises(ValueError, match="hidden size 8"):
        decode_prompt_embeds(encode_prompt_embeds(torch.zeros(2, 4)), hidden_size=8)


def test_bytes_are_not_text():
    with pytest.raises(TypeError, match="bytes"):
        decode_prompt_embeds(b"AAAA")


@given(st.data())
def test_any_byte_changed_gives_an_error_or_a_finite_dense_tensor(data):
    good = bytearray(base64.b64decode(encode_prompt_embeds(torch.ones(3, 5))))
    for _ in range(data.draw(st.integers(1, 4))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    try:
        tensor = decode_prompt_embeds(base64.b64encode(bytes(good)).decode(), max_bytes=10_000)
    except (ValueError, TypeError):
        return
    assert tensor.is_floating_point()
    assert tensor.isfinite().all()
    assert tensor.untyped_storage().nbytes() <= 10_000
