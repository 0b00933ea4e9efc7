"""Names for features: what their contexts share, tested on contexts held out.

>>> from bitcodec_naming import FeatureRows, lexical_judge, name_features  # doctest: +SKIP
>>> source = FeatureRows(codec.encode(hidden), codec.n_bits_, texts)  # doctest: +SKIP
>>> names = name_features(source, lexical_judge())  # doctest: +SKIP
>>> names.mean_score(), names.counts()  # doctest: +SKIP

Features may be of any kind that is on or off: `FeatureRows.from_active(values > 0, texts)`. Judges
are rules (`token_judge`, `lexical_judge`), a chat model on this machine (`ChatJudge`), a model
behind an OpenAI-compatible endpoint (`EndpointJudge`), or anything with the methods of `Judge`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bitcodec_naming.chat import ChatJudge
    from bitcodec_naming.comparing import MatchedCount, matched_counts
    from bitcodec_naming.endpoint import EndpointJudge
    from bitcodec_naming.excerpts import Excerpt
    from bitcodec_naming.figures import draw_scores, save_scores
    from bitcodec_naming.judge import NO_NAME, Judge
    from bitcodec_naming.kept import KeptJudge
    from bitcodec_naming.names import FeatureName, InterpretableCount, Names
    from bitcodec_naming.naming import name_features
    from bitcodec_naming.rules import RuleJudge, lexical_judge, token_judge
    from bitcodec_naming.settings import NamingSettings
    from bitcodec_naming.sources import FeatureRows, FeatureSource
    from bitcodec_naming.spending import Prices, Spending
    from bitcodec_naming.verdicts import AnsweredPair, Rejection, Verdict

__all__ = [
    "NO_NAME",
    "AnsweredPair",
    "ChatJudge",
    "EndpointJudge",
    "Excerpt",
    "FeatureName",
    "FeatureRows",
    "FeatureSource",
    "InterpretableCount",
    "Judge",
    "KeptJudge",
    "MatchedCount",
    "Names",
    "NamingSettings",
    "Prices",
    "Rejection",
    "RuleJudge",
    "Spending",
    "Verdict",
    "draw_scores",
    "lexical_judge",
    "matched_counts",
    "name_features",
    "save_scores",
    "token_judge",
]

_HOMES = {
    "chat": ("ChatJudge",),
    "comparing": ("MatchedCount", "matched_counts"),
    "endpoint": ("EndpointJudge",),
    "excerpts": ("Excerpt",),
    "figures": ("draw_scores", "save_scores"),
    "judge": ("NO_NAME", "Judge"),
    "kept": ("KeptJudge",),
    "names": ("FeatureName", "InterpretableCount", "Names"),
    "naming": ("name_features",),
    "rules": ("RuleJudge", "lexical_judge", "token_judge"),
    "settings": ("NamingSettings",),
    "sources": ("FeatureRows", "FeatureSource"),
    "spending": ("Prices", "Spending"),
    "verdicts": ("AnsweredPair", "Rejection", "Verdict"),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import a public name on first use."""
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME_OF[name]}"), name)


def __dir__() -> list[str]:
    """List the public names, imported or not."""
    return sorted(__all__)
