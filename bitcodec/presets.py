"""Parameters by purpose."""

from __future__ import annotations

from typing import Any

from bitcodec.errors import ConfigError

_PAPER: dict[str, Any] = {
    "objective": "published",
    "entropy_weight": 1e-7,
    "covariance_weight": 1e-7,
    "covariance_columns": None,
    "learning_rate": 5e-4,
    "temperature": 1.0,
    "revive": False,
    "refine": "none",
}
_DENSE: dict[str, Any] = {
    "expansion": 1.0,
    "entropy_weight": 0.0,
    "covariance_weight": 0.0,
    "scaling": "global",
    "initial_activity": 0.5,
    "learning_rate": 1e-3,
}
PRESETS: dict[str, dict[str, Any]] = {
    "archive": {"pull": True},
    "search": {**_DENSE, "refine": "best", "side_bytes": 2},
    "hamming": {**_DENSE, "refine": "none"},
    "features": {
        "entropy_weight": 0.1,
        "covariance_weight": 0.0,
        "initial_activity": 0.3,
        "learning_rate": 1e-2,
        "batch_size": 256,
        "n_steps": 6000,
        "pull": True,
        "prune": True,
        "refine": "none",
    },
    "paper": _PAPER,
    "published": {**_PAPER, "surrogate": "published"},
}
"""Parameters by purpose: "archive" gives sparse codes of low entropy, "search" dense
codes whose asymmetric scores rank best, "hamming" dense codes whose Hamming distance ranks well,
"features" bits that each stand for one thing, "paper" the recipe of arXiv 2509.20997 with the
sigmoid's true gradient, "published" that with the gradient of its code."""


def preset(name: str) -> dict[str, Any]:
    """Return the parameters of a preset.

    Raises:
        ConfigError: there is no such preset.
    """
    if name not in PRESETS:
        raise ConfigError(f"unknown preset {name!r}: known are {', '.join(PRESETS)}")
    return PRESETS[name]
