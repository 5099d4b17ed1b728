"""Rows of the vocabulary are read back as their own tokens, every one of them."""

import dataclasses
import hashlib

import pytest
import torch

from embedspace.space import match_tokens


@pytest.mark.parametrize("name", ["smollm2", "qwen", "gemma"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_every_row_of_the_vocabulary_is_read_back_as_the_first_token_that_has_it(request, name, dtype):
    space = request.getfixturevalue(name)
    # An independent computation: the first token with each row's bytes.
    seen: dict[bytes, int] = {}
    first = []
    for ids in torch.arange(space.vocab_size).split(8192):
        rows = space.lookup(ids.tolist()).float() + 0.0
        for token, row in zip(ids.tolist(), rows.numpy(), strict=True):
            first.append(seen.setdefault(hashlib.blake2b(row.tobytes(), digest_size=16).digest(), token))
    ambiguous = 0
    for ids in torch.arange(space.vocab_size).split(8192):
        found = match_tokens(space, space.lookup(ids.tolist()).to(dtype))
        assert found.exact.all()
        assert found.ids.tolist() == [first[token] for token in ids.tolist()]
        ambiguous += int((found.ids != ids).sum())
    assert ambiguous < 0.02 * space.vocab_size


def with_rows(space, rows):
    return dataclasses.replace(space, table=dataclasses.replace(space.table, rows=rows))


@pytest.mark.parametrize("column", [3, 16, 575])
def test_rows_that_differ_in_one_column_are_told_apart_wherever_it_is(smollm2, column):
    rows = torch.randn(40, 576, generator=torch.Generator().manual_seed(0)).bfloat16()
    rows[20:] = rows[:20]
    rows[20:, column] += 1
    found = match_tokens(with_rows(smollm2, rows), rows.float())
    assert found.exact.all()
    assert found.ids.tolist() == list(range(40))


def test_rows_of_a_float32_table_that_are_equal_in_bfloat16_are_told_apart(smollm2):
    rows = torch.randn(20, 576, generator=torch.Generator().manual_seed(0)).bfloat16().float()
    rows = torch.cat([rows, rows * (1 + 1e-6)])
    space = with_rows(smollm2, rows)
    assert match_tokens(space, rows).ids.tolist() == list(range(40))
    cast = match_tokens(space, rows.bfloat16())
    assert cast.exact.all()
    assert cast.ids.tolist() == [*range(20), *range(20)]


def test_values_too_small_for_float16_and_signed_zeros_are_read_back(smollm2):
    generator = torch.Generator().manual_seed(0)
    rows = (
        torch.randn(40, 576, generator=generator) * 10.0 ** -torch.arange(40)[:, None].remainder(9)
    ).bfloat16()
    space = with_rows(smollm2, rows)
    for cast in (rows, rows.half()):
        assert match_tokens(space, cast).exact.all()
    large = rows[::9]
    assert match_tokens(space, large.half()).ids.tolist() == list(range(0, 40, 9))
    zeros = torch.where(rows == 0, -0.0, rows)
    zeros[:, 5] = 0.0
    signed = zeros.clone()
    signed[:, 5] = -0.0
    assert match_tokens(with_rows(smollm2, zeros), signed).ids.tolist() == list(range(40))
