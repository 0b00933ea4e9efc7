"""Hidden states of transformers models, harvested with every row traceable to its text.

>>> from bitcodec_transformers import harvest, load_model, pydoc_topics, read_rows  # doctest: +SKIP
>>> model = load_model("smollm2-135m")  # doctest: +SKIP
>>> harvest(pydoc_topics(), model=model, layers=[15], output="hidden")  # doctest: +SKIP
>>> read_rows("hidden").context(1234)  # doctest: +SKIP

Importing this package loads neither torch nor transformers; using a name does.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bitcodec_transformers.causal import TokenProgress
    from bitcodec_transformers.documents import Document, pydoc_topics, read_documents
    from bitcodec_transformers.embedding import EmbeddingProgress, SentenceEmbedder, load_embedder
    from bitcodec_transformers.embedding_settings import EmbeddingSettings
    from bitcodec_transformers.fisher import sensitivity
    from bitcodec_transformers.harvesting import harvest
    from bitcodec_transformers.lens import LogitLens, logit_changes, logit_lens
    from bitcodec_transformers.manifest import Counts, HarvestSettings
    from bitcodec_transformers.models import DEFAULT_MODEL, LanguageModel, load_model, prepare_model
    from bitcodec_transformers.outcomes import SpliceOutcome, SpliceReport
    from bitcodec_transformers.queries import TokenStates, hidden_of
    from bitcodec_transformers.rows import HarvestRows, RowContext, read_rows
    from bitcodec_transformers.splicing import CodecReplacement, Replacement, splice, through
    from bitcodec_transformers.summary import HarvestProgress, HarvestSummary, read_harvest
    from bitcodec_transformers.switching import SwitchCounts, feature_directions, switched

__all__ = [
    "DEFAULT_MODEL",
    "CodecReplacement",
    "Counts",
    "Document",
    "EmbeddingProgress",
    "EmbeddingSettings",
    "HarvestProgress",
    "HarvestRows",
    "HarvestSettings",
    "HarvestSummary",
    "LanguageModel",
    "LogitLens",
    "Replacement",
    "RowContext",
    "SentenceEmbedder",
    "SpliceOutcome",
    "SpliceReport",
    "SwitchCounts",
    "TokenProgress",
    "TokenStates",
    "feature_directions",
    "harvest",
    "hidden_of",
    "load_embedder",
    "load_model",
    "logit_changes",
    "logit_lens",
    "prepare_model",
    "pydoc_topics",
    "read_documents",
    "read_harvest",
    "read_rows",
    "sensitivity",
    "splice",
    "switched",
    "through",
]

_HOMES = {
    "causal": ("TokenProgress",),
    "documents": ("Document", "pydoc_topics", "read_documents"),
    "embedding": ("EmbeddingProgress", "SentenceEmbedder", "load_embedder"),
    "embedding_settings": ("EmbeddingSettings",),
    "fisher": ("sensitivity",),
    "harvesting": ("harvest",),
    "lens": ("LogitLens", "logit_changes", "logit_lens"),
    "manifest": ("Counts", "HarvestSettings"),
    "models": ("DEFAULT_MODEL", "LanguageModel", "load_model", "prepare_model"),
    "outcomes": ("SpliceOutcome", "SpliceReport"),
    "queries": ("TokenStates", "hidden_of"),
    "rows": ("HarvestRows", "RowContext", "read_rows"),
    "splicing": ("CodecReplacement", "Replacement", "splice", "through"),
    "summary": ("HarvestProgress", "HarvestSummary", "read_harvest"),
    "switching": ("SwitchCounts", "feature_directions", "switched"),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"{__name__}.{_HOME_OF[name]}")
    return getattr(module, name)


def __dir__() -> list[str]:
    return sorted(__all__)
