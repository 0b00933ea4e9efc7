"""Sparse autoencoders trained by SAELens on the rows that our codecs were fitted on.

Rows are standardised per dimension, as ours are, which gives them the length that SAELens's own
scaling would give. Every kind gets the width, the minibatches and the steps of our codecs.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from benchmarks.quantisers import Standardisation
from benchmarks.sparse_methods import Method
from bitcodec.errors import ConfigError
from bitcodec.extras import import_extra
from bitcodec.files import atomic_path

Kind = Literal["relu", "topk", "jumprelu"]

EXPANSION, N_STEPS, BATCH = 4, 3000, 512
"""Features a dimension, minibatches and their rows: those of our codecs."""
SPARSITIES: dict[Kind, tuple[float, ...]] = {
    "relu": (1, 2, 5),
    "topk": (16, 32, 64),
    "jumprelu": (0.5, 1, 2),
}
"""Price of the L1 norm, features that are on, price of the tanh of Anthropic's JumpReLU."""
LEARNING_RATE = 2e-3
"""Of Adam. With 500 steps of TopK, 32 on, held-out FVU was .348 at 1e-3 and .321 at 3e-3, which
suits short training best; the last 30% of the steps fall to a tenth."""
WARM_SHARE, RAMP_SHARE, DECAY_SHARE = 0.05, 0.2, 0.3
"""Shares of the steps: rising learning rate, rising price of sparsity, falling learning rate."""
SEED = 0


@dataclass(frozen=True)
class Recipe:
    """A sparse autoencoder to be trained."""

    kind: Kind
    """How it is kept sparse."""
    sparsity: float
    """How much, in the unit of the kind; see `SPARSITIES`."""
    n_features: int | None = None
    """Width; `EXPANSION` times the dimensions by default."""
    n_steps: int = N_STEPS
    """Minibatches."""
    batch: int = BATCH
    """Rows of a minibatch."""

    @property
    def name(self) -> str:
        """What the results call it."""
        return f"{self.kind} {self.sparsity:g}"


def train_sae(recipe: Recipe, rows: np.ndarray, folder: Path) -> None:
    """Train a sparse autoencoder and write it in SAELens's format.

    Args:
        recipe: what to train.
        rows: (m, d) float32, standardised.
        folder: appears whole; `SAE.load_from_disk` reads it.
    """
    trainer: Any = import_extra("sae_lens.training.sae_trainer", extra="sae")
    config: Any = importlib.import_module("sae_lens.config")
    n_steps = recipe.n_steps
    settings = config.SAETrainerConfig(
        total_training_samples=n_steps * recipe.batch,
        train_batch_size_samples=recipe.batch,
        lr=LEARNING_RATE,
        lr_end=LEARNING_RATE / 10,
        lr_warm_up_steps=int(WARM_SHARE * n_steps),
        lr_decay_steps=int(DECAY_SHARE * n_steps),
        dead_feature_window=max(1, n_steps // 10),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        sae = untrained(recipe, n_dims=rows.shape[1])
        trained = trainer.SAETrainer(settings, sae, minibatches(rows, recipe.batch)).fit()
    with atomic_path(folder) as temporary:
        trained.save_inference_model(temporary)


def untrained(recipe: Recipe, *, n_dims: int) -> Any:
    """Return SAELens's autoencoder of a recipe, before training.

    The settings are those its documentation recommends for rows of this length.
    """
    saes: Any = import_extra("sae_lens", extra="sae")
    shape: dict[str, Any] = {
        "d_in": n_dims,
        "d_sae": recipe.n_features or EXPANSION * n_dims,
    }
    ramp = int(RAMP_SHARE * recipe.n_steps)
    match recipe.kind:
        case "relu":
            prices = {"l1_coefficient": recipe.sparsity, "l1_warm_up_steps": ramp}
            return saes.StandardTrainingSAE(saes.StandardTrainingSAEConfig(**shape, **prices))
        case "topk":
            k = int(recipe.sparsity)
            return saes.TopKTrainingSAE(saes.TopKTrainingSAEConfig(**shape, k=k))
        case "jumprelu":
            anthropic = {
                "jumprelu_sparsity_loss_mode": "tanh",
                "jumprelu_bandwidth": 2.0,
                "jumprelu_init_threshold": 0.1,
                "jumprelu_ste_to_input": True,
                "pre_act_loss_coefficient": 3e-6,
                "l0_coefficient": recipe.sparsity,
                "l0_warm_up_steps": ramp,
            }
            return saes.JumpReLUTrainingSAE(saes.JumpReLUTrainingSAEConfig(**shape, **anthropic))
    raise ConfigError(f"kind must be one of {', '.join(SPARSITIES)}, got {recipe.kind!r}")


def minibatches(rows: np.ndarray, size: int) -> Iterator[torch.Tensor]:
    """Yield minibatches without end, in a new random order every epoch."""
    generator, given = torch.Generator().manual_seed(SEED), torch.from_numpy(rows)
    while True:
        order = torch.randperm(len(rows), generator=generator)
        for start in range(0, len(rows) - size + 1, size):
            yield given[order[start : start + size]]


def method_of(folder: Path, standard: Standardisation) -> Method:
    """Return a trained autoencoder as a method; values are in units of decoder rows of length 1."""
    saes: Any = import_extra("sae_lens", extra="sae")
    sae = saes.SAE.load_from_disk(folder)
    norms = sae.W_dec.detach().norm(dim=1)

    @torch.no_grad()
    def activations(rows: np.ndarray) -> np.ndarray:
        values: np.ndarray = (sae.encode(torch.from_numpy(standard.apply(rows))) * norms).numpy()
        return values

    @torch.no_grad()
    def decode(values: np.ndarray) -> np.ndarray:
        return standard.undo(sae.decode(torch.from_numpy(values) / norms).numpy())

    return Method(activations, decode, n_features=len(norms), has_values=True)
