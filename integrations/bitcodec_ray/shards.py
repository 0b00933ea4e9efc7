"""Rows to packed shards: each worker reads, encodes and writes shards of its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import ray.data

from bitcodec import BitCodec
from bitcodec.config import Refine
from bitcodec.errors import BitcodecError, ConfigError, FileError, MismatchError, ShapeError
from bitcodec.files import PathLike
from bitcodec_ray.failures import keeping_errors, raising_own_errors
from bitcodec_ray.journal import Job, Journal, Shard, is_done
from bitcodec_ray.preflight import require_package
from bitcodec_ray.protocol import Output, Rows
from bitcodec_ray.shipping import ShippedCodec
from bitcodec_ray.sources import identity_of, open_rows
from bitcodec_ray.workers import Workers

STREAM_ROWS = 4096
"""Rows that `BitCodec.encode_batches` encodes at a time; see `_Encoder`."""


def encode_rows(
    source: Rows | PathLike | Sequence[PathLike],
    codec: BitCodec,
    output: Output,
    *,
    column: str = "hidden",
    workers: Workers | None = None,
    refine: Refine | int | None = None,
    journal: PathLike | None = None,
) -> int:
    """Encode rows into an archive or a folder of Parquet, in order.

    Workers read, encode and write whole shards; no row passes through Ray. A worker that dies is
    replaced and its shard done again. Nothing is visible until all shards are written. Rows have
    the codes that one process gives them.

    Args:
        source: what `open_rows` takes.
        codec: fitted.
        output: of the codec, to be seen by all workers: a `PackedParquet`, or an archive of
            `bitcodec_zarr` whose visible rows are whole shards.
        column: of Parquet, with the vectors.
        workers: how many there are, and what each may use.
        refine: as in `BitCodec.encode`.
        journal: a file that notes the shards that are done, so that the same call after a stop goes
            on behind them; it is removed at the end. Without one everything is done again.

    Returns:
        The rows that were encoded.

    Raises:
        MismatchError: the output is of another codec, or the journal of another job.
        ConfigError: the output's visible rows are not whole shards.
        ShapeError: the source's width is not the codec's, or it has no rows.
        ValueRangeError: a value is NaN or infinite; names the rows.
        FileError: the source cannot be read, or the output not be written, or another run has it
            or the journal.
        MissingExtraError: a worker cannot import this package.
    """
    rows, asked = open_rows(source, column=column), workers or Workers()
    refine = codec.refine if refine is None else refine  # which the codec's files do not know
    job = _job(rows, codec, output, refine)
    if is_done(journal, job):
        Path(str(journal)).unlink()
        return job.n_rows
    _require_whole_shards(output)
    with output.alone(), Journal(journal, job) as kept:
        missing = [index for index in _indexes(job) if index not in kept.done]
        if missing:
            require_package()
            with raising_own_errors():
                encoder = _arguments(rows, ShippedCodec.of(codec), output, job, refine, asked)
                for shard in _run(missing, encoder, asked):
                    kept.add(shard)
        output.commit([kept.done[index] for index in _indexes(job)])
        kept.remove()
    return job.n_rows


def _job(rows: Rows, codec: BitCodec, output: Output, refine: Refine | int) -> Job:
    if output.fingerprint != codec.fingerprint_:
        raise MismatchError(
            f"the output takes codes of codec {output.fingerprint[:12]}, not of "
            f"{codec.fingerprint_[:12]}: make an output with this codec"
        )
    if not len(rows):
        raise ShapeError("the source has no rows")
    shape = np.shape(rows[:1])
    if shape[1:] != (codec.n_dims_,):
        raise ShapeError(f"hidden must be (n, {codec.n_dims_}), got rows of {shape[1:]}")
    return Job(
        source=identity_of(rows),
        n_rows=len(rows),
        first_row=output.n_rows,
        shard_rows=output.shard_rows,
        fingerprint=codec.fingerprint_,
        refine=str(refine),
    )


def _require_whole_shards(output: Output) -> None:
    if output.n_rows % output.shard_rows:
        raise ConfigError(
            f"shards follow whole shards, but the output's {output.n_rows} rows are no multiple of "
            f"{output.shard_rows}: write to another output"
        )


def _indexes(job: Job) -> range:
    """Return the output's numbers of the job's shards."""
    first = job.first_row // job.shard_rows
    return range(first, first + -(-job.n_rows // job.shard_rows))


def _arguments(
    rows: Rows,
    codec: ShippedCodec,
    output: Output,
    job: Job,
    refine: Refine | int,
    workers: Workers,
) -> dict[str, Any]:
    # One copy in the object store for all workers, however many restarts there are.
    shared = {name: ray.put(value) for name, value in (("rows", rows), ("codec", codec))}
    return shared | {"output": output, "job": job, "refine": refine, "workers": workers}


def _run(missing: list[int], arguments: dict[str, Any], workers: Workers) -> Iterator[Shard]:
    # A block a shard: what is lost with a worker is what it was doing.
    shards = ray.data.from_items(
        [{"index": index} for index in missing], override_num_blocks=len(missing)
    )
    done = shards.map_batches(
        _Encoder, batch_size=1, fn_constructor_kwargs=arguments, **workers.options()
    )
    for row in keeping_errors(done).iter_rows():
        yield Shard(int(row["index"]), int(row["n_rows"]))


class _Encoder:
    """An actor that does shards, one at a time."""

    def __init__(
        self,
        *,
        rows: Any,
        codec: Any,
        output: Output,
        job: Job,
        refine: Refine | int,
        workers: Workers,
    ) -> None:
        self._rows: Rows = ray.get(rows)
        self._codec: BitCodec = ray.get(codec).load(workers)
        self._output, self._job, self._refine = output, job, refine

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        written = [self._do(int(index)) for index in batch["index"]]
        return {"index": batch["index"], "n_rows": np.array(written, dtype=np.int64)}

    def _do(self, index: int) -> int:
        job = self._job
        start = index * job.shard_rows - job.first_row
        stop = min(start + job.shard_rows, job.n_rows)
        packed = np.concatenate(list(self._encoded(start, stop)))
        try:
            self._output.write_shard(index, packed)
        except OSError as error:
            if isinstance(error, FileError):
                raise
            raise FileError(f"shard {index} cannot be written: {error}; run again") from error
        return len(packed)

    def _encoded(self, start: int, stop: int) -> Iterator[np.ndarray]:
        # Cut at the rows where one process cuts its stream, so that every product has the shape,
        # and every logit the rounding, that it has there.
        ends = [*range(start - start % STREAM_ROWS + STREAM_ROWS, stop, STREAM_ROWS), stop]
        for first, last in zip([start, *ends], ends, strict=False):
            rows = np.asarray(self._rows[first:last])
            try:
                yield from self._codec.encode_batches([rows], refine=self._refine)
            except BitcodecError as error:
                raise type(error)(f"rows {first} to {last} of the source: {error}") from error
