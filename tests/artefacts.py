"""Small artefacts of every format, how they are made, and all that a reader gets out of them.

The golden files, the corruption tests and the fuzzers share these. `read` of an artefact returns
everything that its file says, as plain values, so that two readings can be compared.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bitcodec import BitCodec, feature_set_file, packed_files, report, storage
from bitcodec.batches import HiddenBatches, NpyStream
from bitcodec.checkpoints import CHECKPOINT_VERSION, Checkpoint
from bitcodec.config import CodecConfig
from bitcodec.feature_sets import FeatureSets
from bitcodec.range_coding import ContextTable, ProbabilityTable, compress, decompress
from bitcodec.statistics import BitStatistics
from bitcodec.storage import PackedWriter, open_packed, read_codec_header
from bitcodec_cli import sensing
from bitcodec_faiss import (
    AsymmetricIndex,
    HammingIndex,
    index_files,
    load_index,
    read_index_header,
)
from bitcodec_naming import Names, NamingSettings, name_features, token_judge
from bitcodec_naming import names as names_format
from bitcodec_transformers import manifest, read_rows
from bitcodec_transformers.documents import Document
from bitcodec_transformers.manifest import Counts, HarvestSettings, Manifest, load_manifest
from bitcodec_transformers.shards import HarvestFolder
from bitcodec_transformers.windows import RowTable
from bitcodec_zarr import PackedArchive, open_archive
from tests.naming_sources import at_tokens, word_rows
from tests.synthetic_report import synthetic_report

N_DIMS, N_BITS, N_ROWS = 6, 11, 24


@dataclass(frozen=True)
class Artefact:
    """A format: how to write an artefact of it, and how to read all of it."""

    write: Callable[[Path], None]
    """Write one to a path that does not exist."""
    read: Callable[[Path], Any]
    """Return its whole content as plain values."""
    is_folder: bool = False
    """Whether it is a folder rather than a file."""


@functools.cache
def hidden_rows() -> np.ndarray:
    """Make (64, 6) float32."""
    return np.random.default_rng(0).standard_normal((64, N_DIMS)).astype(np.float32)


CODECS = Path(__file__).parent / "golden" / "codecs"
"""Codecs of 11 bits for those 6 dimensions, fitted once in 3 steps of 16 rows (refine="none"; the
weighed one with a random matrix): what is made with them must not depend on how training rounds."""


@functools.cache
def small_codec(side_bytes: int = 0, *, weighed: bool = False) -> BitCodec:
    """Load one of these."""
    names = {(0, False): "plain", (4, False): "factor-and-norm", (0, True): "weighed"}
    name = names[side_bytes, weighed]
    return BitCodec.load(CODECS / name, device="cpu")


@functools.cache
def packed_rows(side_bytes: int = 0) -> np.ndarray:
    """Encode the first rows."""
    return small_codec(side_bytes).encode(hidden_rows()[:N_ROWS])


# codecs and checkpoints


def write_codec(path: Path, *, weighed: bool = False) -> None:
    small_codec(weighed=weighed).save(path)


def read_codec(path: Path) -> Any:
    codec = BitCodec.load(path, device="cpu")
    weights = [tensor.tobytes() for _, tensor in sorted(codec._tensors().items())]
    return asdict(read_codec_header(path)), weights, codec.encode(hidden_rows()[:4]).tobytes()


CHECKPOINT_CONFIG = CodecConfig(
    n_bits=N_BITS, n_steps=3, batch_size=16, refine="none", device="cpu"
)


def write_checkpoint(path: Path) -> None:
    codec = BitCodec().set_params(**asdict(CHECKPOINT_CONFIG))
    codec.fit(hidden_rows(), checkpoint=path, checkpoint_every=2)


def read_checkpoint(path: Path) -> Any:
    state = Checkpoint(path, every=1).load(CHECKPOINT_CONFIG)
    assert state is not None
    return {name: (str(value.dtype), value.tolist()) for name, value in state.items()}


# codes


def write_packed(path: Path) -> None:
    path.mkdir()
    with PackedWriter(path / "codes.npy", n_bits=N_BITS, fingerprint="f" * 64) as writer:
        writer.append(packed_rows())


def read_packed(path: Path) -> Any:
    header, packed = open_packed(path / "codes.npy", fingerprint="f" * 64)
    return asdict(header), packed[:].tobytes()


@functools.cache
def tables() -> dict[str, ProbabilityTable | ContextTable]:
    """Make a table of each kind."""
    rows, generator = packed_rows(), np.random.default_rng(2)
    within, across = generator.integers(-20, 20, (2, N_BITS, N_BITS), dtype=np.int8)
    bias = generator.integers(-80, 20, N_BITS, dtype=np.int16)
    statistics = BitStatistics.empty(N_BITS).update(rows)
    return {
        "independent": ProbabilityTable.from_statistics(statistics),
        "profiles": ProbabilityTable.learn(rows, n_bits=N_BITS, n_profiles=3),
        "context": ContextTable(bias=bias, within=np.triu(within, 1), across=across),
    }


def write_compressed(path: Path, *, kind: str, side_bytes: int) -> None:
    rows = packed_rows(side_bytes)
    path.write_bytes(compress(rows, tables()[kind], side_bytes=side_bytes, block_rows=10))


def read_compressed(path: Path) -> Any:
    return decompress(path.read_bytes()).tobytes()


def write_archive(path: Path) -> None:
    archive = PackedArchive.create(path, small_codec(4), chunk_rows=4, shard_rows=8)
    archive.append(packed_rows(4)[:20])


def read_archive(path: Path) -> Any:
    archive = open_archive(path)
    return archive.n_rows, asdict(archive.header), archive[:].tobytes()


# indexes and sets


def write_index(path: Path, *, factory: Any) -> None:
    index = HammingIndex(small_codec(), factory=factory)
    index.add_packed(packed_rows(), ids=np.arange(N_ROWS) * 3 + 5)
    index.save(path)


def write_asymmetric(path: Path, *, factory: str) -> None:
    index = AsymmetricIndex(small_codec(4), factory=factory)
    index.add_packed(packed_rows(4), ids=np.arange(N_ROWS) * 3 + 5)
    index.save(path)


def read_index(path: Path) -> Any:
    header = read_index_header(path)
    side_bytes = 0 if header.metric == "hamming" else 4
    index = load_index(path, small_codec(side_bytes))
    ids = np.sort(index._rows.store.ids)
    found = index.search(hidden_rows()[:3], k=min(5, max(len(index), 1)))
    answers = found.ids.tolist(), found.scores.tolist()
    return asdict(header), ids.tolist(), index.reconstruct_packed(ids).tobytes(), answers


def write_features(path: Path) -> None:
    FeatureSets.write(path, packed_rows(), n_bits=N_BITS, fingerprint="f" * 64)


def read_features(path: Path) -> Any:
    sets = FeatureSets.open(path)
    rows = [each.rows().tolist() for each in sets]
    return sets.n_rows, sets.n_bits, sets.fingerprint, sets.counts.tolist(), rows


# hidden states and what errors of them cost


def write_sensitivity(path: Path) -> None:
    gradients = np.random.default_rng(1).standard_normal((3, N_DIMS))
    said = {"model": {"name": "none", "digest": "0" * 64}, "layer": 2, "n_tokens": 3}
    sensing.write_sensitivity(path, gradients.T @ gradients, said, overwrite=False)


def read_sensitivity(path: Path) -> Any:
    matrix, said = sensing.open_sensitivity(path)
    return said, matrix.tobytes()


def write_harvest(path: Path, *, file_format: Any = "safetensors") -> None:
    folder = HarvestFolder(path, wanted_harvest(file_format))
    documents = [Document(f"text {i}", "abcdefgh" * 3) for i in range(2)]
    for number, document in enumerate(documents):
        states = torch.from_numpy(hidden_rows()[number * 12 : number * 12 + 12]).half()
        folder.save_unit(
            {0: states},
            row_table(number, n_rows=12),
            counts=Counts(n_documents=1, n_tokens=12, n_rows=12),
            documents=[document],
            documents_sha256=str(number),
            median_norms={0: 2.5},
        )
    folder.finish(counts=Counts(), documents=[], documents_sha256="1")


def wanted_harvest(file_format: Any = "safetensors") -> Manifest:
    """Make the manifest of a harvest that has not begun."""
    settings = HarvestSettings(layers=(0,), dtype="float16", file_format=file_format)
    return Manifest(settings, {"name": "none", "digest": "0"}, {"python": "3"}, N_DIMS)


def row_table(document: int, *, n_rows: int) -> RowTable:
    """Make the rows of a document whose tokens have two characters each."""
    number = np.arange(n_rows, dtype=np.int32)
    return RowTable(
        document=np.full(n_rows, document, dtype=np.int64),
        token_id=number,
        position=number + 1,
        start=2 * number,
        end=2 * number + 2,
    )


def read_harvest(path: Path) -> Any:
    rows = read_rows(path)
    contexts = [(rows.document_id(i), tuple(rows.context(i, 4))) for i in range(len(rows))]
    columns = [rows.column(name).tolist() for name in ("document", "token_id", "position")]
    hidden = [batch.numpy().tobytes() for batch in HiddenBatches(path).batches(5)]
    return load_manifest(path).to_json(), contexts, columns, hidden


def write_stream(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, hidden_rows()[:9])


def read_stream(path: Path) -> Any:
    stream = NpyStream(io.BytesIO(path.read_bytes()))
    return [batch.tolist() for batch in HiddenBatches(stream).batches(5)]


# reports and names


def write_report(path: Path) -> None:
    synthetic_report(4, n_rows=40).save(path)


def read_report(path: Path) -> Any:
    return report.Report.load(path).to_dict()


def write_names(path: Path) -> None:
    source = at_tokens(word_rows(600, n_documents=6), [" is"], [" a", " the"])
    settings = NamingSettings(n_named=3, n_tested=2)
    name_features(source, token_judge(), settings=settings).save(path)


def read_names(path: Path) -> Any:
    names = Names.load(path)
    return names.to_dict(), names.mean_score(), names.mean_control(), len(names.counts())


ARTEFACTS = {
    "codec": Artefact(write_codec, read_codec, is_folder=True),
    "codec-weighed": Artefact(
        functools.partial(write_codec, weighed=True), read_codec, is_folder=True
    ),
    "checkpoint": Artefact(write_checkpoint, read_checkpoint),
    "packed": Artefact(write_packed, read_packed, is_folder=True),
    "compressed": Artefact(
        functools.partial(write_compressed, kind="independent", side_bytes=0), read_compressed
    ),
    "compressed-profiles": Artefact(
        functools.partial(write_compressed, kind="profiles", side_bytes=4), read_compressed
    ),
    "compressed-context": Artefact(
        functools.partial(write_compressed, kind="context", side_bytes=4), read_compressed
    ),
    "archive": Artefact(write_archive, read_archive, is_folder=True),
    "index-flat": Artefact(
        functools.partial(write_index, factory="Flat"), read_index, is_folder=True
    ),
    "index-ivf": Artefact(
        functools.partial(write_index, factory="IVF3"), read_index, is_folder=True
    ),
    "index-hnsw": Artefact(
        functools.partial(write_index, factory="HNSW4"), read_index, is_folder=True
    ),
    "index-asymmetric": Artefact(
        functools.partial(write_asymmetric, factory="Flat"), read_index, is_folder=True
    ),
    "index-asymmetric-ivf": Artefact(
        functools.partial(write_asymmetric, factory="IVF3"), read_index, is_folder=True
    ),
    "features": Artefact(write_features, read_features),
    "sensitivity": Artefact(write_sensitivity, read_sensitivity),
    "harvest": Artefact(write_harvest, read_harvest, is_folder=True),
    "harvest-npy": Artefact(
        functools.partial(write_harvest, file_format="npy"), read_harvest, is_folder=True
    ),
    "npy-stream": Artefact(write_stream, read_stream),
    "report": Artefact(write_report, read_report),
    "names": Artefact(write_names, read_names),
}
"""Every format by name."""

VERSIONS = {
    "codec": storage.FORMAT_VERSION,
    "codec-weighed": storage.FORMAT_VERSION,
    "packed": packed_files.PACKED_VERSION,
    "checkpoint": CHECKPOINT_VERSION,
    "index-flat": 3,
    "index-ivf": 3,
    "index-hnsw": 3,
    "index-asymmetric": 3,
    "index-asymmetric-ivf": index_files.FORMAT_VERSION,
    "features": feature_set_file.VERSION,
    "sensitivity": sensing.FORMAT_VERSION,
    "harvest": manifest.FORMAT_VERSION,
    "harvest-npy": manifest.FORMAT_VERSION,
    "report": report.VERSION,
    "names": names_format.VERSION,
}
"""The version of each format that is written; those of range coding are tested beside it."""
