"""Codes of a row are one and the same, and numbers of any size work or are refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from bitcodec import BitCodec
from bitcodec.errors import ConfigError, ShapeError, ValueRangeError
from bitcodec.statistics import BitStatistics

ROWS = np.random.default_rng(0).standard_normal((400, 20)).astype(np.float32)
PRESETS: dict[str, dict[str, Any]] = {
    "linear": {"n_bits": 67, "refine": "none"},
    "searched": {"n_bits": 67, "refine": "fast"},
    "side bytes": {"n_bits": 67, "side_bytes": 4, "entropy_weight": 0.0},
    "stages": {"n_bits": 130, "start": "transform", "entropy_weight": 0.0},
}


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", params=list(PRESETS))
def fitted(request: pytest.FixtureRequest, hidden: np.ndarray) -> BitCodec:
    codec = BitCodec(n_steps=20, batch_size=128, **PRESETS[request.param])
    return codec.fit(hidden[:1500, :64])


def small(**parameters: Any) -> BitCodec:
    return BitCodec(**({"n_bits": 13, "n_steps": 10, "batch_size": 64} | parameters))


def test_a_code_is_the_same_in_any_batch_order_and_number_of_threads(
    fitted: BitCodec, hidden: np.ndarray
) -> None:
    rows = hidden[:600, :64]
    torch.set_num_threads(1)
    whole = fitted.encode(rows)
    order = np.random.default_rng(0).permutation(len(rows))
    for n_threads in (1, 2, 5, 16):
        torch.set_num_threads(n_threads)
        np.testing.assert_array_equal(fitted.encode(rows[order]), whole[order])
        for size in (1, 3, 17, 100):
            some = rows[: min(len(rows), 12 * size)]
            parts = [fitted.encode(some[k : k + size]) for k in range(0, len(some), size)]
            np.testing.assert_array_equal(np.concatenate(parts), whole[: len(some)])


def test_a_code_is_the_same_however_the_rows_are_held(
    fitted: BitCodec, hidden: np.ndarray, tmp_path: Path
) -> None:
    rows = np.ascontiguousarray(hidden[:300, :64])
    np.save(tmp_path / "rows.npy", rows)
    np.save(tmp_path / "fortran.npy", np.asfortranarray(rows))
    save_file({"hidden": rows}, tmp_path / "rows.safetensors")
    fitted.save(tmp_path / "codec")
    held: dict[str, Any] = {
        "strided": hidden[:300, :64],
        "fortran": np.asfortranarray(rows),
        "float64": rows.astype(np.float64),
        "tensor": torch.from_numpy(rows),
        "transposed tensor": torch.from_numpy(np.ascontiguousarray(rows.T)).T,
        "batches": [rows[:7], rows[7:]],
        **{path.name: path for path in tmp_path.glob("*.*")},
    }
    whole = fitted.encode(rows)
    for name, source in held.items():
        np.testing.assert_array_equal(fitted.encode(source), whole, err_msg=name)
    loaded = BitCodec.load(tmp_path / "codec")
    np.testing.assert_array_equal(loaded.encode(rows), whole)


@pytest.mark.parametrize("side_bytes", [0, 4])
@pytest.mark.parametrize("scale", [1e-37, 1e-20, 1e20, 1e37])
def test_scales_from_the_least_to_the_largest_work(scale: float, side_bytes: int) -> None:
    rows = ROWS * np.float32(scale)
    codec = small(side_bytes=side_bytes, entropy_weight=0.0).fit(rows)
    usual = small(side_bytes=side_bytes, entropy_weight=0.0).fit(ROWS)
    found, wanted = codec.evaluate(rows), usual.evaluate(ROWS)
    assert np.isfinite(codec.decode(codec.encode(rows))).all()
    assert found.fvu == pytest.approx(wanted.fvu, rel=0.05)


def test_dimensions_of_very_different_scales_work_together() -> None:
    scales = np.r_[np.ones(10), np.logspace(-5, 18, 10)]  # a millionth of the median is rounding
    rows = ROWS * scales.astype(np.float32)
    found = small().fit(rows).evaluate(rows).fvu
    assert found == pytest.approx(small().fit(ROWS).evaluate(ROWS).fvu, rel=0.05)


def test_denormals_are_refused_with_the_remedy() -> None:
    with pytest.raises(ValueRangeError, match=r"dimension 0 varies by .*e-42, too little for flo"):
        small().fit((ROWS * 1e-42).astype(np.float32))


def test_denormals_beside_usual_rows_are_zeros_to_a_codec() -> None:
    codec = small().fit(ROWS)
    np.testing.assert_array_equal(
        codec.encode(np.full((2, 20), 1e-42, np.float32)), codec.encode(np.zeros((2, 20), "f4"))
    )


def test_constant_dimensions_are_refused_or_kept() -> None:
    rows = ROWS.copy()
    rows[:, 3] = 7
    with pytest.raises(ConfigError, match=r"1 of 20 dimensions never vary \(first: 3\)"):
        small().fit(rows)
    codec = small(constant="keep").fit(rows)
    np.testing.assert_array_equal(codec.decode(codec.encode(rows))[:, 3], np.float32(7))


def test_duplicate_dimensions_decode_alike() -> None:
    rows = np.repeat(ROWS[:, :5], 4, axis=1)
    decoded = (codec := small().fit(rows)).decode(codec.encode(rows))
    np.testing.assert_allclose(decoded[:, ::4], decoded[:, 3::4], atol=1e-3)


def test_fewer_rows_than_dimensions_work_and_fewer_than_a_batch_are_refused() -> None:
    rows = np.random.default_rng(1).standard_normal((100, 300)).astype(np.float32)
    assert small().fit(rows).evaluate(rows).fvu < 1
    with pytest.raises(ShapeError, match="hidden has 30 rows, fewer than a batch of 64"):
        small().fit(rows[:30])


@pytest.mark.parametrize("n_bits", [1, 7, 8, 9])
@pytest.mark.parametrize("n_dims", [1, 2])
def test_one_dimension_and_one_bit_work(n_dims: int, n_bits: int) -> None:
    rows = ROWS[:, :n_dims]
    codec = small(n_bits=n_bits, entropy_weight=0.0).fit(rows)
    assert codec.encode(rows).shape == (400, (n_bits + 7) // 8)
    assert codec.evaluate(rows).fvu < 0.9


def test_a_hundred_thousand_dimensions_work() -> None:
    rows = np.random.default_rng(1).standard_normal((16, 100_000)).astype(np.float32)
    codec = small(n_bits=3, n_steps=1, batch_size=16, refine="none").fit(rows)
    assert codec.decode(codec.encode(rows[:2])).shape == (2, 100_000)


def test_counts_of_a_million_million_rows_merge_exactly() -> None:
    part = BitStatistics(n_rows=10**11 + 1, counts=np.array([0, 1, 3 * 10**10, 10**11 + 1]))
    total = BitStatistics.empty(4)
    for _ in range(10):
        total = total.merge(part)
    assert total.n_rows == 10**12 + 10
    assert total.counts.tolist() == [0, 10, 3 * 10**11, 10**12 + 10]
    p = 3 * 10**11 / (10**12 + 10)
    h = -(p * np.log2(p) + (1 - p) * np.log2(1 - p))
    rare = -(q := 10 / (10**12 + 10)) * np.log2(q) + q / np.log(2)
    assert total.entropy_bits == pytest.approx(h + rare, rel=1e-12)
