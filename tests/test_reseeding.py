"""New work for dead bits: what is found in residuals, what is not, and what it does to a codec."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bitcodec import BitCodec
from bitcodec.model import BinaryAutoencoder
from bitcodec.reseeding import SearchedRows, _savings, reseed

N_DIMS, N_BITS = 24, 6


def blank() -> BinaryAutoencoder:
    """Return a model whose bits do nothing, of data of mean 0 and unit scale."""
    model = BinaryAutoencoder(n_dims=N_DIMS, n_bits=N_BITS)
    with torch.no_grad():
        model.mean.zero_()
        model.scale.fill_(1.0)
        for weight in model.parameters():
            weight.zero_()
        model.encoder_bias.fill_(-1.0)
    return model


def kept(rows: torch.Tensor) -> SearchedRows:
    searched = SearchedRows(N_DIMS)
    for part in rows.split(500):
        list(searched.tap([(torch.zeros(len(part), N_BITS), part)]))
    return searched


def rows_with(
    *shares: float, noise: float = 0.3
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return rows (4,000, d) with orthogonal vectors of length 3 in them, those, and where."""
    generator = torch.Generator().manual_seed(0)
    vectors = 3 * torch.linalg.qr(torch.randn(N_DIMS, len(shares), generator=generator))[0].T
    on = torch.rand(4000, len(shares), generator=generator) < torch.tensor(shares)
    rows = on.float() @ vectors + noise * torch.randn(4000, N_DIMS, generator=generator)
    return rows, vectors, on


def test_dead_bits_find_the_vectors_that_are_left_and_live_ones_stay() -> None:
    rows, vectors, on = rows_with(0.08, 0.03, 0.01)
    model = blank()
    dead = torch.tensor([True, False, True, False, True, True])
    shares = reseed(model, kept(rows), dead, entropy_weight=1.0)
    similarity = torch.nn.functional.cosine_similarity
    for vector, where in zip(vectors, on.T, strict=True):
        match = similarity(model.decoder_weight, vector[None], dim=1)
        assert match.max() > 0.98
        assert shares[match.argmax()] == pytest.approx(float(where.float().mean()), rel=0.05)
    assert not model.decoder_weight[~dead].any()
    assert not shares[~dead].any()
    assert int((shares > 0).sum()) == 3  # the fourth has nothing to do


def test_the_linear_pass_turns_a_new_bit_on_where_its_vector_is() -> None:
    rows, _, on = rows_with(0.05)
    model = blank()
    shares = reseed(model, kept(rows), torch.ones(N_BITS, dtype=torch.bool), entropy_weight=0.1)
    bits = model.encode(rows)[:, int(shares.argmax())]
    assert (bits == on[:, 0]).float().mean() > 0.995


def test_noise_gives_dead_bits_no_work() -> None:
    rows = torch.randn(4000, N_DIMS, generator=torch.Generator().manual_seed(0))
    model = blank()
    before = model.decoder_weight.clone()
    shares = reseed(model, kept(rows), torch.ones(N_BITS, dtype=torch.bool), entropy_weight=10.0)
    assert not shares.any()
    assert torch.equal(model.decoder_weight, before)


@pytest.mark.parametrize("n_vectors", [2, 3, 9])
def test_what_is_saved_is_counted_without_the_row_itself(n_vectors: int) -> None:
    rows = np.random.default_rng(0).normal(size=(n_vectors, 5)) + 1
    others = [np.delete(rows, row, axis=0).mean(axis=0) for row in range(n_vectors)]
    expected = sum(2 * r @ v - v @ v for r, v in zip(rows, others, strict=True))
    mean = rows.mean(axis=0)
    numbers = (mean @ mean, np.square(rows).sum(), n_vectors)
    found = _savings(*(torch.tensor(number) for number in numbers))
    assert float(found) == pytest.approx(expected)


def test_codes_on_real_states_have_fewer_dead_bits_and_no_more_loss(
    hidden: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fit() -> tuple[float, float]:
        codec = BitCodec(n_bits=800, n_steps=60, batch_size=256, entropy_weight=4.0)
        codec.fit(hidden[:3000])
        result = codec.evaluate(hidden[3000:])
        cost = result.fvu + 4.0 * result.code_bits / hidden.shape[1]
        return float((codec.statistics_.counts == 0).mean()), cost

    dead, cost = fit()
    monkeypatch.setattr("bitcodec.finishing.Finisher._reseed", lambda *_: None)
    dead_before, cost_before = fit()
    assert dead < dead_before
    assert cost < 1.01 * cost_before
