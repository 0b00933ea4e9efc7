"""Index folders: round trips, mapping, and every file that must be refused."""

from __future__ import annotations

import errno
import io
import json
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest

from bitcodec.errors import ConfigError, FileError, FormatError, MismatchError
from bitcodec_faiss import HammingIndex
from bitcodec_faiss.hashing import HashingWriter
from tests import edited
from tests.test_faiss_oracle import StubCodec, nearest, random_packed

KINDS = ["Flat", "IVF4", "HNSW8"]
N_BITS = 20


def make_index(factory: str = "Flat") -> HammingIndex:
    index = HammingIndex(StubCodec(N_BITS), factory=factory)
    ids = np.random.default_rng(2).permutation(3000)[:300]
    index.add_packed(random_packed(300, N_BITS, seed=1), ids=ids)
    return index


def edit_json(folder: Path, **changes: Any) -> None:
    edited.edit_json(folder / "index.json", **changes)


def test_an_index_to_which_smaller_ids_came_later_is_saved(tmp_path: Path) -> None:
    index = HammingIndex(StubCodec(N_BITS))
    for ids in ([5, 6], [1, 2]):
        index.add_packed(random_packed(2, N_BITS, seed=ids[0]), ids=ids)
    index.save(tmp_path / "index")
    loaded = HammingIndex.load(tmp_path / "index", StubCodec(N_BITS))
    np.testing.assert_array_equal(loaded.ids, [5, 6, 1, 2])
    assert json.loads((tmp_path / "index" / "index.json").read_text())["ids_ascending"] is False


@pytest.mark.parametrize("mmap", [False, True])
@pytest.mark.parametrize("factory", KINDS)
def test_a_loaded_index_answers_like_the_saved_one(
    factory: str, mmap: bool, tmp_path: Path
) -> None:
    index = make_index(factory)
    index.save(tmp_path / "index")
    loaded = HammingIndex.load(tmp_path / "index", StubCodec(N_BITS), mmap=mmap)
    queries = random_packed(9, N_BITS, seed=3)
    for options in ({}, {"filter": index.ids[::2]}, {"filter": index.ids[:7]}):
        before = index.search_packed(queries, k=20, **options)  # type: ignore[arg-type]
        after = loaded.search_packed(queries, k=20, **options)  # type: ignore[arg-type]
        np.testing.assert_array_equal(before.ids, after.ids)
        np.testing.assert_array_equal(before.scores, after.scores)
    near = [i.range_search_packed(queries, radius=6).ids for i in (index, loaded)]
    np.testing.assert_array_equal(near[0], near[1])
    np.testing.assert_array_equal(index.ids, loaded.ids)
    np.testing.assert_array_equal(
        index.reconstruct_packed(index.ids), loaded.reconstruct_packed(index.ids)
    )
    assert (len(loaded), loaded.factory) == (300, factory)


@pytest.mark.parametrize("factory", KINDS)
def test_a_loaded_index_grows_under_new_ids(factory: str, tmp_path: Path) -> None:
    index = make_index(factory)
    index.save(tmp_path / "index")
    loaded = HammingIndex.load(tmp_path / "index", StubCodec(N_BITS))
    added = loaded.add_packed(random_packed(2, N_BITS, seed=4))
    assert added.tolist() == [index.ids.max() + 1, index.ids.max() + 2]
    assert len(loaded) == 302


@pytest.mark.parametrize("factory", KINDS)
def test_an_empty_index_survives_saving(factory: str, tmp_path: Path) -> None:
    HammingIndex(StubCodec(N_BITS), factory=factory).save(tmp_path / "index")
    loaded = HammingIndex.load(tmp_path / "index", StubCodec(N_BITS))
    loaded.add_packed(random_packed(9, N_BITS, seed=4))
    assert loaded.ids.tolist() == list(range(9))


@pytest.mark.parametrize("factory", KINDS)
def test_a_mapped_index_cannot_be_changed_and_says_so(factory: str, tmp_path: Path) -> None:
    make_index(factory).save(tmp_path / "index")
    loaded = HammingIndex.load(tmp_path / "index", StubCodec(N_BITS), mmap=True)
    row = random_packed(1, N_BITS, seed=0)
    for change in (
        lambda: loaded.add_packed(row),
        lambda: loaded.add(np.ones((1, 16))),
        lambda: loaded.remove(loaded.ids[:1]),
        lambda: loaded.train(row),
    ):
        with pytest.raises(ConfigError, match="mmap=True cannot be changed"):
            change()


def test_mapping_leaves_the_rows_in_the_file(tmp_path: Path) -> None:
    make_index("Flat").save(tmp_path / "index")
    for mmap in (False, True):
        loaded = HammingIndex.load(tmp_path / "index", StubCodec(N_BITS), mmap=mmap)
        flat: Any = faiss.downcast_IndexBinary(loaded._rows.store.faiss_index.index)
        assert flat.xb.is_owned is not mmap


def test_faiss_alone_reads_the_file_with_its_ids(tmp_path: Path) -> None:
    index = make_index("Flat")
    index.save(tmp_path / "index")
    plain = faiss.read_index_binary(str(tmp_path / "index" / "index.faiss"))
    queries = random_packed(9, N_BITS, seed=3)
    scores, ids = plain.search(queries, 1)
    np.testing.assert_array_equal(scores, index.search_packed(queries, k=1).scores)
    assert np.isin(ids, index.ids).all()


