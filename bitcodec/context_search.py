"""Search-based encoding of consecutive rows at what their bits cost under a context table.

`bitcodec.refine` prices a bit by how often it is on. A context table makes a bit cheap where it is
expected and dear where it is not, so the same search, at the table's prices, ends in codes of less
error in about as many bytes. What is lowered is, over the rows of a block,

    sum_t |z_t - c - b_t D|^2 + lambda L(b_t | b_{t-1}),

L the table's code length in bits and lambda the entropy's weight (see `refine.rate_prices`). L is
linearised around the present codes: with logits l of a row and l' of the row after it, and e =
sigmoid(l) - b,

    dL / db = (-l + W e + A e') / ln 2,

W the weights within a row and A those across rows. Every other row is searched at these prices,
its neighbours held, and keeps the result if that lowers the true objective of itself and of the
row after it; then the rows between. So no sweep makes a block worse.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch.nn import functional

from bitcodec.context_table import UNIT, ContextTable
from bitcodec.errors import ConfigError, ShapeError
from bitcodec.refine import Effort, Refiner
from bitcodec.row_products import RowProduct

BLOCK_ROWS = 1024
"""Rows that are searched together. The entropy coder's blocks may be smaller, and archives' are: of
a block's first row it does not know the row before, which costs a thousandth."""
N_SWEEPS = 2
"""Sweeps over a block: the first finds most, a third less than a thousandth."""


class ContextSearch:
    """Better codes of consecutive rows for one decoder and one context table.

    A row's code depends on its block: on the rows beside it, and on where the block begins. It
    does not depend on the number of threads.

    Args:
        refiner: of the decoder; its own prices are not used.
        table: prices the bits.
        entropy_weight: lambda, the squared error that a bit is worth, as in `CodecConfig`.

    Raises:
        ConfigError: it is no context table.
        ShapeError: it is of another number of bits.

    Objects are read-only after construction, so threads may share one. They hold four (h, h)
    float32 arrays.
    """

    def __init__(self, refiner: Refiner, table: ContextTable, *, entropy_weight: float) -> None:
        if not isinstance(table, ContextTable):
            raise ConfigError(
                "context must be a ContextTable, as learn_context gives, got "
                f"{type(table).__name__}"
            )
        if table.n_bits != refiner.n_bits:
            raise ShapeError(
                f"the context table must be of {refiner.n_bits} bits as the codes are, got one of "
                f"{table.n_bits}: learn it on codes of this codec"
            )
        self._refiner = refiner
        self._nat_price = entropy_weight / math.log(2)
        self._bias, self._within, self._across = (
            UNIT * torch.from_numpy(weights.astype(np.float32)).to(refiner.device)
            for weights in (table.bias, table.within, table.across)
        )
        self._to_own = RowProduct(self._within.T)
        self._to_before = RowProduct(self._across.T)

    @torch.inference_mode()
    def refine(
        self, standardised: np.ndarray, bits: np.ndarray, *, effort: Effort = "fast"
    ) -> np.ndarray:
        """Search from the codes given.

        Args:
            standardised: z, (n, d) float32, finite, consecutive rows; every `BLOCK_ROWS` a block
                begins.
            bits: (n, h) uint8 or bool, where to start: codes that are good row by row.
            effort: how long a row is searched each time; see `refine.Effort`.

        Returns:
            (n, h) uint8, a new array.

        Raises:
            ConfigError: the effort is none of the choices.
            ShapeError: the shapes do not fit.
        """
        found = bits.astype(np.uint8)
        for start in range(0, len(found), BLOCK_ROWS):
            block = slice(start, start + BLOCK_ROWS)
            rows, codes = self._measured(standardised[block], found[block])
            for _ in range(N_SWEEPS):
                for parity in (0, 1):
                    codes = self._search_rows(rows, codes, slice(parity, None, 2), effort)
            found[block] = codes.bits.to(torch.uint8).cpu().numpy()
        return found

    @torch.inference_mode()
    def objective(self, standardised: np.ndarray, bits: np.ndarray) -> np.ndarray:
        """Return |z - c - bD|^2 + lambda L of every row of one block, (n,) float64.

        Args:
            standardised: z, (n, d) float32.
            bits: (n, h), values 0 or 1.

        Raises:
            ShapeError: the shapes do not fit.
        """
        codes = self._measured(standardised, bits)[1]
        costs: np.ndarray = self._costs(codes).cpu().numpy()
        return costs

    def _measured(self, standardised: np.ndarray, bits: np.ndarray) -> tuple[torch.Tensor, _Codes]:
        device = self._refiner.device
        rows = torch.from_numpy(np.ascontiguousarray(standardised, dtype=np.float32)).to(device)
        return rows, self._measure(rows, torch.from_numpy(bits.astype(np.float32)).to(device))

    def _measure(self, rows: torch.Tensor, bits: torch.Tensor) -> _Codes:
        # logits are sums of multiples of UNIT below 2^19: exact, whatever the order
        return _Codes(
            bits=bits,
            own=torch.addmm(self._bias, bits, self._within),
            told=bits @ self._across,
            squared=self._refiner.squared_errors(rows, bits),
        )

    def _costs(self, codes: _Codes) -> torch.Tensor:
        logits = codes.logits()
        nats = functional.softplus(logits) - codes.bits * logits
        return codes.squared + self._nat_price * nats.double().sum(dim=1)

    def _search_rows(
        self, rows: torch.Tensor, codes: _Codes, which: slice, effort: Effort
    ) -> _Codes:
        """Search some rows of a block, no two neighbours, and keep what makes the block better."""
        logits = codes.logits()
        surprise = logits.sigmoid() - codes.bits
        slopes = self._to_own(surprise[which]) - logits[which]
        slopes += self._to_before(_moved_up(surprise)[which])
        found = self._refiner.refine(
            rows[which].cpu().numpy(),
            codes.bits[which].to(torch.uint8).cpu().numpy(),
            prices=(self._nat_price * slopes).cpu().numpy(),
            effort=effort,
        )
        tried = self._measure(rows[which], torch.from_numpy(found).to(codes.bits))
        places = torch.arange(len(rows), device=rows.device)[which]
        gains = self._costs(codes) - self._costs(codes.replaced(places, tried))
        better = (gains + _moved_up(gains))[which] > 0
        return codes.replaced(places[better], tried.at(better))


@dataclass(frozen=True)
class _Codes:
    """Codes of a block of rows, and what their costs are made of."""

    bits: torch.Tensor
    """(n, h) float32."""
    own: torch.Tensor
    """(n, h), logits as far as a row's own bits tell, in nats."""
    told: torch.Tensor
    """(n, h), what each row adds to the logits of the next."""
    squared: torch.Tensor
    """(n,) float64, squared errors."""

    def logits(self) -> torch.Tensor:
        """Return those of every row in its place, (n, h)."""
        return self.own + functional.pad(self.told[:-1], (0, 0, 1, 0))

    def at(self, rows: torch.Tensor) -> _Codes:
        """Return some rows."""
        return _Codes(self.bits[rows], self.own[rows], self.told[rows], self.squared[rows])

    def replaced(self, places: torch.Tensor, others: _Codes) -> _Codes:
        """Return all rows, with others at some places."""
        return _Codes(
            *(
                getattr(self, field.name).index_copy(0, places, getattr(others, field.name))
                for field in fields(self)
            )
        )


def _moved_up(rows: torch.Tensor) -> torch.Tensor:
    """Return each row at the place of the one before, zeros last."""
    return torch.cat([rows[1:], torch.zeros_like(rows[:1])])
