"""Hidden states from every kind of source, read in order, shuffled, and refused where bad."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from bitcodec import batches as batches_module
from bitcodec.batches import (
    HiddenBatches,
    HiddenSource,
    NpyStream,
    check_finite,
    find_files,
    to_float32,
)
from bitcodec.errors import (
    BitcodecError,
    ConfigError,
    FileError,
    FormatError,
    ShapeError,
    ValueRangeError,
)

N, D = 600, 6


@pytest.fixture(scope="module")
def rows() -> np.ndarray:
    """(600, 6) float16 that every float dtype holds exactly, no two rows alike."""
    values = np.random.default_rng(0).integers(-128, 128, (N, D))
    values[:, 0] = np.arange(N) // 128
    values[:, 1] = np.arange(N) % 128
    return values.astype(np.float16)


class Again:
    """An iterable that starts anew, without being a sequence."""

    def __init__(self, *parts: np.ndarray | torch.Tensor) -> None:
        self._parts = parts

    def __iter__(self) -> Iterator[np.ndarray | torch.Tensor]:
        return iter(self._parts)


class OneByOne(io.RawIOBase):
    """A pipe that gives few bytes at a time."""

    def __init__(self, content: bytes) -> None:
        self._file = io.BytesIO(content)

    def read(self, size: int = -1) -> bytes:
        return self._file.read(min(size, 7))


def read(source: HiddenSource, batch_size: int = 100) -> torch.Tensor:
    return torch.cat(list(HiddenBatches(source).batches(batch_size)))


def npy_bytes(array: np.ndarray, version: tuple[int, int] = (1, 0)) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, array, version=version)
    return file.getvalue()


def npy(path: Path, array: np.ndarray) -> Path:
    np.save(path, array)
    return path


def shard(path: Path, array: np.ndarray | torch.Tensor, name: str = "hidden") -> Path:
    save_file({name: torch.as_tensor(array).contiguous()}, path)
    return path


def parts_of(rows: np.ndarray) -> list[np.ndarray]:
    return [rows[:250], rows[250:251], rows[251:]]


def npy_parts(rows: np.ndarray, folder: Path) -> Path:
    for index, part in enumerate(parts_of(rows)):
        npy(folder / f"part-{index}.npy", part)
    return folder


def shards(rows: np.ndarray, folder: Path) -> Path:
    for index, part in enumerate(parts_of(rows)):
        shard(folder / f"part-{index}.safetensors", part)
    return folder


def files_of_both_kinds(rows: np.ndarray, folder: Path) -> list[Path]:
    return [npy(folder / "z.npy", rows[:250]), shard(folder / "a.safetensors", rows[250:])]


SOURCES: dict[str, Callable[[np.ndarray, Path], HiddenSource]] = {
    "float16 array": lambda rows, _: rows,
    "float32 array": lambda rows, _: rows.astype(np.float32),
    "float64 array": lambda rows, _: rows.astype(np.float64),
    "big-endian array": lambda rows, _: rows.astype(">f4"),
    "strided array": lambda rows, _: np.repeat(np.asfortranarray(rows), 2, axis=1)[:, ::2],
    "float16 tensor": lambda rows, _: torch.from_numpy(rows),
    "bfloat16 tensor": lambda rows, _: torch.from_numpy(rows).bfloat16(),
    "float64 tensor": lambda rows, _: torch.from_numpy(rows).double(),
    "tensor with gradient": lambda rows, _: torch.from_numpy(rows).float().requires_grad_(),
    "npy": lambda rows, folder: npy(folder / "x.npy", rows),
    "npy as text": lambda rows, folder: str(npy(folder / "x.npy", rows)),
    "Fortran npy": lambda rows, folder: npy(folder / "x.npy", np.asfortranarray(rows)),
    "float64 npy": lambda rows, folder: npy(folder / "x.npy", rows.astype(np.float64)),
    "memory map": lambda rows, folder: np.load(npy(folder / "x.npy", rows), mmap_mode="r"),
    "safetensors": lambda rows, folder: shard(folder / "x.safetensors", rows),
    "one tensor of another name": lambda rows, folder: shard(folder / "x.safetensors", rows, "x"),
    "bfloat16 safetensors": lambda rows, folder: shard(
        folder / "x.safetensors", torch.from_numpy(rows).bfloat16()
    ),
    "folder": lambda rows, folder: npy_parts(rows, folder),
    "folder of shards": lambda rows, folder: shards(rows, folder),
    "glob": lambda rows, folder: str(npy_parts(rows, folder) / "p*.npy"),
    "list of files of both kinds": lambda rows, folder: files_of_both_kinds(rows, folder),
    "list of arrays": lambda rows, _: parts_of(rows),
    "re-iterable of arrays and tensors": lambda rows, _: Again(
        rows[:250], torch.from_numpy(rows[250:]).bfloat16()
    ),
    "generator": lambda rows, _: iter(parts_of(rows)),
    "stream": lambda rows, _: NpyStream(io.BytesIO(npy_bytes(rows))),
}


@pytest.mark.parametrize("kind", SOURCES)
def test_every_source_gives_its_rows_in_order_as_float32(
    rows: np.ndarray, tmp_path: Path, kind: str
) -> None:
    found = read(SOURCES[kind](rows, tmp_path))
    assert found.dtype == torch.float32
    assert not found.requires_grad
    np.testing.assert_array_equal(found.numpy(), rows.astype(np.float32))


@pytest.mark.parametrize("kind", sorted(set(SOURCES) - {"generator", "stream"}))
def test_every_source_but_a_stream_can_be_read_again(
    rows: np.ndarray, tmp_path: Path, kind: str
) -> None:
    batches = HiddenBatches(SOURCES[kind](rows, tmp_path))
    assert batches.rereadable
    passes = [torch.cat(list(batches.batches(100))) for _ in range(2)]
    torch.testing.assert_close(passes[0], passes[1], rtol=0, atol=0)


@pytest.mark.parametrize("kind", ["generator", "stream"])
def test_a_stream_says_that_it_can_be_read_only_once(
    rows: np.ndarray, tmp_path: Path, kind: str
) -> None:
    batches = HiddenBatches(SOURCES[kind](rows, tmp_path))
    assert not batches.rereadable
    list(batches.batches(100))
    with pytest.raises(ConfigError, match=r"can be read only once.*pass a list, a file") as raised:
        list(batches.batches(100))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("kind", sorted(set(SOURCES) - {"list of arrays", "generator", "stream"}))
def test_rows_and_width_are_known_before_reading_where_the_source_tells(
    rows: np.ndarray, tmp_path: Path, kind: str
) -> None:
    batches = HiddenBatches(SOURCES[kind](rows, tmp_path))
    expected = (None, None) if kind.startswith("re-iterable") else (N, D)
    assert (batches.n_rows, batches.n_dims) == expected


@settings(max_examples=25)
@given(n_rows=st.sampled_from([1, 7, 8, 9]), batch_size=st.integers(1, 10), cut=st.integers(0, 9))
def test_batches_are_never_empty_nor_larger_than_asked(
    n_rows: int, batch_size: int, cut: int
) -> None:
    data = np.arange(2.0 * n_rows).reshape(n_rows, 2)
    found = list(HiddenBatches([data[:cut], data[cut:]]).batches(batch_size))
    assert all(1 <= len(batch) <= batch_size for batch in found)
    np.testing.assert_array_equal(torch.cat(found).numpy(), data)


def test_a_file_is_read_in_slices_not_whole(
    rows: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []
    original = to_float32

    def spy(part: np.ndarray | torch.Tensor) -> torch.Tensor:
        sizes.append(len(part))
        return original(part)

    monkeypatch.setattr(batches_module, "to_float32", spy)
    sources = [npy(tmp_path / "x.npy", rows), shard(tmp_path / "x.safetensors", rows)]
    list(HiddenBatches(sources).batches(128))
    assert sizes == [128, 128, 128, 128, 88] * 2


# shuffling


def shuffled(source: HiddenSource, batch_size: int, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return list(HiddenBatches(source).shuffled(batch_size, generator))


def sorted_rows(batches: Iterable[torch.Tensor]) -> list[list[float]]:
    return sorted(row for batch in batches for row in batch.tolist())


@pytest.mark.parametrize("kind", SOURCES)
def test_a_shuffled_epoch_has_every_row_once(rows: np.ndarray, tmp_path: Path, kind: str) -> None:
    found = shuffled(SOURCES[kind](rows, tmp_path), 100)
    assert [len(batch) for batch in found] == [100] * 6
    assert sorted_rows(found) == sorted(rows.astype(np.float32).tolist())


def test_a_shuffled_epoch_larger_than_its_buffer_has_every_row_once(
    rows: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches_module, "SHUFFLE_CHUNK_ROWS", 16)
    monkeypatch.setattr(batches_module, "SHUFFLE_BUFFER_BYTES", 150 * D * 4)
    found = shuffled(npy(tmp_path / "x.npy", rows), 60)
    assert [len(batch) for batch in found] == [60] * 10
    assert sorted_rows(found) == sorted(rows.astype(np.float32).tolist())


@pytest.mark.parametrize("n_rows", [59, 60, 61, 149, 199, 260])
def test_every_shuffled_batch_is_whole_and_only_a_remainder_waits(
    rows: np.ndarray, monkeypatch: pytest.MonkeyPatch, n_rows: int
) -> None:
    monkeypatch.setattr(batches_module, "SHUFFLE_CHUNK_ROWS", 16)
    monkeypatch.setattr(batches_module, "SHUFFLE_BUFFER_BYTES", 100 * D * 4)
    found = shuffled(rows[:n_rows], 60)
    assert [len(batch) for batch in found] == [60] * (n_rows // 60)
    assert len({tuple(row) for row in sorted_rows(found)}) == n_rows // 60 * 60


def test_the_same_generator_state_gives_the_same_order(rows: np.ndarray) -> None:
    first, second = shuffled(rows, 100, seed=7), shuffled(rows, 100, seed=7)
    torch.testing.assert_close(torch.cat(first), torch.cat(second), rtol=0, atol=0)


def test_two_epochs_and_two_seeds_have_different_orders(rows: np.ndarray) -> None:
    generator = torch.Generator().manual_seed(0)
    source = HiddenBatches(rows)
    orders = [torch.cat(list(source.shuffled(100, generator))) for _ in range(2)]
    orders += [torch.cat(shuffled(rows, 100, seed=1)), torch.from_numpy(rows).float()]
    for i, left in enumerate(orders):
        for right in orders[:i]:
            assert (left == right).all(dim=1).float().mean() < 0.05


def test_shuffling_mixes_rows_from_far_apart(rows: np.ndarray, tmp_path: Path) -> None:
    batch = shuffled(npy(tmp_path / "x.npy", rows), 100)[0]
    positions = (batch[:, 0] * 128 + batch[:, 1]).numpy()
    counts = np.histogram(positions, bins=6, range=(0, N))[0]
    assert counts.min() >= 5  # of 16.7 expected


def test_shuffling_leaves_the_global_generator_alone(rows: np.ndarray) -> None:
    before = torch.get_rng_state()
    shuffled(rows, 100)
    assert torch.equal(torch.get_rng_state(), before)


# bad values


@pytest.mark.parametrize(("bad", "kind"), [(np.nan, "NaN"), (np.inf, "infinity"), (-np.inf, "inf")])
def test_the_first_bad_row_is_named_across_files(
    rows: np.ndarray, tmp_path: Path, bad: float, kind: str
) -> None:
    spoilt = rows.copy()
    spoilt[[423, 500], 3] = bad
    files = [npy(tmp_path / "a.npy", spoilt[:250]), npy(tmp_path / "b.npy", spoilt[250:])]
    with pytest.raises(ValueRangeError, match=f"row 423 holds {kind}.*: drop or repair") as raised:
        list(HiddenBatches(files).batches(64))
    assert "\n" not in str(raised.value)


def test_the_first_bad_row_is_named_across_batches_of_an_iterable(rows: np.ndarray) -> None:
    spoilt = rows.copy()
    spoilt[423, 3] = np.nan
    with pytest.raises(ValueRangeError, match="row 423 holds NaN"):
        list(HiddenBatches(Again(*parts_of(spoilt))).batches(64))


@pytest.mark.parametrize("bad_row", [0, 255, 256, 423, 599])
def test_a_bad_row_is_named_by_its_place_in_the_data_when_shuffled(
    rows: np.ndarray, tmp_path: Path, bad_row: int
) -> None:
    spoilt = rows.copy()
    spoilt[bad_row, 3] = np.nan
    files = [npy(tmp_path / "a.npy", spoilt[:300]), npy(tmp_path / "b.npy", spoilt[300:])]
    with pytest.raises(ValueRangeError, match=f"row {bad_row} holds NaN"):
        shuffled(files, 64)


def test_finite_rows_whose_sum_overflows_are_accepted() -> None:
    check_finite(torch.full((4, 8), 3e38))


def test_infinities_that_cancel_in_a_sum_are_found() -> None:
    bad = torch.zeros(3, 2)
    bad[2] = torch.tensor([torch.inf, -torch.inf])
    with pytest.raises(ValueRangeError, match=r"row 12 holds infinity.*float16"):
        check_finite(bad, first_row=10)


@pytest.mark.parametrize(
    "values",
    [
        np.ones((3, 2), np.int64),
        np.ones((3, 2), np.bool_),
        np.ones((3, 2), np.complex64),
        np.array([["a", "b"]]),
        np.array([[None, 1]], dtype=object),
        torch.ones(3, 2, dtype=torch.int8),
        torch.ones(3, 2, dtype=torch.complex64),
    ],
)
def test_values_that_are_not_floating_point_are_refused(values: np.ndarray | torch.Tensor) -> None:
    for source in (values, [values]):
        with pytest.raises(ValueRangeError, match="hidden must be float16, bfloat16, float32"):
            list(HiddenBatches(source).batches(10))


def test_integer_files_are_refused(tmp_path: Path) -> None:
    files = [
        npy(tmp_path / "x.npy", np.ones((3, 2), np.int32)),
        shard(tmp_path / "x.safetensors", torch.ones(3, 2, dtype=torch.int32)),
    ]
    for file in files:
        with pytest.raises(ValueRangeError, match=r"got .*int32: pass the hidden states"):
            list(HiddenBatches(file).batches(10))


@pytest.mark.parametrize("shape", [(), (5,), (2, 3, 4)])
def test_another_rank_is_refused(shape: tuple[int, ...], tmp_path: Path) -> None:
    array = np.zeros(shape, np.float32)
    sources: list[HiddenSource] = [
        array,
        [array],
        npy(tmp_path / "x.npy", array),
        shard(tmp_path / "x.safetensors", array),
    ]
    for source in sources:
        with pytest.raises(ShapeError, match=r"must be \(n, d\), got.*: one hidden state a row"):
            list(HiddenBatches(source).batches(10))


def test_rows_without_a_dimension_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"must have at least one dimension, got \(3, 0\)"):
        HiddenBatches(np.zeros((3, 0)))


def test_files_of_different_widths_are_refused_and_the_file_named(tmp_path: Path) -> None:
    files = [npy(tmp_path / "a.npy", np.zeros((3, 4))), npy(tmp_path / "b.npy", np.zeros((3, 5)))]
    with pytest.raises(ShapeError, match=r"b\.npy must be \(n, 4\), got \(3, 5\): pass"):
        HiddenBatches(files)


def test_batches_of_different_widths_are_refused_and_the_batch_named() -> None:
    source = HiddenBatches([np.zeros((3, 4)), np.zeros((3, 5))])
    with pytest.raises(ShapeError, match=r"batch 1 must be \(n, 4\), got \(3, 5\): pass"):
        list(source.batches(10))


def test_another_width_than_the_expected_one_is_refused() -> None:
    with pytest.raises(ShapeError, match=r"hidden must be \(n, 5\), got \(3, 4\): pass"):
        HiddenBatches(np.zeros((3, 4)), n_dims=5)


@pytest.mark.parametrize("source", [None, 3, 2.5])
def test_what_is_no_source_at_all_is_refused(source: object) -> None:
    with pytest.raises(ShapeError, match="must be an array, tensor, path or iterable of batches"):
        HiddenBatches(cast(HiddenSource, source))


@pytest.mark.parametrize("source", [[[1.0, 2.0]], ["x", np.zeros((1, 2))], [1.0]])
def test_an_iterable_of_something_else_is_refused(source: object) -> None:
    with pytest.raises(ShapeError, match="batch 0 must be an array or tensor"):
        list(HiddenBatches(cast(HiddenSource, source)).batches(10))


@pytest.mark.parametrize("source", [np.zeros((0, 4)), [], [np.zeros((0, 4))]])
def test_a_source_without_rows_gives_no_batch(source: HiddenSource) -> None:
    assert list(HiddenBatches(source).batches(10)) == []
    assert shuffled(source, 10) == []


def test_a_npy_file_without_rows_gives_no_batch(tmp_path: Path) -> None:
    source = HiddenBatches(npy(tmp_path / "x.npy", np.zeros((0, 4))))
    assert (source.n_rows, source.n_dims, list(source.batches(10))) == (0, 4, [])


# files


def test_a_folder_is_read_in_name_order(tmp_path: Path) -> None:
    for name in ("b", "a", "c"):
        npy(tmp_path / f"{name}.npy", np.full((1, 1), ord(name), np.float32))
    (tmp_path / "readme.txt").write_text("not hidden states")
    assert read(tmp_path).flatten().tolist() == [ord(name) for name in "abc"]


def test_a_glob_is_read_in_name_order(tmp_path: Path) -> None:
    numbers = np.random.default_rng(0).permutation(50)
    for number in numbers:
        npy(tmp_path / f"{number:02}.npy", np.full((1, 1), number, np.float32))
    assert read(str(tmp_path / "*.npy")).flatten().tolist() == sorted(numbers)


def test_a_harvest_folder_of_one_layer_means_that_layer(tmp_path: Path) -> None:
    (tmp_path / "layer-15").mkdir()
    file = npy(tmp_path / "layer-15" / "x.npy", np.zeros((1, 1)))
    assert find_files(tmp_path) == [file]


def test_a_harvest_folder_of_several_layers_asks_for_one(tmp_path: Path) -> None:
    for layer in ("layer-3", "layer-15"):
        (tmp_path / layer).mkdir()
        npy(tmp_path / layer / "x.npy", np.zeros((1, 1)))
    with pytest.raises(FileError, match=r"several layers \(layer-15, layer-3\): name one"):
        HiddenBatches(tmp_path)


def test_a_folder_of_both_kinds_of_file_asks_for_one(tmp_path: Path) -> None:
    npy(tmp_path / "x.npy", np.zeros((1, 1)))
    shard(tmp_path / "x.safetensors", np.zeros((1, 1)))
    with pytest.raises(FileError, match=r"holds both \.npy and \.safetensors files: name one"):
        HiddenBatches(tmp_path)


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"holds no \.npy, \.safetensors or \.arrow file"):
        HiddenBatches(tmp_path)


@pytest.mark.parametrize("name", ["missing.npy", "missing-*.npy", "missing/"])
def test_a_path_that_matches_nothing_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(FileError, match=r"there is no file, folder or match for .*missing"):
        HiddenBatches(str(tmp_path / name))


def test_a_file_of_another_suffix_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.pt").write_bytes(b"")
    with pytest.raises(FormatError, match=r"x\.pt must end in \.npy, \.safetensors or \.arrow"):
        HiddenBatches(tmp_path / "x.pt")


@pytest.mark.parametrize("cut", [0, 4, 60, 130, -1])
@pytest.mark.parametrize("suffix", ["npy", "safetensors"])
def test_a_truncated_file_is_refused_in_one_line(
    rows: np.ndarray, tmp_path: Path, suffix: str, cut: int
) -> None:
    write = npy if suffix == "npy" else shard
    path = write(tmp_path / f"x.{suffix}", rows)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(FormatError, match=rf"is not a whole \.?{suffix} file") as raised:
        HiddenBatches(path)
    assert "\n" not in str(raised.value)


def test_shards_without_hidden_are_refused_and_their_tensors_listed(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1, 1), "b": torch.zeros(1, 1)}, tmp_path / "x.safetensors")
    with pytest.raises(FormatError, match=r'must hold a tensor "hidden" or one.*\[\'a\', \'b\'\]'):
        HiddenBatches(tmp_path / "x.safetensors")


def test_the_tensor_named_hidden_is_read_where_there_are_others(tmp_path: Path) -> None:
    tensors = {"a": torch.zeros(1, 1), "hidden": torch.ones(2, 1)}
    save_file(tensors, tmp_path / "x.safetensors")
    assert read(tmp_path / "x.safetensors").tolist() == [[1.0], [1.0]]


# streams


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_a_stream_of_every_npy_version_gives_its_rows(
    rows: np.ndarray, version: tuple[int, int]
) -> None:
    stream = NpyStream(cast(BinaryIO, OneByOne(npy_bytes(rows, version))))
    assert (stream.n_rows, stream.n_dims, stream.dtype) == (N, D, np.dtype(np.float16))
    np.testing.assert_array_equal(np.concatenate(list(stream)), rows, strict=True)


@pytest.mark.parametrize(("n_bytes", "row"), [(1, 599), (12, 599), (13, 598), (12 * 600, 0)])
def test_a_truncated_stream_names_the_row_where_it_ended(
    rows: np.ndarray, n_bytes: int, row: int
) -> None:
    stream = NpyStream(io.BytesIO(npy_bytes(rows)[:-n_bytes]))
    with pytest.raises(FormatError, match=f"ended in row {row} of 600"):
        list(stream)


@pytest.mark.parametrize("content", [b"", b"\x93NUM", b"hello, world", npy_bytes(np.ones(3))[:40]])
def test_a_stream_that_is_no_npy_is_refused_in_one_line(content: bytes) -> None:
    with pytest.raises(FormatError, match=r"the input is not a \.npy stream") as raised:
        NpyStream(io.BytesIO(content))
    assert "\n" not in str(raised.value)


def test_a_stream_in_fortran_order_is_refused(rows: np.ndarray) -> None:
    with pytest.raises(FormatError, match="must be C-ordered numbers: save it so"):
        NpyStream(io.BytesIO(npy_bytes(np.asfortranarray(rows))))


@pytest.mark.parametrize("shape", [(3,), (1, 2, 3), (3, 0)])
def test_a_stream_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match="hidden must"):
        NpyStream(io.BytesIO(npy_bytes(np.zeros(shape))))


@pytest.fixture(scope="module")
def npy_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("damaged") / "x.npy"


@settings(max_examples=80, derandomize=True)
@given(damage=st.dictionaries(st.integers(0, 110), st.integers(0, 255), min_size=1, max_size=3))
def test_a_damaged_npy_raises_only_errors_of_our_own(
    npy_path: Path, damage: dict[int, int]
) -> None:
    content = bytearray(npy_bytes(np.zeros((4, 3), np.float32)))
    for place, value in damage.items():
        content[place] = value
    npy_path.write_bytes(content)
    raised: list[Exception] = []
    for opened in (lambda: NpyStream(io.BytesIO(content)), lambda: npy_path):
        try:
            list(HiddenBatches(opened()).batches(10))
        except BitcodecError as error:
            raised.append(error)
    assert not any("\n" in str(error) for error in raised)


def test_many_files_are_not_all_kept_open(tmp_path: Path) -> None:
    for index in range(40):
        np.save(tmp_path / f"{index:03}.npy", np.full((2, 3), index, dtype=np.float32))
    before = len(list(Path("/proc/self/fd").iterdir()))
    batches = HiddenBatches(tmp_path)
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 2
    assert sum(len(batch) for batch in batches.batches(2)) == 80
