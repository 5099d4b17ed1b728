"""A corpus: many texts as prompt embeddings in shards on disk, made on one machine or a cluster.

``make_corpus(CorpusSpec(...))`` writes it and resumes an interrupted one; ``Corpus(folder, space)`` reads it back.
"""

from embedspace.corpus.making import BuildResult, CorpusSpec, Runner, make_corpus, require_runner
from embedspace.corpus.ray_workers import map_on_ray
from embedspace.corpus.reading import Corpus
from embedspace.corpus.shard import Payload, Shard
from embedspace.corpus.sources import Source, open_source
from embedspace.corpus.tokens import Template

__all__ = [
    "BuildResult",
    "Corpus",
    "CorpusSpec",
    "Payload",
    "Runner",
    "Shard",
    "Source",
    "Template",
    "make_corpus",
    "map_on_ray",
    "open_source",
    "require_runner",
]
