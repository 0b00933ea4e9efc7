"""What is said of the gradient through the step, against closed forms and finite differences."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bitcodec.config import CodecConfig
from bitcodec.gradients import (
    encoder_gradient,
    measure_step_gradient,
    score_function_gradient,
)
from bitcodec.model import BinaryAutoencoder

PLAIN = {"entropy_weight": 0.0, "covariance_weight": 0.0}


def one_bit_model() -> tuple[BinaryAutoencoder, torch.Tensor]:
    """Return a model of one bit in one dimension, and evenly spaced rows."""
    model = BinaryAutoencoder(n_dims=1, n_bits=1)
    with torch.no_grad():
        model.encoder_weight.fill_(1.0)
        model.decoder_weight.fill_(0.6)
        model.decoder_bias.fill_(0.1)
    return model, torch.linspace(-2, 2, 4001)[:, None]


def small_model(hidden: np.ndarray) -> tuple[BinaryAutoencoder, torch.Tensor]:
    """Return a model of 12 bits on six principal components of real states."""
    rows = hidden[:512] - hidden[:512].mean(axis=0)
    components = np.linalg.svd(rows, full_matrices=False)[0][:, 4:10]
    model = BinaryAutoencoder(n_dims=6, n_bits=12)
    with torch.no_grad():
        generator = torch.Generator().manual_seed(0)
        model.encoder_weight.normal_(generator=generator)
        model.encoder_bias.fill_(-1.0)
        model.decoder_weight.copy_(0.3 * model.encoder_weight)
    return model, torch.from_numpy(components * 512**0.5).float()


def test_the_score_function_gradient_is_the_slope_of_the_smoothed_loss() -> None:
    model, rows = one_bit_model()
    config = CodecConfig(**PLAIN)  # type: ignore[arg-type]
    found = score_function_gradient(
        model,
        rows,
        config,
        progress=1.0,
        width=0.02,
        n_samples=4000,
        generator=torch.Generator().manual_seed(0),
    )
    # A bias moved up by t turns on the rows in [-t, 0), which are near 0 and whose squared error
    # changes from 0.1^2 to 0.7^2; there are 1000 rows a unit of 4001 in all.
    assert float(found[1]) == pytest.approx((0.7**2 - 0.1**2) * 1000 / 4001, rel=0.1)


def test_the_gradient_behind_the_step_is_the_incoming_one_times_the_slope() -> None:
    model, rows = one_bit_model()
    config = CodecConfig(temperature=0.5, **PLAIN)  # type: ignore[arg-type]
    found = measure_step_gradient(model, rows, config, progress=1.0)
    z = rows.double().numpy()[:, 0]
    incoming = 2 * 0.6 * (0.1 + 0.6 * (z >= 0) - z) / len(z)
    slope = 1 / (4 * np.cosh(z / 2 / 0.5) ** 2) / 0.5
    assert found.incoming_norm == pytest.approx(np.linalg.norm(incoming), rel=1e-4)
    assert found.norm == pytest.approx(np.linalg.norm(incoming * slope), rel=1e-4)


def test_the_share_of_vanished_logits_is_that_beyond_the_reach_of_the_sigmoid() -> None:
    model, rows = one_bit_model()
    config = CodecConfig(temperature=0.1, **PLAIN)  # type: ignore[arg-type]
    # s (1 - s) falls to a hundredth of 1/4 where cosh(t / 2T)^2 = 100.
    reach = 2 * 0.1 * np.arccosh(10.0)
    expected = float((rows.abs() > reach).float().mean())
    found = measure_step_gradient(model, rows, config, progress=1.0)
    assert found.vanishing == pytest.approx(expected, abs=1e-3)


def test_measuring_changes_neither_model_nor_gradients(hidden: np.ndarray) -> None:
    model, rows = small_model(hidden)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    measure_step_gradient(model, rows, CodecConfig(), progress=0.7)
    encoder_gradient(model, rows, CodecConfig(), progress=0.7)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(weight.grad is None for weight in model.parameters())


def test_on_real_states_the_sigmoid_points_more_truly_than_the_identity(
    hidden: np.ndarray,
) -> None:
    model, rows = small_model(hidden)
    true = score_function_gradient(
        model,
        rows,
        CodecConfig(**PLAIN),  # type: ignore[arg-type]
        progress=1.0,
        width=0.1,
        n_samples=1500,
        generator=torch.Generator().manual_seed(0),
    )
    cosines = [
        torch.cosine_similarity(
            true,
            encoder_gradient(model, rows, CodecConfig(surrogate=kind, **PLAIN), progress=1.0),  # type: ignore[arg-type]
            dim=0,
        ).item()
        for kind in ("sigmoid", "identity")
    ]
    assert cosines[0] > cosines[1] + 0.05
    assert cosines[0] > 0.7
