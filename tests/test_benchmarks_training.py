"""The benchmarks of training: what they measure equals what the library says."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import live_bits, pruning, surrogates, targets
from bitcodec import BitCodec
from bitcodec.bits import pack
from bitcodec.config import CodecConfig


def test_what_a_wish_reached_is_what_the_codec_evaluates_to(
    codec: BitCodec, hidden: np.ndarray
) -> None:
    rows = hidden[:1500]
    reached, expected = targets.measure(codec, rows), codec.evaluate(rows)
    assert reached.entropy_bits == pytest.approx(expected.entropy_bits)
    assert reached.code_bits == pytest.approx(expected.code_bits)
    assert reached.fvu == pytest.approx(expected.fvu)
    assert 0 < reached.code_bits_error < 0.3 * reached.code_bits
    assert 0 < reached.fvu_error < 0.3 * reached.fvu


def test_pruning_is_measured_on_one_training_at_several_prices(
    hidden: np.ndarray, tmp_path: Path
) -> None:
    np.save(tmp_path / "hidden.npy", hidden[:2000])
    config = CodecConfig(n_bits=60, n_steps=20, batch_size=128, entropy_weight=1.0)
    held_out = torch.from_numpy(hidden[2000:2500])
    figures = pruning.compare(config, tmp_path / "hidden.npy", held_out)
    assert figures["whole"]["n_bits"] == 60
    assert 1 <= figures["pruned"]["n_bits"] < 60
    for kind in ("whole", "pruned"):
        bits, fvus = zip(*figures[kind]["curve"], strict=True)
        by_price = np.argsort(pruning.FACTORS)
        assert (np.diff(np.array(bits)[by_price]) < 0).all()
        assert (np.diff(np.array(fvus)[by_price]) > 0).all()


def test_dead_dense_and_double_bits_are_counted() -> None:
    bits = np.random.default_rng(0).random((20_000, 8)) < 0.1
    bits[:, 0] = False  # dead
    bits[1:, 1], bits[0, 1] = False, True  # on once in 20,000: dead
    bits[:, 2] = np.arange(20_000) % 2  # dense
    bits[:, 4] = bits[:, 3]  # doubles, both
    bits[:, 5] = ~bits[:, 6]  # the opposite of a bit is no double of it
    found = live_bits.count(pack(bits.astype(np.uint8)), n_bits=8)
    assert found == {"n_rows": 20_000, "dead": 2 / 8, "dense": 1 / 8, "doubles": 2 / 8}


def test_surrogates_are_fitted_until_their_rate_is_the_same(
    monkeypatch: pytest.MonkeyPatch, hidden: np.ndarray
) -> None:
    wishes: list[float] = []

    def fit(*_: object, target_bits: float) -> dict[str, float]:
        wishes.append(target_bits)
        return {"code_bits": 0.9 * target_bits + 4}

    monkeypatch.setattr(surrogates, "fit_and_measure", fit)
    arguments = argparse.Namespace(target_bits=100.0)
    found = surrogates.at_equal_rate({}, arguments, hidden)
    assert wishes[0] == 100
    assert found["fits"] == len(wishes) == 2
    assert found["code_bits"] == pytest.approx(100, rel=surrogates.CLOSE)
