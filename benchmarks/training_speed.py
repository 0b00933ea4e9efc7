r"""Rows a second in training: ours, the published trainer, and the bare matrix products.

The same hidden states of SmolLM2-135M, batch, widths and number of steps, both penalties on,
float32 unless said otherwise. Ours revive bits as in every fit, the more often the fewer steps. The
published trainer is the code of arXiv 2509.20997, a checkout of which is named on the command line
and run as it is, with its tracker replaced by nothing. Bare products are the five of a step: two
forward, three backward (into both weights and into the bits).

    python -m benchmarks.training_speed --published CHECKOUT
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import statistics
import sys
import time
import types
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.results_file import save_results
from bitcodec.batches import HiddenBatches
from bitcodec.config import CodecConfig, Precision
from bitcodec.losses import published_covariance, published_entropy
from bitcodec.training import start_training
from bitcodec_transformers import harvest, load_model, pydoc_topics

NAME = "training_speed"
N_DIMS, N_BITS, BATCH = 576, 2304, 512
LAYER = 15


def main() -> int:
    """Time every trainer, rounds in turn, and write benchmarks/results/training_speed.json."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--published", type=Path, required=True, help="checkout of their code")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--work", type=Path, default=Path("demo"), help="folder for the harvest")
    arguments = parser.parse_args()
    rows = real_rows(arguments.work, n_rows=arguments.steps * BATCH)
    published = load_published(arguments.published)
    check_published(published, rows)
    prepared: dict[str, Callable[[], Callable[[], None]]] = {
        "bare products": lambda: bare_products(rows),
        "sampled covariance": lambda: ours(rows, columns=256),
        "sampled covariance, bfloat16": lambda: ours(rows, columns=256, precision="bfloat16"),
        "exact covariance": lambda: ours(rows, columns=None),
        "exact covariance, bfloat16": lambda: ours(rows, columns=None, precision="bfloat16"),
        "published trainer": lambda: theirs(published, rows),
    }
    seconds: dict[str, list[float]] = {name: [] for name in prepared}
    for _ in range(arguments.rounds):
        for name, prepare in prepared.items():
            run = prepare()
            began = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - began)
            print(f"{name:28} {len(rows) / seconds[name][-1]:8.0f} rows/s", flush=True)
    save_results(NAME, summary(seconds, n_rows=len(rows)))
    return 0


def real_rows(work: Path, *, n_rows: int) -> np.ndarray:
    """Return (n_rows, 576) hidden states of a layer, harvested if they are not there."""
    folder = work / f"training-speed-{n_rows}"
    if not folder.is_dir():
        work.mkdir(exist_ok=True)
        model = load_model("smollm2-135m")
        harvest(pydoc_topics(), model=model, layers=[LAYER], output=folder, max_rows=n_rows)
    return np.concatenate([batch.numpy() for batch in HiddenBatches(folder).batches(BATCH)])


def load_published(checkout: Path) -> types.SimpleNamespace:
    """Import the published trainer, with a tracker that keeps nothing."""
    tracker: Any = types.ModuleType("wandb")
    tracker.log = lambda values: None
    sys.modules["wandb"] = tracker
    sys.path.insert(0, str(checkout))
    return types.SimpleNamespace(
        model=importlib.import_module("module.binarized_autoencoder").BinarizedAutoencoder,
        train=importlib.import_module("train.trainer").auto_encoder_trainer,
        objective=importlib.import_module("train.training_objective"),
    )


def check_published(published: types.SimpleNamespace, rows: np.ndarray) -> None:
    """Assert that our published terms are what the published code computes on real bits."""
    torch.manual_seed(0)
    bits = (torch.nn.Linear(N_DIMS, N_BITS)(torch.from_numpy(rows[:BATCH])) > 0).float()
    theirs_of = published.objective
    torch.testing.assert_close(
        published_entropy(bits), theirs_of.entropy_of_binary_hidden(bits), rtol=1e-5, atol=1e-3
    )
    torch.testing.assert_close(
        published_covariance(bits), theirs_of.covarience_of_binary_hidden(bits)
    )


def ours(
    rows: np.ndarray, *, columns: int | None, precision: Precision = "float32"
) -> Callable[[], None]:
    """Prepare one pass over the rows; a step computes both penalties from the first one on."""
    config = CodecConfig(
        n_bits=N_BITS,
        batch_size=BATCH,
        n_steps=len(rows) // BATCH,
        covariance_columns=columns,
        precision=precision,
    )
    batches = HiddenBatches(rows)
    steps = start_training(batches, config, device=torch.device("cpu")).run(batches)

    def run() -> None:
        deque(steps, maxlen=0)

    return run


def theirs(published: types.SimpleNamespace, rows: np.ndarray) -> Callable[[], None]:
    """Prepare one epoch of the published trainer; its validation gets two rows."""
    model = published.model(
        N_DIMS, N_BITS, bias=True, binarization_type="sign_s", output_activation="none"
    )
    data = torch.from_numpy(rows)
    optimiser = torch.optim.Adam(model.parameters(), lr=5e-4)

    def run() -> None:
        with contextlib.redirect_stdout(io.StringIO()):
            published.train(
                model,
                data,
                data[:2],
                optimiser,
                BATCH,
                1,
                entropy_weight=1e-7,
                covarience_weight=1e-7,
                cuda=False,
            )

    return run


def bare_products(rows: np.ndarray) -> Callable[[], None]:
    """Prepare the products of the same steps, and nothing else."""
    data = torch.from_numpy(rows)
    encoder, decoder = torch.randn(N_BITS, N_DIMS), torch.randn(N_BITS, N_DIMS)
    bits, of_logits = torch.empty(BATCH, N_BITS), torch.empty(BATCH, N_BITS)
    output, of_weight = torch.empty(BATCH, N_DIMS), torch.empty(N_BITS, N_DIMS)

    def run() -> None:
        for batch in data.split(BATCH):
            torch.mm(batch, encoder.T, out=bits)
            torch.mm(bits, decoder, out=output)
            torch.mm(output, decoder.T, out=of_logits)
            torch.mm(bits.T, output, out=of_weight)
            torch.mm(of_logits.T, batch, out=of_weight)

    return run


def summary(seconds: dict[str, list[float]], *, n_rows: int) -> dict[str, Any]:
    """Return rates, and ratios within a round, with their spread."""
    rates = {name: spread([n_rows / s for s in all_s]) for name, all_s in seconds.items()}
    ratios = {
        f"{name} over published trainer": spread(
            [theirs / own for theirs, own in zip(seconds["published trainer"], s, strict=True)]
        )
        for name, s in seconds.items()
        if "covariance" in name
    } | {
        f"time of {name} over bare products": spread(
            [own / bare for own, bare in zip(s, seconds["bare products"], strict=True)]
        )
        for name, s in seconds.items()
        if name != "bare products"
    }
    return {
        "d": N_DIMS,
        "h": N_BITS,
        "batch": BATCH,
        "steps": n_rows // BATCH,
        "rows_per_second": rates,
        "ratios": ratios,
    }


def spread(values: list[float]) -> dict[str, float]:
    """Return median, least and greatest."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


if __name__ == "__main__":
    sys.exit(main())
