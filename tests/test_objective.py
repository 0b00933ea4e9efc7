"""The whole objective of a minibatch, standard and published, against float64 references."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from bitcodec import BitCodec, objective, schedule
from bitcodec.config import CodecConfig
from bitcodec.errors import ConfigError
from bitcodec.losses import covariance, published_covariance, published_entropy
from bitcodec.model import BinaryAutoencoder

N_ROWS, N_DIMS, N_BITS = 40, 6, 9
WEIGHTS = {"entropy_weight": 0.3, "covariance_weight": 2.0, "covariance_columns": None}


def model_and_rows(*, seed: int = 0) -> tuple[BinaryAutoencoder, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    model = BinaryAutoencoder(n_dims=N_DIMS, n_bits=N_BITS)
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(generator=generator)
    return model, torch.randn(N_ROWS, N_DIMS, generator=generator)


def loss_of(
    model: BinaryAutoencoder, rows: torch.Tensor, config: CodecConfig, *, progress: float
) -> torch.Tensor:
    terms = measured(model, rows, config, progress=progress)
    weights = objective.weights_at(
        config,
        n_bits=N_BITS,
        n_dims=N_DIMS,
        entropy_weight=config.entropy_weight,
        progress=progress,
    )
    return objective.total(terms, weights)


def measured(
    model: BinaryAutoencoder, rows: torch.Tensor, config: CodecConfig, *, progress: float
) -> objective.Terms:
    columns = objective.draw_columns(config, N_BITS, torch.Generator().manual_seed(0))
    temperature = schedule.temperature(config, progress)
    return objective.measure(model, rows, config, temperature=temperature, columns=columns)


def by_numpy(model: BinaryAutoencoder, rows: torch.Tensor) -> dict[str, np.ndarray]:
    """Return the forward pass in float64."""
    e, b, d, c = (weight.detach().double().numpy() for weight in model.parameters())
    z = rows.double().numpy()
    bits = (z @ e.T + b >= 0).astype(float)
    return {"z": z, "bits": bits, "errors": bits @ d + c - z, "D": d}


def test_the_standard_objective_is_error_and_ramped_penalties() -> None:
    model, rows = model_and_rows()
    config = CodecConfig(**WEIGHTS)  # type: ignore[arg-type]
    values = by_numpy(model, rows)
    bits = values["bits"]
    p = np.stack([bits.mean(axis=0), 1 - bits.mean(axis=0)])
    entropy = -(p * np.log2(np.where(p > 0, p, 1))).sum()
    matrix = np.abs(np.cov(bits, rowvar=False, bias=True))
    penalty = 0.3 / N_DIMS * entropy + 2.0 / N_BITS**2 * (matrix.sum() - np.trace(matrix))
    error = np.square(values["errors"]).mean()
    for progress, share in ((0.0, 0.0), (0.3, 0.5), (0.9, 1.0)):
        found = loss_of(model, rows, config, progress=progress)
        assert float(found.detach()) == pytest.approx(error + share * penalty, rel=1e-5)


def test_the_published_objective_is_the_formula_of_its_code() -> None:
    model, rows = model_and_rows()
    config = CodecConfig(objective="published", **WEIGHTS)  # type: ignore[arg-type]
    values = by_numpy(model, rows)
    bits = values["bits"]
    p = bits.mean(axis=0)
    entropy = -(p * np.log2(p + 1e-10) + (1 - p) * np.log2(1 - p + 1e-10)).sum()
    matrix = np.abs(np.cov(bits, rowvar=False))  # divides by n - 1
    pairs = matrix.sum() - np.trace(matrix)
    error = np.square(values["errors"]).mean()
    early, late = (float(loss_of(model, rows, config, progress=x).detach()) for x in (0.2, 0.3))
    assert early == pytest.approx(error + 2.0 * pairs, rel=1e-5)
    assert late == pytest.approx(error + 2.0 * pairs + 0.3 * entropy, rel=1e-5)


def test_the_published_backward_pass_is_the_formula_of_its_code() -> None:
    model, rows = model_and_rows()
    config = CodecConfig(
        objective="published", surrogate="published", entropy_weight=0.3, covariance_weight=0.0
    )
    loss_of(model, rows, config, progress=1.0).backward()
    values = by_numpy(model, rows)
    p = values["bits"].mean(axis=0)
    of_bits = 2 * values["errors"] @ values["D"].T / values["errors"].size
    # d/dp of -(p log2(p + e) + (1 - p) log2(1 - p + e)), and dp/db = 1/n
    e, ln2 = 1e-10, np.log(2)
    on, off = np.log2(p + e) + p / (p + e) / ln2, np.log2(1 - p + e) + (1 - p) / (1 - p + e) / ln2
    incoming = of_bits + 0.3 * (off - on) / N_ROWS
    of_logits = incoming * (1 - incoming)
    assert model.encoder_weight.grad is not None
    np.testing.assert_allclose(
        model.encoder_weight.grad.numpy(), of_logits.T @ values["z"], rtol=1e-3, atol=1e-5
    )


def test_the_published_recipe_takes_data_as_they_come(hidden: np.ndarray) -> None:
    codec = BitCodec.preset("published", n_bits=24, n_steps=4, batch_size=128).fit(hidden[:600])
    assert (codec._model.mean == 0).all()
    assert (codec._model.scale == 1).all()


def test_the_first_published_loss_is_that_of_a_linear_layer_of_torch(hidden: np.ndarray) -> None:
    codec = BitCodec.preset("published", n_bits=24, n_steps=1, batch_size=600).fit(hidden[:600])
    torch.manual_seed(5)
    losses = []
    for _ in range(8):
        encoder, decoder = torch.nn.Linear(576, 24), torch.nn.Linear(24, 576)
        rows = torch.from_numpy(hidden[:600])
        error = decoder((encoder(rows) > 0).float()) - rows
        losses.append(float(error.detach().square().mean()))
    assert codec.history_[0].loss == pytest.approx(np.mean(losses), rel=0.01)


def test_where_a_logit_is_zero_the_paper_and_we_say_one_and_its_code_says_zero() -> None:
    model, _ = model_and_rows()
    with torch.no_grad():
        model.encoder_bias.zero_()
    at_zero = torch.zeros(1, N_DIMS)
    assert model.encode(at_zero).tolist() == [[1.0] * N_BITS]
    assert (model.logits(at_zero) > 0).sum() == 0


def test_published_entropy_of_a_constant_bit_is_almost_zero_and_ours_is_zero() -> None:
    bits = torch.tensor([[0.0, 1.0]]).repeat(7, 1)
    assert abs(float(published_entropy(bits))) < 1e-6


def test_published_covariance_is_ours_over_n_minus_one() -> None:
    bits = (torch.rand(20, 5, generator=torch.Generator().manual_seed(0)) < 0.4).float()
    assert float(published_covariance(bits)) == pytest.approx(float(covariance(bits)) * 20 / 19)


def test_sampled_covariance_is_the_exact_one_in_the_mean() -> None:
    generator = torch.Generator().manual_seed(0)
    bits = (torch.rand(50, 6, generator=generator) < 0.4).float()
    bits[:, 1] = bits[:, 0]
    subsets = list(itertools.combinations(range(6), 2))
    draws = torch.Generator().manual_seed(1)
    sampled = [float(covariance(bits, n_columns=2, generator=draws)) for _ in range(4000)]
    error = np.std(sampled) / len(sampled) ** 0.5
    assert len({round(value, 4) for value in sampled}) <= len(subsets)
    assert np.mean(sampled) == pytest.approx(float(covariance(bits)), abs=4 * error)


def test_bfloat16_products_keep_counts_exact() -> None:
    model, rows = model_and_rows()
    config = CodecConfig(precision="bfloat16", **WEIGHTS)  # type: ignore[arg-type]
    terms = measured(model, rows, config, progress=1.0)
    p = terms.bits.double().mean(dim=0).numpy()
    p = np.stack([p, 1 - p])
    expected = -(p * np.log2(np.where(p > 0, p, 1))).sum()
    assert float(terms.entropy.detach()) == pytest.approx(expected, rel=1e-6)


def test_bfloat16_training_ends_near_float32(hidden: np.ndarray) -> None:
    fvus = [
        BitCodec(n_bits=100, n_steps=60, batch_size=256, refine="none", precision=precision)
        .fit(hidden[:3072])
        .evaluate(hidden[3072:])
        .fvu
        for precision in ("float32", "bfloat16")
    ]
    assert fvus[1] == pytest.approx(fvus[0], abs=0.02)


def test_targets_need_an_objective_that_can_be_steered() -> None:
    with pytest.raises(ConfigError, match="standard objective"):
        CodecConfig(objective="published", target_bits=10.0)
