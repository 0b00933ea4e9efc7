"""Pruning against refitting every candidate by least squares."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bitcodec import BitCodec, pruning
from bitcodec.errors import ValueRangeError
from bitcodec.model import BinaryAutoencoder
from bitcodec.normal_equations import NormalEquations
from bitcodec.pruning import choose_bits, prune

RIDGE = 0.5


def ridge_error(bits: np.ndarray, rows: np.ndarray) -> float:
    """Return squared error plus ridge of the best decoder of centred bits."""
    b, z = bits - bits.mean(axis=0), rows - rows.mean(axis=0)
    weight = np.linalg.solve(b.T @ b + RIDGE * np.eye(b.shape[1]), b.T @ z)
    return float(np.square(z - b @ weight).sum() + RIDGE * np.square(weight).sum())


def dropped_by_hand(bits: np.ndarray, rows: np.ndarray, price: np.ndarray) -> list[int]:
    """Drop the cheapest bit while that pays, refitting for every candidate."""
    kept = list(range(bits.shape[1]))
    while kept:
        now = ridge_error(bits[:, kept], rows)
        rises = {
            j: ridge_error(bits[:, [i for i in kept if i != j]], rows) - now - price[j]
            for j in kept
        }
        cheapest = min(rises, key=lambda j: rises[j])
        if rises[cheapest] >= 0:
            break
        kept.remove(cheapest)
    return kept


def normal_form(bits: np.ndarray, rows: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Return inverse and decoder as `choose_bits` takes them."""
    b, z = bits - bits.mean(axis=0), rows - rows.mean(axis=0)
    inverse = np.linalg.inv(b.T @ b + RIDGE * np.eye(b.shape[1]))
    return torch.from_numpy(inverse), torch.from_numpy(inverse @ b.T @ z)


@settings(max_examples=20)
@given(n_bits=st.integers(1, 12), seed=st.integers(0, 1000), block=st.sampled_from([1, 3, 64]))
def test_the_bits_that_stay_are_those_of_refitting_every_candidate(
    n_bits: int, seed: int, block: int
) -> None:
    generator = np.random.default_rng(seed)
    bits = (generator.random((60, n_bits)) < 0.3).astype(float)
    bits[:, n_bits // 2] = bits[:, 0]
    rows = bits @ generator.normal(size=(n_bits, 4)) + generator.normal(size=(60, 4))
    price = generator.uniform(0, 60, n_bits)
    inverse, decoder = normal_form(bits, rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pruning, "BLOCK", block)
        kept = choose_bits(inverse, decoder, torch.from_numpy(price))
    expected = dropped_by_hand(bits, rows, price)
    assert kept.nonzero().flatten().tolist() == expected
    if expected:
        best = normal_form(bits[:, expected], rows)[1]
        np.testing.assert_allclose(decoder[kept].numpy(), best.numpy(), rtol=1e-6, atol=1e-9)


def planted(n_rows: int = 4000) -> tuple[BinaryAutoencoder, NormalEquations, torch.Tensor]:
    """Return a model of two true bits, a copy, their conjunction and a constant, and its sums."""
    generator = torch.Generator().manual_seed(0)
    true = (torch.rand(n_rows, 2, generator=generator) < 0.4).float()
    both = true[:, :1] * true[:, 1:]
    bits = torch.cat([true, true[:, :1], both, torch.ones(n_rows, 1)], dim=1)
    rows = true @ torch.randn(2, 8, generator=generator)
    rows = (rows - rows.mean(dim=0)) / rows.std(dim=0)
    model = BinaryAutoencoder(n_dims=8, n_bits=5)
    sums = NormalEquations.empty(n_bits=5, n_dims=8, device=torch.device("cpu"))
    sums.update(bits, rows - model.reconstruct(bits))
    return model, sums, torch.cat([bits, rows], dim=1)


def test_copies_combinations_and_constants_are_dropped_and_nothing_is_lost() -> None:
    model, sums, data = planted()
    smaller, kept = prune(model, sums, penalty=1e-3, entropy_weight=0.1)
    assert int(kept.sum()) == 2
    assert kept[1]
    assert kept[0] != kept[2]
    bits, rows = data[:, :5][:, kept], data[:, 5:]
    assert float((smaller.reconstruct(bits) - rows).detach().square().mean()) < 1e-6


def test_a_bit_must_save_more_than_its_decoder_row_takes_to_describe() -> None:
    generator = torch.Generator().manual_seed(1)
    rows = torch.randn(1000, 8, generator=generator)
    bits = torch.zeros(1000, 1)
    bits[rows.norm(dim=1).argmax()] = 1  # explains one row, and noise at that
    model = BinaryAutoencoder(n_dims=8, n_bits=1)
    sums = NormalEquations.empty(n_bits=1, n_dims=8, device=torch.device("cpu"))
    sums.update(bits, rows)
    with pytest.raises(ValueRangeError, match="no bit is worth its price"):
        prune(model, sums, penalty=1e-3, entropy_weight=1.0)


def test_a_pruned_codec_of_real_states_has_fewer_bits_and_lives_on_in_files(
    hidden: np.ndarray, tmp_path: object
) -> None:
    codec = BitCodec(n_bits=120, n_steps=80, batch_size=256, prune=True, entropy_weight=2.0)
    codec.fit(hidden[:3072])
    assert 0 < codec.n_bits_ < 120
    codec.save(f"{tmp_path}/codec")
    loaded = BitCodec.load(f"{tmp_path}/codec")
    np.testing.assert_array_equal(loaded.encode(hidden[3072:]), codec.encode(hidden[3072:]))
    assert codec.evaluate(hidden[3072:]).fvu < 1
