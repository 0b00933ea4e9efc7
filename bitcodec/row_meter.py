"""What a report measures on hidden states, in one pass over them."""

from __future__ import annotations

import numpy as np
import torch

from bitcodec.best_rows import BestRows, random_keys
from bitcodec.bits import unpack
from bitcodec.coder import PackedCoder
from bitcodec.metrics import DistortionMeter
from bitcodec.model import BinaryAutoencoder

CHUNK_ROWS = 512
"""Rows whose margins, a float a bit, are in memory at a time."""


class RowMeter:
    """Distortion of all rows, and of each feature the rows to show; a stream.

    Memory grows with the rows by their codes and two floats each.

    Args:
        model: the autoencoder.
        coder: its coder.
        n_contexts: rows of each kind to find for a feature.
        seed: of the random rows.

    Attributes:
        distortion: sums from which FVU and the like follow.
        top: rows in which a feature is on, of largest margin; the values are margins.
        nearest: rows in which it is off, of least margin.
        random: a uniform sample of the rows in which it is on, by `random_keys`.
    """

    def __init__(
        self, model: BinaryAutoencoder, coder: PackedCoder, *, n_contexts: int, seed: int
    ) -> None:
        self._model, self._coder, self._seed = model, coder, seed
        self._inverse_scale = model.inverse_scale().cpu().numpy()
        self.distortion = DistortionMeter(coder.mean)
        self.top, self.nearest, self.random = (BestRows(model.n_bits, n_contexts) for _ in range(3))
        self._codes: list[np.ndarray] = []
        self._errors: list[np.ndarray] = []
        self._cosines: list[np.ndarray] = []

    @property
    def n_rows(self) -> int:
        """Rows measured so far."""
        return self.distortion.n_rows

    @property
    def codes(self) -> np.ndarray:
        """(n, ceil(h / 8)) uint8, the rows without side bytes."""
        return _joined(self._codes, np.empty((0, self._coder.code_bytes), np.uint8))

    @property
    def errors(self) -> np.ndarray:
        """(n,) float32, mean over the dimensions of the squared error in units of the scales."""
        return _joined(self._errors, np.empty(0, np.float32))

    @property
    def cosines(self) -> np.ndarray:
        """(n,) float32, of rows and their decoded copies; 0 where either is zero."""
        return _joined(self._cosines, np.empty(0, np.float32))

    def update(self, hidden: torch.Tensor, packed: np.ndarray) -> None:
        """Measure rows.

        Args:
            hidden: (n, d) float32, checked.
            packed: (n, row_bytes) uint8, their codes.
        """
        for start in range(0, len(hidden), CHUNK_ROWS):
            rows = slice(start, start + CHUNK_ROWS)
            self._add(hidden[rows], packed[rows])

    def _add(self, hidden: torch.Tensor, packed: np.ndarray) -> None:
        codes, decoded = packed[:, : self._coder.code_bytes], self._coder.decode(packed)
        self._choose(hidden, codes, first_row=self.n_rows)
        true = hidden.cpu().numpy()
        # numpy's results are kept, not torch's: between torch's large temporaries these small
        # arrays would stop the memory of every chunk from being used again.
        self._errors.append(np.square((true - decoded) * self._inverse_scale).mean(axis=1))
        self._cosines.append(_cosines(true, decoded))
        self.distortion.update(true, decoded)
        self._codes.append(codes)

    def _choose(self, hidden: torch.Tensor, codes: np.ndarray, *, first_row: int) -> None:
        bits = unpack(codes, n_bits=self._model.n_bits)
        margins, on = flip_margins(self._model, hidden, bits), bits.astype(bool)
        rows = np.arange(first_row, first_row + len(bits))
        keys = random_keys(rows, seed=self._seed)[:, None]
        self.top.offer(-margins, on, values=margins, first_row=first_row)
        self.nearest.offer(margins, ~on, values=margins, first_row=first_row)
        self.random.offer(keys, on, values=margins, first_row=first_row)


@torch.inference_mode()
def flip_margins(model: BinaryAutoencoder, hidden: torch.Tensor, bits: np.ndarray) -> np.ndarray:
    """Return by how much each row's squared error would rise if each bit were flipped.

    With r what the code leaves of z and s = 1 - 2 b: |D_j|^2 - 2 s_j <r, D_j>, as `bitcodec.refine`
    has it; of a codec fitted with a sensitivity, the weighed error.

    Args:
        model: the autoencoder.
        hidden: (n, d) float32.
        bits: (n, h) uint8, their codes.

    Returns:
        (n, h) float32, in squared units of the codec's scales.
    """
    weight = model.weigh(model.decoder_weight)
    given = torch.from_numpy(bits).to(weight)
    residual = model.weigh(model.standardise(hidden.to(weight)) - model.reconstruct(given))
    margins = (residual @ weight.T).mul_(4 * given - 2).add_(weight.square().sum(dim=1))
    result: np.ndarray = margins.cpu().numpy()
    return result


def _joined(parts: list[np.ndarray], empty: np.ndarray) -> np.ndarray:
    return np.concatenate([empty, *parts])


def _cosines(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    products = np.einsum("nd,nd->n", left, right)
    cosines: np.ndarray = np.zeros_like(norms)
    np.divide(products, norms, out=cosines, where=norms > 0)
    return cosines
