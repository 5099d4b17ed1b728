"""Work with language-model prompts as points in the model's input embedding space.

The public names are imported on first use, so that ``import embedspace`` stays light: torch and
transformers are loaded by the first call that needs them.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from embedspace._version import __version__

if TYPE_CHECKING:
    from embedspace.cache import EmbeddingCache
    from embedspace.compression import compress
    from embedspace.distillation import SoftPrompt
    from embedspace.interpolation import interpolate
    from embedspace.projector import Projector
    from embedspace.prompt import PromptEmbeds, Recipe, decode_prompt_embeds, encode_prompt_embeds
    from embedspace.safety import SafetyFilter, Verdict
    from embedspace.space import EmbeddingSpace
    from embedspace.style import StyleVector

_HOMES = {
    "EmbeddingCache": "embedspace.cache",
    "EmbeddingSpace": "embedspace.space",
    "Projector": "embedspace.projector",
    "PromptEmbeds": "embedspace.prompt",
    "Recipe": "embedspace.prompt",
    "SafetyFilter": "embedspace.safety",
    "SoftPrompt": "embedspace.distillation",
    "StyleVector": "embedspace.style",
    "Verdict": "embedspace.safety",
    "compress": "embedspace.compression",
    "decode_prompt_embeds": "embedspace.prompt",
    "encode_prompt_embeds": "embedspace.prompt",
    "interpolate": "embedspace.interpolation",
}

__all__ = [
    "EmbeddingCache",
    "EmbeddingSpace",
    "Projector",
    "PromptEmbeds",
    "Recipe",
    "SafetyFilter",
    "SoftPrompt",
    "StyleVector",
    "Verdict",
    "__version__",
    "compress",
    "decode_prompt_embeds",
    "encode_prompt_embeds",
    "interpolate",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'embedspace' has no attribute {name!r}; it has {', '.join(__all__)}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
