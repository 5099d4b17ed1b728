"""What torch.save writes for a dense tensor is read exactly, everything else is refused, and nothing is executed."""

from __future__ import annotations

import io
import pickle
import struct
import time
import warnings
import zipfile
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from embedspace.prompt.saved_tensor import read_saved_tensor
from embedspace.prompt.wire import FLOATING
from experiments.reliability.gateway_fuzz import archived, pickle_of


def saved(value: object, **options: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


GOOD = saved(torch.arange(8.0).view(2, 4))
STORAGE = struct.pack("<8f", *range(8))


@pytest.mark.parametrize("dtype", FLOATING)
@pytest.mark.parametrize(
    "make",
    [
        lambda rows: rows,
        lambda rows: rows[::3].clone(),
        lambda rows: rows.T.contiguous(),
        lambda rows: rows[4:5],
        lambda rows: rows[:, :1].contiguous(),
        lambda rows: rows.requires_grad_() * 2,
    ],
    ids=["contiguous", "every third row", "transposed", "one row", "one column", "from a computation"],
)
def test_what_torch_saves_is_read_bit_for_bit(
    make: Callable[[torch.Tensor], torch.Tensor], dtype: torch.dtype
) -> None:
    vectors = make(torch.randn(20, 7, generator=torch.Generator().manual_seed(0)).to(dtype))
    if len(vectors) == 1:
        vectors = vectors.clone()
    read = read_saved_tensor(saved(vectors))
    assert torch.equal(read, vectors)
    assert read.dtype == dtype
    assert not read.requires_grad


@given(st.integers(1, 70_000), st.integers(1, 300))
def test_sizes_of_every_length_of_number_are_read(rows: int, columns: int) -> None:
    rows = min(rows, 1_000_000 // columns)
    vectors = torch.zeros(rows, columns, dtype=torch.float16)
    assert read_saved_tensor(saved(vectors)).shape == vectors.shape


def test_a_file_saved_on_a_gpu_is_read() -> None:
    pickled = pickle_of(GOOD).replace(b"X\x03\x00\x00\x00cpu", b"X\x06\x00\x00\x00cuda:0")
    assert torch.equal(read_saved_tensor(archived(pickled, STORAGE)), torch.arange(8.0).view(2, 4))


def test_a_file_of_an_earlier_torch_is_read() -> None:
    """Saved by a release before 2.6, as a package ships it: it has four dimensions, and everything else is right."""
    folder = Path(str(metadata.distribution("inspect-evals").locate_file("inspect_evals")))
    files = sorted((folder / "theagentcompany/tasks/ml_generate_gradcam/eval_data").glob("*.pt"))
    assert files
    for file in files:
        with pytest.raises(ValueError, match="two dimensions"):
            read_saved_tensor(file.read_bytes())
        with zipfile.ZipFile(file) as archive:
            assert not any(name.endswith(".format_version") for name in archive.namelist())
    # The same archive with the pickle of two dimensions is read.
    assert torch.equal(read_saved_tensor(archived(pickle_of(GOOD), STORAGE)), torch.arange(8.0).view(2, 4))


def test_the_tensor_has_its_own_memory() -> None:
    data = bytearray(saved(torch.ones(2, 4)))
    read = read_saved_tensor(bytes(data))
    read += 1
    assert torch.equal(read_saved_tensor(bytes(data)), torch.ones(2, 4))


class Subclass(torch.Tensor):
    pass


@pytest.mark.parametrize(
    "value",
    [
        torch.nn.Parameter(torch.ones(2, 4)),
        torch.nn.Buffer(torch.ones(2, 4)),
        torch.ones(2, 4).as_subclass(Subclass),  # type: ignore[arg-type]
        torch._neg_view(torch.ones(2, 4)),
        torch.randn(2, 4, dtype=torch.complex64).conj(),
        torch.randn(2, 4, dtype=torch.complex64).conj().imag,
        torch.ones(2, 4).to_sparse(),
        [torch.ones(2, 4)],
        {"rows": torch.ones(2, 4)},
        (torch.ones(2, 4), torch.ones(2, 4)),
        torch.ones(2, 4).untyped_storage(),
        None,
        "text",
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_no_plain_dense_tensor_is_refused(value: object) -> None:
    data = saved(value)
    with pytest.raises(ValueError, match="the payload"):
        read_saved_tensor(data)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (saved(torch.ones(2, 4), _use_new_zipfile_serialization=False), "torch before 1.6"),
        (saved(torch.ones(2, 4), pickle_protocol=4), "one dense floating-point tensor"),
        (saved(torch.ones(2, 4).long()), "float32, bfloat16, float16, float64"),
        (saved(torch.ones(2, 4).T), "view of its storage"),
        (saved(torch.ones(1, 4).expand(9, 4)), "view of its storage"),
        (saved(torch.ones(9, 4)[:2]), "view of its storage"),
        (saved(torch.ones(4)), "two dimensions"),
        (saved(torch.ones(1, 2, 4)), "two dimensions"),
        (saved(torch.ones(0, 4)), "at least one row"),
        (pickle.dumps([1.0]), "not a file of torch.save"),
        (b"", "not a file of torch.save"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_message_says_what_is_wrong(data: bytes, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        read_saved_tensor(data)


def nested(make: Callable[[object, object], object], levels: int) -> object:
    value: object = ()
    for _ in range(levels):
        value = make(value, value)
    return value


def bombs() -> dict[str, bytes]:
    deep = pickle.dumps(nested(lambda a, b: (a, b), 40), protocol=2)[2:-1]
    tensor = pickle_of(GOOD)
    hooks = tensor.index(b"ccollections")
    return {
        "in place of the hooks": tensor[:hooks] + b"}" + deep + b"K\x01s" + b"tq\x0aRq\x0b.",
        "as a storage's key": tensor.replace(b"X\x01\x00\x00\x000q\x03", deep + b"q\x03"),
        "as the device": tensor.replace(b"X\x03\x00\x00\x00cpuq\x04", deep + b"q\x04"),
        "before the tensor": b"\x80\x02}" + deep + b"K\x01s0" + tensor[2:],
    }


@pytest.mark.parametrize("name", bombs())
def test_a_pickle_that_takes_forever_is_refused_at_once(name: str) -> None:
    data = archived(bombs()[name], STORAGE)
    began = time.process_time()
    with pytest.raises(ValueError, match="one dense floating-point tensor"):
        read_saved_tensor(data)
    assert time.process_time() - began < 1


@given(st.data())
def test_a_pickle_with_any_opcode_changed_added_or_dropped_is_refused_or_says_the_same(
    data: st.DataObject,
) -> None:
    """Whatever is accepted, torch reads the same tensor from it."""
    pickled = bytearray(pickle_of(GOOD))
    place = data.draw(st.integers(0, len(pickled) - 1))
    new = data.draw(st.binary(max_size=3))
    pickled[place : place + data.draw(st.integers(0, 3))] = new
    made = archived(bytes(pickled), STORAGE)
    try:
        read = read_saved_tensor(made)
    except ValueError:
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert torch.equal(torch.load(io.BytesIO(made), weights_only=True, map_location="cpu"), read)


def test_numbers_in_another_than_their_shortest_form_are_refused() -> None:
    tensor = pickle_of(GOOD)
    assert tensor.count(b"K\x02K\x04\x86") == 1
    for number in (b"M\x02\x00", b"J\x02\x00\x00\x00", b"\x8a\x01\x02", b"I2\n", b"L2L\n", b"\x88"):
        with pytest.raises(ValueError, match="the payload"):
            read_saved_tensor(archived(tensor.replace(b"K\x02K\x04\x86", number + b"K\x04\x86"), STORAGE))


def rezipped(**options: object) -> bytes:
    """The same entries by another writer."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(GOOD)) as archive, zipfile.ZipFile(buffer, "w", **options) as other:  # type: ignore[call-overload]
        for name in archive.namelist():
            other.writestr(name, archive.read(name))
    return buffer.getvalue()


def with_another_directory_for_zip64(data: bytes, *, insert: bool) -> bytes:
    """Zip64's record says that the directory begins elsewhere, in place of the true record or beside it."""
    record = bytearray(data[-98:-42])
    record[48:56] = struct.pack("<Q", 237)
    return data[:-98] + bytes(record) + (data[-98:] if insert else data[-42:])


def with_bytes_at(place: int, value: bytes) -> bytes:
    data = bytearray(GOOD)
    data[place : place + len(value)] = value
    return bytes(data)


FIRST_RECORD = GOOD.index(b"PK\x01\x02")


@pytest.mark.parametrize(
    "data",
    [
        rezipped(),
        rezipped(compression=zipfile.ZIP_DEFLATED),
        b"x" + GOOD,
        GOOD + b"x",
        GOOD[:-1],
        GOOD[:-2] + b"\x01\x00x",  # a comment
        GOOD[:-98] + GOOD[-22:],  # without the records of zip64
        with_another_directory_for_zip64(GOOD, insert=False),
        with_another_directory_for_zip64(GOOD, insert=True),
        with_bytes_at(6, b"\x09\x08"),  # encrypted, in the header alone
        with_bytes_at(8, b"\x08\x00"),  # compressed, in the header alone
        with_bytes_at(18, struct.pack("<II", 10, 10)),  # another size, in the header alone
        with_bytes_at(30, b"A"),  # another name, in the header alone
        with_bytes_at(FIRST_RECORD + 8, b"\x09\x08"),
        with_bytes_at(FIRST_RECORD + 10, b"\x08\x00"),
        with_bytes_at(FIRST_RECORD + 42, struct.pack("<I", 237)),  # the place of another entry
        with_bytes_at(FIRST_RECORD + 46, b"A"),
        with_bytes_at(46, b"XX"),  # another extra field than padding
        archived(pickle_of(GOOD), STORAGE, **{"data/1": b"1234"}),
        archived(pickle_of(GOOD), STORAGE, **{"DATA.PKL": b"1234"}),
        archived(pickle_of(GOOD), STORAGE, extra=b"1234"),
        archived(pickle_of(GOOD), STORAGE[:-4]),
        archived(pickle_of(GOOD), STORAGE + b"1234"),
    ],
    ids=range(23),
)
def test_an_archive_that_two_readers_may_read_differently_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="the payload"):
        read_saved_tensor(data)


@given(st.data())
def test_any_byte_that_is_changed_is_noticed(data: st.DataObject) -> None:
    changed = bytearray(GOOD)
    place = data.draw(st.integers(0, len(changed) - 1))
    changed[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(ValueError, match="the payload"):
        read_saved_tensor(bytes(changed))