def test_the_json_names_what_another_reader_needs(tmp_path: Path) -> None:
    index = make_index("IVF4")
    index.save(tmp_path / "index")
    content = json.loads((tmp_path / "index" / "index.json").read_text())
    assert content["format_version"] == 3
    assert content["bit_order"] == "little"
    assert content["fingerprint"] == StubCodec(N_BITS).fingerprint_
    assert (content["n_rows"], content["n_bits"], content["row_bytes"]) == (300, 20, 3)
    assert content["file_bytes"] == (tmp_path / "index" / "index.faiss").stat().st_size


def test_an_existing_folder_is_kept_unless_overwriting_is_allowed(tmp_path: Path) -> None:
    index = make_index()
    index.save(tmp_path / "index")
    index.add_packed(random_packed(1, N_BITS, seed=0))
    with pytest.raises(FileError, match="exists"):
        index.save(tmp_path / "index")
    assert len(HammingIndex.load(tmp_path / "index", StubCodec(N_BITS))) == 300
    index.save(tmp_path / "index", overwrite=True)
    assert len(HammingIndex.load(tmp_path / "index", StubCodec(N_BITS))) == 301


def test_a_full_disk_leaves_the_old_index_and_no_other_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = make_index()
    index.save(tmp_path / "index")

    def full(self: HashingWriter, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(HashingWriter, "write", full)
    with pytest.raises(FileError, match="no space left on the device"):
        index.save(tmp_path / "index", overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["index"]
    assert len(HammingIndex.load(tmp_path / "index", StubCodec(N_BITS))) == 300


def test_another_codecs_index_is_refused(tmp_path: Path) -> None:
    make_index().save(tmp_path / "index")
    with pytest.raises(MismatchError, match=r"was made with codec .*, got codec"):
        HammingIndex.load(tmp_path / "index", StubCodec(N_BITS, seed=1))


@pytest.mark.parametrize("n_bytes", [0, 10, -1])
def test_a_truncated_faiss_file_is_refused(n_bytes: int, tmp_path: Path) -> None:
    make_index().save(tmp_path / "index")
    path = tmp_path / "index" / "index.faiss"
    path.write_bytes(path.read_bytes()[:n_bytes])
    with pytest.raises(FormatError, match="it is truncated or foreign"):
        HammingIndex.load(tmp_path / "index", StubCodec(N_BITS))


def test_a_damaged_faiss_file_is_refused_before_faiss_reads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_index().save(tmp_path / "index")
    path = tmp_path / "index" / "index.faiss"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    monkeypatch.setattr(faiss, "read_index_binary", None)
    with pytest.raises(FormatError, match="is damaged: its SHA-256"):
        HammingIndex.load(tmp_path / "index", StubCodec(N_BITS))


def test_a_foreign_file_under_a_matching_hash_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "index"
    make_index().save(folder)
    foreign = b"not an index of FAISS at all"
    (folder / "index.faiss").write_bytes(foreign)
    writer = HashingWriter(io.BytesIO())
    edit_json(folder, file_bytes=writer.write(foreign), file_sha256=writer.sha256.hexdigest())
    with pytest.raises(FormatError, match="is damaged or foreign: it says"):
        HammingIndex.load(folder, StubCodec(N_BITS))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format_version": 5}, "has format_version 5, this version reads up to 4: upgrade"),
        ({"format_version": None}, "is no index of bitcodec: it has no format_version"),
        ({"factory": "LSH"}, "is damaged or foreign: factory must be"),
        ({"factory": "HNSW8"}, "it says .*IBxF.* where .*IBHf.* was expected"),
        ({"factory": "IVF4"}, "it says .*IBMp.* where .*IBwF.* was expected"),
        ({"n_rows": 299}, "it says .*300.* where .*299.* was expected"),
        ({"n_rows": "many"}, "n_rows must be int, got 'many'"),
        ({"colour": "red"}, "colour"),
        ({"bit_order": "most significant first"}, "bit_order must be"),
    ],
)
def test_a_json_that_says_otherwise_is_refused(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    make_index().save(tmp_path / "index")
    edit_json(tmp_path / "index", **changes)
    with pytest.raises(FormatError, match=message):
        HammingIndex.load(tmp_path / "index", StubCodec(N_BITS))


def test_a_missing_folder_or_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"there is no file .*index\.json"):
        HammingIndex.load(tmp_path / "nowhere", StubCodec(N_BITS))
    make_index().save(tmp_path / "index")
    (tmp_path / "index" / "index.faiss").unlink()
    with pytest.raises(FileError, match=r"there is no file .*index\.faiss"):
        HammingIndex.load(tmp_path / "index", StubCodec(N_BITS))


def test_a_mapped_index_keeps_answering_while_its_folder_is_replaced(tmp_path: Path) -> None:
    index = make_index()
    index.save(tmp_path / "index")
    mapped = HammingIndex.load(tmp_path / "index", StubCodec(N_BITS), mmap=True)
    packed, ids = index.reconstruct_packed(index.ids), index.ids
    index.remove(index.ids[:200])
    index.save(tmp_path / "index", overwrite=True)
    queries = random_packed(4, N_BITS, seed=3)
    wanted = nearest(queries, packed, ids, k=5)[1]
    np.testing.assert_array_equal(mapped.search_packed(queries, k=5).ids, wanted)
