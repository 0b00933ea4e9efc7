"""What a fitted codec tells of its features."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch

from bitcodec.batches import HiddenBatches, HiddenSource
from bitcodec.bits import unpack
from bitcodec.config import Refine
from bitcodec.errors import ShapeError
from bitcodec.feature_sets import FeatureSets
from bitcodec.fitted import STREAM_ROWS
from bitcodec.linear_maps import LinearMaps, linear_maps
from bitcodec.report import CodecFacts, Report, ReportSettings
from bitcodec.reporting import Subject, measure_report
from bitcodec.resident import ResidentCodec
from bitcodec.row_texts import RowTexts, check_aligned
from bitcodec.statistics import burstiness


class ReportedCodec(ResidentCodec):
    """Report on what a codec has learned."""

    def burstiness(self, packed: np.ndarray) -> np.ndarray:
        """Return how surprising each bit of packed rows is, log2 |b - p|.

        Args:
            packed: (..., row_bytes_) uint8.

        Returns:
            (..., n_bits_) float64, at most 0; see `bitcodec.statistics.burstiness`.

        Raises:
            NotFittedError: the codec was not fitted.
            ShapeError: the shape is another.
            ValueRangeError: the dtype is not uint8, or a pad bit is set.
        """
        self._coder()
        rows = self._check_packed(packed)
        bits = unpack(self._codes(rows.reshape(-1, self.row_bytes_)), n_bits=self.n_bits_)
        return burstiness(bits, self.statistics_.activity).reshape(*rows.shape[:-1], self.n_bits_)

    def report(
        self,
        hidden: HiddenSource,
        *,
        text: RowTexts | None = None,
        packed: np.ndarray | None = None,
        settings: ReportSettings | None = None,
        refine: Refine | int | None = None,
        on_rows: Callable[[int], None] | None = None,
    ) -> Report:
        """Measure what the codec does to hidden states and what its features are on at.

        Args:
            hidden: a source as `fit` takes it; read once, as a stream.
            text: where each row comes from, as `bitcodec_transformers.read_rows` or
                `bitcodec.TokenTexts` tell; None reports without texts.
            packed: (n, row_bytes_) uint8, the codes of `hidden`, where they are at hand; a memory
                map will do.
            settings: how much to show; see `ReportSettings`.
            refine: as in `encode`.
            on_rows: called with the number of rows done, now and then.

        Returns:
            The report. Memory grows with the rows by their codes and some 60 bytes each.

        Raises:
            NotFittedError: the codec was not fitted.
            ConfigError: `text` is nothing that tells where rows come from.
            ShapeError: the width is not d, there are no rows, or `text` or `packed` has another
                number of them.
            ValueRangeError: a value is not a finite float, or the rows do not differ.
        """
        coder, batches = self._coder(), HiddenBatches(hidden, n_dims=self.n_dims_)
        if text is not None and batches.n_rows is not None:
            check_aligned(text, batches.n_rows)
        facts = CodecFacts(
            fingerprint=self.fingerprint_,
            n_dims=self.n_dims_,
            n_bits=self.n_bits_,
            side_bytes=self.side_bytes_,
            n_rows_of_fit=self._counted.n_rows,
            provenance=self.provenance_,
        )
        pairs = self._with_codes(batches.batches(STREAM_ROWS), packed, refine)
        return measure_report(
            Subject(self._model, coder, self._counted, facts),
            pairs,
            texts=text,
            settings=settings or ReportSettings(),
            on_rows=on_rows,
        )

    def feature_sets(self, packed: np.ndarray) -> FeatureSets:
        """Turn packed rows into the sets of rows in which each feature is on, in memory.

        Args:
            packed: (n, row_bytes_) uint8; a memory map will do. For more rows than memory holds
                sets of, write a file: `FeatureSets.write`.

        Raises:
            NotFittedError: the codec was not fitted.
            ShapeError: the shape is another.
            ValueRangeError: the dtype is not uint8, or a pad bit is set.
        """
        self._coder()
        codes = self._codes(self._check_packed(packed))
        return FeatureSets.from_packed(codes, n_bits=self.n_bits_, fingerprint=self.fingerprint_)

    def feature_directions(self) -> np.ndarray:
        """Return what each feature adds to a decoded hidden state where it is on.

        Returns:
            (h, d) float32 in the units of the hidden states: decoder rows times the codec's scales.

        Raises:
            NotFittedError: the codec was not fitted.
        """
        self._coder()
        directions: np.ndarray = (
            (self._model.decoder_weight * self._model.scale).detach().cpu().numpy()
        )
        return directions

    def linear_maps(self) -> LinearMaps:
        """Return the codec's encoder and decoder as weights in the units of the hidden states.

        Raises:
            NotFittedError: the codec was not fitted.
            ConfigError: its bits come in stages or rows carry side bytes, as with the preset
                "search"; or it was fitted with a sensitivity.
        """
        self._coder()
        return linear_maps(self._model, prices=self._prices())

    def _with_codes(
        self,
        batches: Iterator[torch.Tensor],
        packed: np.ndarray | None,
        refine: Refine | int | None,
    ) -> Iterator[tuple[torch.Tensor, np.ndarray]]:
        """Yield batches with their codes, encoded now or taken from those at hand."""
        encode, n_rows = self._encoder(refine), 0
        codes = None if packed is None else self._check_packed(packed)
        for batch in batches:
            n_rows += len(batch)
            if codes is None:
                yield batch, encode(batch, n_rows - len(batch))
            elif n_rows <= len(codes):
                yield batch, codes[n_rows - len(batch) : n_rows]
        if codes is not None and n_rows != len(codes):
            raise ShapeError(f"packed must have {n_rows} rows like hidden, got {len(codes)}")
