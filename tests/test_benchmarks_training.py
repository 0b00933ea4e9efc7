"""The benchmarks of training: what they measure equals what the library says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import pruning, targets
from bitcodec import BitCodec
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
