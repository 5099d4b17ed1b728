"""Rows of the vocabulary are read back as their own tokens, every one of them."""

import pytest
import torch

from embedspace.space import match_tokens


@pytest.mark.parametrize("name", ["smollm2", "qwen", "gemma"])
def test_every_row_of_the_vocabulary_is_read_back_as_a_token_that_has_it(request, name):
    space = request.getfixturevalue(name)
    ambiguous = 0
    for ids in torch.arange(space.vocab_size).split(8192):
        rows = space.lookup(ids.tolist())
        found = match_tokens(space, rows)
        assert found.exact.all()
        assert torch.equal(space.lookup(found.ids.tolist()), rows)
        # Tokens that were never trained may share their row; of those the first is named.
        assert (found.ids <= ids).all()
        ambiguous += int((found.ids != ids).sum())
    assert ambiguous < 0.02 * space.vocab_size
