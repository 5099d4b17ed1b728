"""A corpus: many texts as prompt embeddings in shards on disk, made on one machine or a cluster.

``make_corpus(Work(...))`` writes it and goes on where it stopped; ``Corpus(folder, space)`` reads it back.
"""

from embedspace.corpus.making import Made, Runner, Work, make_corpus
from embedspace.corpus.reading import Corpus
from embedspace.corpus.shard import Shard, What
from embedspace.corpus.sources import Source, open_source
from embedspace.corpus.tokens import Template

__all__ = [
    "Corpus",
    "Made",
    "Runner",
    "Shard",
    "Source",
    "Template",
    "What",
    "Work",
    "make_corpus",
    "open_source",
]
