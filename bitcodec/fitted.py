"""What a fitted codec does: encode, decode, score, measure, and live in a folder."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Self

import numpy as np
import torch

from bitcodec import range_coding, storage
from bitcodec.batches import HiddenBatches, HiddenSource, check_floating, finite_float32
from bitcodec.bits import row_bytes, unpack
from bitcodec.coder import PackedCoder, Search
from bitcodec.config import CodecConfig, Refine
from bitcodec.context_search import BLOCK_ROWS, ContextSearch
from bitcodec.context_table import ContextTable
from bitcodec.devices import resolve_device
from bitcodec.errors import ConfigError, NotFittedError, ShapeError
from bitcodec.evaluation import evaluate_coder
from bitcodec.files import PathLike
from bitcodec.metrics import Evaluation
from bitcodec.model import BinaryAutoencoder
from bitcodec.parameters import Parameters
from bitcodec.pickling import restored_folder, saved_files
from bitcodec.probability import Buffer, ProbabilityTable
from bitcodec.refine import Refiner, rate_prices
from bitcodec.scoring import QueryWeights, Side
from bitcodec.statistics import BitStatistics
from bitcodec.tables import Table
from bitcodec.tensors import model_of, tensors_of
from bitcodec.training import TrainingRecord

STREAM_ROWS = 4096
"""Rows of a batch when a source is encoded as a stream."""


class FittedCodec(Parameters):
    """Map between hidden states and packed rows; `BitCodec` adds how this is learned."""

    _packed_coder: PackedCoder | None = None
    _cached_refiner: Refiner | None = None
    _settings: CodecConfig
    history_: list[TrainingRecord]

    # encoding and decoding

    def encode(
        self,
        hidden: HiddenSource,
        *,
        refine: Refine | int | None = None,
        context: ContextTable | None = None,
    ) -> np.ndarray:
        """Encode hidden states into packed rows.

        Args:
            hidden: (..., d) array or tensor of floats; or a source as `fit` takes it, all of whose
                codes are then returned together.
            refine: how long to search for better codes after the linear pass: "none", "fast",
                "best" or a number of repair passes; None means the parameter `refine`.
            context: search again at what bits cost under this table: less error in about as many
                bytes, in 8 to 20 times the time. The rows must follow one another; every 1,024 a
                block begins, and a row's code then depends on its block.

        Returns:
            (..., row_bytes_) uint8, leading axes as in `hidden`, bits least significant first.

        Raises:
            NotFittedError: the codec was not fitted.
            ShapeError: the width is not d, or the table is of another number of bits.
            ValueRangeError: a value is not a finite float.
            ConfigError: there is a table that is no context table, or refine is "none", or the
                codec gives bits no price.
        """
        encode = self._encoder(refine, context)
        if not isinstance(hidden, (np.ndarray, torch.Tensor)):
            batches = self.encode_batches(hidden, refine=refine, context=context)
            return np.concatenate([np.empty((0, self.row_bytes_), np.uint8), *batches])
        self._check_width(tuple(hidden.shape))
        check_floating(hidden)
        rows = hidden.reshape(-1, self.n_dims_)
        packed = np.empty((len(rows), self.row_bytes_), dtype=np.uint8)
        for start in range(0, len(rows), STREAM_ROWS):
            batch = finite_float32(rows[start : start + STREAM_ROWS], first_row=start)
            packed[start : start + STREAM_ROWS] = encode(batch, start)
        return packed.reshape(*hidden.shape[:-1], self.row_bytes_)

    def encode_batches(
        self,
        hidden: HiddenSource,
        *,
        refine: Refine | int | None = None,
        context: ContextTable | None = None,
        batch_size: int = STREAM_ROWS,
    ) -> Iterator[np.ndarray]:
        """Encode a source as a stream.

        Args:
            hidden: a source as `fit` takes it; here it may also be a generator.
            refine: as in `encode`.
            context: as in `encode`.
            batch_size: the most rows of a batch; with a table, rounded up to whole blocks.

        Yields:
            (b, row_bytes_) uint8, in the source's order.

        Raises:
            As `encode`.
        """
        encode = self._encoder(refine, context)
        source, n_rows = HiddenBatches(hidden, n_dims=self.n_dims_), 0
        batches = source.batches(batch_size)
        if context is not None:
            batches = source.whole_batches(-(-batch_size // BLOCK_ROWS) * BLOCK_ROWS)
        for batch in batches:
            yield encode(batch, n_rows)
            n_rows += len(batch)

    def encode_bits(
        self, hidden: HiddenSource, *, refine: Refine | int | None = None
    ) -> np.ndarray:
        """Encode hidden states into one byte a bit.

        Args:
            hidden: as in `encode`.
            refine: as in `encode`.

        Returns:
            (..., n_bits_) uint8, values 0 or 1.

        Raises:
            As `encode`.
        """
        packed = self.encode(hidden, refine=refine)
        codes = self._codes(packed.reshape(-1, self.row_bytes_))
        return unpack(codes, n_bits=self.n_bits_).reshape(*packed.shape[:-1], self.n_bits_)

    def decode(self, packed: np.ndarray) -> np.ndarray:
        """Decode packed rows into approximate hidden states.

        Args:
            packed: (..., row_bytes_) uint8.

        Returns:
            (..., d) float32, leading axes as in `packed`.

        Raises:
            NotFittedError: the codec was not fitted.
            ShapeError: the width is not row_bytes_.
            ValueRangeError: the dtype is not uint8, or a pad bit is set.
        """
        coder, rows = self._coder(), self._check_packed(packed)
        hidden = coder.decode(rows.reshape(-1, self.row_bytes_))
        return hidden.reshape(*rows.shape[:-1], self.n_dims_)

    def query_weights(self, queries: np.ndarray | torch.Tensor) -> QueryWeights:
        """Turn float queries into weights of the bits, for exact scores of packed rows.

        Args:
            queries: (q, d) floats.

        Returns:
            What `bitcodec.scoring` takes: <q, x> of a row is base + factor * (bias + weights b),
            the unbiased estimate where rows have a factor, else <q, decoded row>.

        Raises:
            NotFittedError: the codec was not fitted.
            ShapeError: the width is not d.
            ValueRangeError: a value is not a finite float.
        """
        coder = self._coder()
        self._check_width(tuple(queries.shape))
        return coder.query_weights(finite_float32(queries.reshape(-1, self.n_dims_)))

    def side(self, packed: np.ndarray) -> Side:
        """Read the factors and squared norms of packed rows, which scores need beside the bits.

        Args:
            packed: (n, row_bytes_) uint8.

        Returns:
            Factors, 1 without side bytes; and |x|^2: exact to half a float's digits with 4 side
            bytes, else estimated from the code.

        Raises:
            NotFittedError: the codec was not fitted.
            ShapeError: the shape is another.
            ValueRangeError: the dtype is not uint8, a pad bit is set, or side bytes are damaged.
        """
        return self._coder().side(self._check_packed(packed))

    def transform(self, hidden: HiddenSource) -> np.ndarray:
        """Encode, under the name scikit-learn uses."""
        return self.encode(hidden)

    def inverse_transform(self, packed: np.ndarray) -> np.ndarray:
        """Decode, under the name scikit-learn uses."""
        return self.decode(packed)

    def evaluate(self, hidden: HiddenSource, *, refine: Refine | int | None = None) -> Evaluation:
        """Measure rate and distortion on hidden states, best on rows the fit did not see.

        Args:
            hidden: a source as `fit` takes it; read once, as a stream.
            refine: as in `encode`.

        Raises:
            NotFittedError: the codec was not fitted.
            ShapeError: the width is not d, or there are no rows.
            ValueRangeError: a value is not a finite float, or the rows do not differ.
        """
        coder, encode = self._coder(), self._encoder(refine)
        batches = HiddenBatches(hidden, n_dims=self.n_dims_).batches(STREAM_ROWS)
        return evaluate_coder(coder, batches, encode=encode, counted=self._counted)

    # compressing

    def compress(self, packed: np.ndarray, *, table: Table | None = None) -> bytes:
        """Code packed rows near their entropy.

        Args:
            packed: (n, row_bytes_) uint8.
            table: probabilities of the bits, which are put into the result; see
                `bitcodec.range_coding.learn_context`. None means those of the codec's statistics,
                which the codec has.

        Returns:
            Bytes for `decompress`; see `bitcodec.range_coding`.

        Raises:
            NotFittedError: the codec was not fitted.
            ShapeError: the width is not that of the codec's rows, or of the table's bits.
            ValueRangeError: the dtype is not uint8, or a pad bit is set.
        """
        self._coder()
        rows, own = self._check_packed(packed), table is not None
        known = table or ProbabilityTable.from_statistics(self._counted)
        return range_coding.compress(rows, known, side_bytes=self.side_bytes_, embed_table=own)

    def decompress(self, data: Buffer) -> np.ndarray:
        """Decode what `compress` of the same codec made.

        Args:
            data: the bytes; a memory map will do.

        Returns:
            (n, row_bytes_) uint8.

        Raises:
            NotFittedError: the codec was not fitted.
            FormatError: the data are truncated, foreign, damaged or of a newer format.
            MismatchError: another codec made the data; where they have a table of their own, that
                is seen only by other numbers of bits and side bytes.
        """
        self._coder()
        known = ProbabilityTable.from_statistics(self._counted)
        row = self.n_bits_, self.side_bytes_
        return range_coding.decompress(data, table=known, row=row)

    # files

    def save(self, folder: PathLike, *, overwrite: bool = False) -> None:
        """Write the codec as a folder of config.json and model.safetensors.

        Args:
            folder: appears whole or not at all; its parent must exist.
            overwrite: replace an existing codec folder.

        Raises:
            NotFittedError: the codec was not fitted.
            FileError: the folder exists, or cannot be written.
        """
        self._coder()
        header = storage.CodecHeader(
            n_dims=self.n_dims_,
            n_bits=self.n_bits_,
            n_rows=self._counted.n_rows,
            entropy_bits=self._counted.entropy_bits,
            fingerprint=self.fingerprint_,
            parameters=self._settings,
            provenance=self.provenance_,
            training=self._training,
        )
        storage.save_codec(folder, header, self._tensors(), overwrite=overwrite)

    @classmethod
    def load(cls, folder: PathLike, *, device: str = "auto") -> Self:
        """Read a codec folder.

        Args:
            folder: written by `save`.
            device: where the codec is to compute.

        Raises:
            FileError: there is no such folder.
            FormatError: a file is foreign, damaged or of a newer format.
        """
        header, tensors = storage.load_codec(folder)
        codec = cls(**{**header.parameters.to_dict(), "device": device})
        model = model_of(header, tensors, where=folder).to(resolve_device(device))
        codec.history_, codec._settings = [], header.parameters
        statistics = BitStatistics(n_rows=header.n_rows, counts=tensors["counts"])
        codec._adopt(model, statistics, header.provenance, training=header.training)
        return codec

    def __getstate__(self) -> dict[str, Any]:
        """Give what `save` writes, and the parameters and records as plain values.

        A training by `partial_fit` goes on after unpickling as it does after `load`.
        """
        fitted = self._packed_coder is not None
        return {
            "parameters": self.get_params(),
            "files": saved_files(self.save) if fitted else None,
            "history": [dataclasses.astuple(record) for record in self.history_] if fitted else [],
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take a state as `load` takes a folder, with the same checks."""
        if state["files"] is not None:
            with restored_folder(state["files"]) as folder:
                loaded = type(self).load(folder, device=state["parameters"]["device"])
            self.__dict__.update(loaded.__dict__)
            self.history_ = [TrainingRecord(*record) for record in state["history"]]
        self.__dict__.update(state["parameters"])

    # inside

    def _adopt(
        self,
        model: BinaryAutoencoder,
        statistics: BitStatistics,
        provenance: dict[str, Any],
        *,
        training: dict[str, Any],
    ) -> None:
        self._model = copy.deepcopy(model)  # training goes on without changing the codec
        side_bytes = self._settings.side_bytes
        self._packed_coder = PackedCoder(model, side_bytes=side_bytes, precision=self.compute)
        self._cached_refiner = None
        self._counted = statistics
        # A copy: whoever updates it must not change what is saved under the fingerprint.
        self.statistics_ = dataclasses.replace(statistics, counts=statistics.counts.copy())
        self._training = training
        self.provenance_ = provenance
        self.n_dims_ = model.n_dims
        self.n_bits_ = model.n_bits
        self.side_bytes_ = side_bytes
        self.row_bytes_ = self._packed_coder.row_bytes
        self.fingerprint_ = storage.fingerprint(self._tensors())

    def _tensors(self) -> dict[str, np.ndarray]:
        return tensors_of(self._model, self._counted.counts)

    def _coder(self) -> PackedCoder:
        if self._packed_coder is None:
            raise NotFittedError("this codec was not fitted: call fit, or BitCodec.load a folder")
        if self._packed_coder.precision != self.compute:  # the parameter was set anew
            self._packed_coder = PackedCoder(
                self._model, side_bytes=self.side_bytes_, precision=self.compute
            )
        return self._packed_coder

    def _encoder(
        self, refine: Refine | int | None, context: ContextTable | None = None
    ) -> Callable[[torch.Tensor, int], np.ndarray]:
        """Return the map from a checked batch, and its first row's number, to packed rows."""
        coder = self._coder()
        search = self._search(self.refine if refine is None else refine, context)
        return lambda batch, first_row: coder.encode(batch, search=search, first_row=first_row)

    def _search(self, effort: Refine | int, context: ContextTable | None) -> Search | None:
        if context is None:
            return None if effort == "none" else partial(self._refiner().refine, effort=effort)
        weight = self._settings.entropy_weight
        if effort == "none" or weight == 0:
            raise ConfigError(
                "a context table prices the bits of a search, got "
                f"refine={effort!r} and a codec of entropy_weight {weight:g}: take a codec of "
                'preset "archive", or leave the table'
            )
        refiner = self._refiner()
        in_context = ContextSearch(refiner, context, entropy_weight=weight)
        return lambda rows, bits: in_context.refine(
            rows, refiner.refine(rows, bits, effort=effort), effort=effort
        )

    def _codes(self, packed: np.ndarray) -> np.ndarray:
        """Return (n, ceil(h / 8)), rows without their side bytes."""
        return packed[:, : row_bytes(self.n_bits_)]

    def _check_packed(self, packed: np.ndarray) -> np.ndarray:
        rows = np.asarray(packed)
        if rows.ndim == 0 or rows.shape[-1] != self.row_bytes_:
            raise ShapeError(
                f"packed must be (n, {self.row_bytes_}), got {rows.shape}: this codec has "
                f"{self.n_bits_} bits and {self.side_bytes_} side bytes"
            )
        return rows

    def _refiner(self) -> Refiner:
        if self._cached_refiner is None:
            model = self._model
            weight, bias = model.weigh(model.decoder_weight), model.weigh(model.decoder_bias)
            self._cached_refiner = Refiner(weight, bias, price=self._prices())
        return self._cached_refiner

    def _prices(self) -> np.ndarray:
        """Return what turning each bit on costs where codes are searched for, (h,) float64."""
        return rate_prices(
            self._counted.counts,
            self._counted.n_rows,
            entropy_weight=self._settings.entropy_weight,
        )

    def _check_width(self, shape: tuple[int, ...]) -> None:
        if len(shape) == 0 or shape[-1] != self.n_dims_:
            raise ShapeError(
                f"hidden must be (n, {self.n_dims_}), got {shape}: this codec was fitted on "
                f"{self.n_dims_} dimensions"
            )
