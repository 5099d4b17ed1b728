"""Safetensors files: what is written is what the library reads, and what cannot be read is explained."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from embedspace._util.safetensors_file import (
    encode_header,
    header_length,
    open_tensors,
    read_header,
    read_tensors,
    save_tensors,
)


def test_tensors_and_metadata_come_back(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "file.safetensors"
    whole = torch.arange(12.0).view(3, 4)
    save_tensors(path, {"columns": whole.t(), "part": whole[1]}, {"format": "pt"})
    tensors, metadata = read_tensors(path, advice="save it again")
    assert metadata == {"format": "pt"}
    assert tensors["columns"].equal(whole.t())
    assert tensors["part"].equal(whole[1])
    with open_tensors(path, advice="save it again") as file:
        assert file.get_tensor("part").equal(whole[1])


def test_a_missing_and_a_damaged_file_are_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "file.safetensors"
    with pytest.raises(ValueError, match="there is none"):
        read_tensors(path, advice="save it again", absent="there is none")
    save_tensors(path, {"rows": torch.ones(4)})
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"file\.safetensors is damaged or cut short: .*; save it again$"):
        read_tensors(path, advice="save it again", absent="there is none")


def test_a_header_of_our_own_is_what_the_library_reads(tmp_path: Path) -> None:
    path = tmp_path / "file.safetensors"
    rows, mask = torch.arange(6, dtype=torch.bfloat16).view(3, 2), torch.tensor([True, False, True])
    header = encode_header({"rows": ("BF16", [3, 2]), "mask": ("BOOL", [3])}, {"kind": "gr\u00fc\u00df"})
    path.write_bytes(header + rows.view(torch.uint8).numpy().tobytes() + mask.numpy().tobytes())
    assert len(header) % 8 == 0
    read = load_file(path)
    assert read["rows"].equal(rows)
    assert read["mask"].equal(mask)
    with safe_open(path, framework="pt") as file:
        assert file.metadata() == {"kind": "gr\u00fc\u00df"}
    start, entries = read_header(path)
    assert start == len(header)
    assert entries["mask"] == {"dtype": "BOOL", "shape": [3], "data_offsets": [12, 15]}


@pytest.mark.parametrize("prefix", [b"", b"\x00" * 8, b"\xff" * 8])
def test_other_files_are_no_safetensors(tmp_path: Path, prefix: bytes) -> None:
    with pytest.raises(ValueError, match="not a safetensors file"):
        header_length(prefix, "the file")
    (tmp_path / "file").write_bytes(prefix)
    with pytest.raises(ValueError, match="not a safetensors file"):
        read_header(tmp_path / "file")
