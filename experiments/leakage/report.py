"""The page of the leakage audit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from embedspace._util.markdown import markdown_table
from embedspace._util.provenance import describe_origin
from embedspace.metrics import Interval
from embedspace.projector import INSTRUCTION
from experiments.leakage.metrics import Leak

PAGE = """# What prompt embeddings give away

**Embeddings are not encryption.** The input embedding table of an open model is public, and a prompt embedding is, row
for row, an entry of that table: whoever sees the vectors can read the prompt with one matrix product. Treat a payload
of prompt embeddings, a cache of them, or a log line that contains one like the text itself: encrypt it in transit and
at rest, restrict who may read it, and delete it when the text would have to be deleted.

The transforms of this toolkit do not protect the text either; none was designed to. The table shows the share of a
text's distinct tokens (ignoring letter case and spaces) that an attacker with the model's table recovers after each
transform, over {texts} questions and `{model}`, with 95% intervals. *Another text's* is the share of a
different text's tokens that are among those recovered: the chance level. *Tokens in place* is the share of rows that
are read as their original token. These are shares of what is there to be found (recall); how much of what an attacker
names is right (precision) is not counted, so one that names many tokens does well, and only the distance from another
text's share says how much.

- *nearest* is `space.read`: the row of highest cosine, after the vocabulary's mean is removed.
- *estimates the shift* knows that all rows were moved by one unknown vector, and estimates the vector and the
  tokens alternately.
- *maximum likelihood* takes the nearest row by Euclidean distance, which is the best estimate under such noise if
  nothing is assumed about the language.
- *unmixes rows* knows how many rows were averaged and with which weights, but not which rows, and searches
  for rows of the table whose weighted sum is the row that it sees.
- *asks the model* gives the soft tokens to the model itself, with "{instruction}" before them, and reads the greedy
  answer.

{table}
The noise level is the norm of the noise, in units of the root mean square distance of the vocabulary's rows from
their mean. Style shifts have the norm that is given (the vocabulary's rows have a norm of about 3.2). Tokens that are
*not* recovered here are not safe. No attacker of this table sees more than one prompt of a sender, none tries likely
texts (the projector is public, so whoever guesses the text obtains exactly its soft tokens), none trains on pairs
of texts and vectors, and none lets a model fill in what is missing. Each of these can recover more;
none was measured. Compression by leaving rows out was attacked by reading the rows that are left
alone: how much of the rest can be guessed from them is not measured.

Made by `python experiments/run.py experiment=leakage`: {origin}.
"""


def leak_table(leaks: Sequence[Leak]) -> str:
    """A Markdown table, one line for each transform and attacker."""
    rows = [
        (
            leak.transform,
            leak.attacker,
            _percent(leak.found),
            _percent(leak.chance),
            "" if leak.in_place is None else _percent(leak.in_place),
        )
        for leak in leaks
    ]
    return markdown_table(["transform", "attacker", "tokens read", "another text's", "tokens in place"], rows)


def as_page(leaks: Sequence[Leak], texts: int, model: str, origin: Mapping[str, Any]) -> str:
    """The page for ``docs/``."""
    return PAGE.format(
        texts=texts,
        model=model,
        instruction=INSTRUCTION,
        table=leak_table(leaks),
        origin=describe_origin(origin),
    )


def _percent(share: Interval) -> str:
    return f"{share:.0%}"
