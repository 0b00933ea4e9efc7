"""Hidden states in Arrow files, as SAELens and Hugging Face's data sets write them."""

from __future__ import annotations

import importlib
import itertools
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bitcodec import BitCodec
from bitcodec.batches import HiddenBatches
from bitcodec.errors import BitcodecError, FileError, FormatError, MissingExtraError, ShapeError

pa: Any = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
ROWS = np.arange(60, dtype=np.float32).reshape(20, 3)


def write(path: Path, *columns: Any, names: list[str] | None = None, file: bool = False) -> Path:
    """Write columns, given as lists of record batches' columns, in Arrow's stream format."""
    labels = names or ["states", "token_ids"][: len(columns)]
    batches = [pa.record_batch(list(parts), names=labels) for parts in zip(*columns, strict=True)]
    opened = pa.ipc.new_file if file else pa.ipc.new_stream
    with opened(str(path), batches[0].schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
    return path


def contexts(rows: np.ndarray, lengths: tuple[int, ...], kind: Any = None) -> Any:
    """Return a column of contexts of so many rows each."""
    ends = np.cumsum((0, *lengths))
    lists = [rows[a:b].tolist() for a, b in itertools.pairwise(ends)]
    return pa.array(lists, kind or pa.list_(pa.list_(pa.float32())))


def read(source: Any, batch_size: int = 7) -> np.ndarray:
    return torch.cat(list(HiddenBatches(source).batches(batch_size))).numpy()


LAYOUTS: dict[str, Any] = {
    "contexts": lambda: [contexts(ROWS, (5, 5, 5, 5))],
    "contexts of many lengths": lambda: [contexts(ROWS, (1, 7, 0, 12))],
    "record batches": lambda: [contexts(ROWS[:8], (4, 4)), contexts(ROWS[8:], (12,))],
    "an empty record batch": lambda: [contexts(ROWS[:0], ()), contexts(ROWS, (20,))],
    "a slice of a longer column": lambda: [contexts(np.tile(ROWS, (2, 1)), (20, 20)).slice(1)],
    "one row each": lambda: [pa.array(ROWS.tolist(), pa.list_(pa.float32()))],
    "lists of fixed size": lambda: [pa.array(ROWS.tolist(), pa.list_(pa.float32(), 3))],
    "contexts of fixed size": lambda: [
        contexts(ROWS, (5, 5, 5, 5), pa.list_(pa.list_(pa.float32(), 3), 5))
    ],
    "large lists": lambda: [contexts(ROWS, (20,), pa.large_list(pa.large_list(pa.float32())))],
    "float64": lambda: [contexts(ROWS, (20,), pa.list_(pa.list_(pa.float64())))],
    "float16": lambda: [
        pa.FixedSizeListArray.from_arrays(pa.array(ROWS.astype(np.float16).ravel()), 3)
    ],
}


@pytest.mark.parametrize("file", [False, True], ids=["stream", "file"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_its_rows_in_order(layout: str, file: bool, tmp_path: Path) -> None:
    path = write(tmp_path / "x.arrow", LAYOUTS[layout](), file=file)
    np.testing.assert_array_equal(read(path), ROWS)
    assert HiddenBatches(path).n_rows == 20


@settings(max_examples=60)
@given(start=st.integers(0, 22), size=st.integers(0, 22))
def test_any_slice_is_that_of_the_rows(arrow_path: Path, start: int, size: int) -> None:
    from bitcodec.arrow_files import ArrowPart

    part = ArrowPart(arrow_path)
    np.testing.assert_array_equal(part.read(start, start + size), ROWS[start : start + size])


@pytest.fixture(scope="module")
def arrow_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows in three record batches."""
    path = tmp_path_factory.mktemp("arrow") / "x.arrow"
    parts = [contexts(ROWS[:6], (2, 4)), contexts(ROWS[6:7], (1,)), contexts(ROWS[7:], (13,))]
    return write(path, parts)


def test_the_column_named_hidden_is_read_among_several(tmp_path: Path) -> None:
    column = contexts(ROWS, (20,))
    other = contexts(-ROWS, (20,))
    path = write(tmp_path / "x.arrow", [other], [column], names=["other", "hidden"])
    np.testing.assert_array_equal(read(path), ROWS)


def test_several_columns_of_floats_are_refused_by_name(tmp_path: Path) -> None:
    column = contexts(ROWS, (20,))
    path = write(tmp_path / "x.arrow", [column], [column], names=["layer.3", "layer.7"])
    with pytest.raises(FormatError, match=r'column "hidden" or one.*\[\'layer.3\', \'layer.7\'\]'):
        HiddenBatches(path)


def test_a_file_without_floats_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "x.arrow", [pa.array([[1, 2]])], names=["token_ids"])
    with pytest.raises(FormatError, match=r"lists of floats, got \['token_ids'\]"):
        HiddenBatches(path)


def test_rows_of_two_widths_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "x.arrow", [pa.array([[[1.0, 2.0], [3.0]]])])
    with pytest.raises(ShapeError, match=r"lists of one length, got \[1, 2\]"):
        HiddenBatches(path)


@pytest.mark.parametrize("column", [[[[1.0], None]], [None, [[1.0]]], [[[None]]]])
def test_missing_values_are_refused(column: Any, tmp_path: Path) -> None:
    kind = pa.list_(pa.list_(pa.float32()))
    path = write(tmp_path / "x.arrow", [pa.array(column, kind)])
    with pytest.raises(FormatError, match="must hold whole hidden states, got 1 missing"):
        read(path)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="there is no"):
        HiddenBatches(tmp_path / "x.arrow")


@settings(max_examples=60)
@given(size=st.integers(0, 400))
def test_a_truncated_file_raises_only_errors_of_our_own(arrow_path: Path, size: int) -> None:
    content = arrow_path.read_bytes()
    cut = arrow_path.with_name("cut.arrow")
    cut.write_bytes(content[: min(size, len(content) - 1)])
    try:
        found = read(cut)
    except BitcodecError:
        return
    np.testing.assert_array_equal(found, ROWS[: len(found)])


def test_without_pyarrow_the_error_names_the_extra(
    arrow_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(importlib.import_module("sys").modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match=r"bitcodec\[arrow\]"):
        HiddenBatches(arrow_path)


def test_what_saelens_caches_is_fitted(hidden: np.ndarray, tmp_path: Path) -> None:
    pytest.importorskip("sae_lens", reason="SAELens is not installed")
    runner_module = importlib.import_module("sae_lens.cache_activations_runner")
    datasets = importlib.import_module("datasets")
    runner = object.__new__(runner_module.CacheActivationsRunner)
    runner.context_size, hook = 16, "blocks.15.hook_resid_post"
    runner.cfg = types.SimpleNamespace(hook_name=hook, n_seq_in_buffer=32, d_in=576)
    runner.features = datasets.Features(
        {
            hook: datasets.Array2D(shape=(16, 576), dtype="float32"),
            "token_ids": datasets.Sequence(datasets.Value("int32"), length=16),
        }
    )
    shards, cache = tmp_path / "cache" / ".tmp_shards", tmp_path / "cache"
    for number in range(2):
        rows = torch.from_numpy(hidden[512 * number : 512 * (number + 1)])
        shard = runner._create_shard((rows, torch.zeros(512, dtype=torch.int32)))
        shard.save_to_disk(str(shards / f"shard_{number:05d}"), num_shards=1)
    runner._consolidate_shards(shards, cache, copy_files=False).shuffle(seed=0)
    np.testing.assert_array_equal(read(cache, 100), hidden[:1024])
    fitted = BitCodec(n_bits=8, n_steps=3, batch_size=128, refine="none").fit(cache)
    again = BitCodec(n_bits=8, n_steps=3, batch_size=128, refine="none").fit(hidden[:1024])
    assert fitted.n_dims_ == again.n_dims_ == 576
    assert fitted.statistics_.n_rows == 1024


def test_files_beside_a_data_sets_own_are_not_read(tmp_path: Path) -> None:
    write(tmp_path / "data-00000-of-00001.arrow", [contexts(ROWS, (20,))])
    write(tmp_path / "cache-1.arrow", [pa.array([1, 2], pa.uint64())], names=["indices"])
    (tmp_path / "state.json").write_text(
        '{"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}'
    )
    np.testing.assert_array_equal(read(tmp_path), ROWS)


@pytest.mark.parametrize("state", ['{"_data_files": 3}', '{"_data_files": [{}]}', "{"])
def test_a_damaged_state_of_a_data_set_is_refused(state: str, tmp_path: Path) -> None:
    write(tmp_path / "data.arrow", [contexts(ROWS, (20,))])
    (tmp_path / "state.json").write_text(state)
    with pytest.raises(FormatError, match=r"state\.json"):
        HiddenBatches(tmp_path)


def test_many_arrow_files_are_not_all_kept_open(tmp_path: Path) -> None:
    for index in range(20):
        write(tmp_path / f"{index:03}.arrow", [contexts(ROWS, (20,))])
    before = len(list(Path("/proc/self/fd").iterdir()))
    batches = HiddenBatches(tmp_path)
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 2
    assert sum(len(batch) for batch in batches.batches(64)) == 400
