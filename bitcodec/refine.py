"""Search-based encoding: flip bits of a code while that lowers squared error plus rate price.

For residual r = z - c - bD and a = r D^T, flipping bit j changes |r|^2 by |D_j|^2 - 2 s_j a_j with
s_j = 1 - 2 b_j, and the price by s_j price_j. Half of what a flip saves is its gain,

    gain_j = s_j (a_j - price_j / 2) - |D_j|^2 / 2,

and flipping bit k takes s_j s_k G_jk off every other gain, with G = D D^T.

The search flips the bit of highest gain until no flip pays (best first; an ICM encoder as in
Martinez et al., "LSQ++", ECCV 2018, but by gain and not in cyclic order). Repair passes then turn
each on bit off in ascending order, hold it off, search again, and keep the result if it is better
as a whole. LSQ++ perturbs codes at random for the same purpose; on sparse codes of hidden states
repairs found more in the same time, and they need no seed.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch

from bitcodec.errors import ConfigError, ShapeError, ValueRangeError
from bitcodec.refine_kernels import (
    FLIPS_PER_BIT,
    REPAIR_MARGIN,
    Tables,
    search,
    sum_residuals,
)
from bitcodec.row_products import RowProduct
from bitcodec.threads import row_parts, run

Effort = Literal["fast", "best"] | int
"""How long to search: "fast" until no flip pays, a number for at most as many repair passes
besides, "best" for passes until no repair pays."""

CHUNK_ROWS = 512
"""Rows whose gains are in memory at a time on the CPU."""
DEVICE_CHUNK_ROWS = 4096
"""The same on other devices."""
PART_ROWS = 16
"""Rows of a thread's share, at least."""
STEPS_PER_CHECK = 8
"""Flips between two questions to the device whether any row still gains."""


def rate_prices(counts: np.ndarray, n_rows: int, *, entropy_weight: float) -> np.ndarray:
    """Return what turning each bit on costs, in the unit of squared error.

    Training's loss is |r|^2 / d + beta H / d. Times d, and with H linear in the code around the
    present activities (dH2/dp = log2((1 - p) / p)), a row costs |r|^2 + sum_j b_j price_j with
    price_j = beta log2((1 - p_j) / p_j).

    Args:
        counts: (h,) rows in which each bit is on.
        n_rows: rows counted, at least 1.
        entropy_weight: beta, as in `CodecConfig`.

    Returns:
        (h,) float64, negative for bits on in over half of the rows. p_j is the estimator
        (count + 1/2) / (n + 1) of Krichevsky and Trofimov (1981), so that every price is finite.

    >>> rate_prices(np.array([1, 2]), 4, entropy_weight=0.5).round(3).tolist()
    [0.611, 0.0]
    """
    return entropy_weight * np.log2((n_rows - counts + 0.5) / (counts + 0.5))


def objective(
    standardised: np.ndarray,
    bits: np.ndarray,
    *,
    weight: np.ndarray,
    bias: np.ndarray,
    price: np.ndarray,
) -> np.ndarray:
    """Return |z - c - bD|^2 + sum_j b_j price_j of every row, in float64.

    Args:
        standardised: z, (n, d).
        bits: b, (n, h), values 0 or 1.
        weight: D, (h, d).
        bias: c, (d,).
        price: (h,).

    Returns:
        (n,) float64.
    """
    on = np.asarray(bits, dtype=np.float64)
    residual = np.asarray(standardised, dtype=np.float64) - bias - on @ weight.astype(np.float64)
    totals: np.ndarray = (residual**2).sum(axis=1) + on @ np.asarray(price, dtype=np.float64)
    return totals


class Refiner:
    """Better codes for one decoder.

    A row's code depends on nothing but the row, its start and the effort: neither on the rows
    beside it nor on the number of threads. It never costs more than its start.

    Args:
        weight: D, (h, d) float32, on the device that is to search.
        bias: c, (d,) float32.
        price: (h,) floats, what turning a bit on costs in the unit of squared error, finite; see
            `rate_prices`. Zeros search for least error alone.

    Raises:
        ShapeError: the shapes do not fit.
        ValueRangeError: a price is not finite.

    Objects are read-only after construction, so threads may share one. They hold G, (h, h)
    float32.
    """

    def __init__(
        self, weight: torch.Tensor, bias: torch.Tensor, *, price: torch.Tensor | np.ndarray
    ) -> None:
        prices = torch.as_tensor(price)
        if weight.ndim != 2 or bias.shape != weight.shape[1:] or prices.shape != weight.shape[:1]:
            raise ShapeError(
                "weight, bias and price must be (h, d), (d,) and (h,), got "
                f"{tuple(weight.shape)}, {tuple(bias.shape)} and {tuple(prices.shape)}"
            )
        _require_finite(prices)
        self.n_bits, self.n_dims = weight.shape
        with torch.no_grad():
            self._weight = weight.detach().to(torch.float32, copy=True).contiguous()
            self._bias = bias.detach().to(self._weight, copy=True)
            self._price = prices.detach().to(self._weight, copy=True)
            self._gram = self._weight @ self._weight.T
            self._half_norms = self._gram.diagonal() / 2
            self._decode = RowProduct(self._weight)
            self._project = RowProduct(self._weight.T)

    def refine(
        self,
        standardised: np.ndarray,
        bits: np.ndarray,
        *,
        effort: Effort = "fast",
        prices: np.ndarray | None = None,
        n_threads: int | None = None,
    ) -> np.ndarray:
        """Search from the codes given.

        Args:
            standardised: z, (n, d) float32, finite.
            bits: (n, h) uint8 or bool, where to start; the linear pass is a good place.
            effort: how long to search; see `Effort`.
            prices: (n, h) floats, finite, instead of the prices that are alike for all rows.
            n_threads: threads of the search on the CPU; None means torch's number.

        Returns:
            (n, h) uint8, a new array.

        Raises:
            ConfigError: the effort is none of the choices, or `n_threads` is below 1.
            ShapeError: the shapes do not fit.
            ValueRangeError: a price is not finite.
        """
        n_passes = _passes(effort)
        given = None if prices is None else torch.as_tensor(prices, dtype=torch.float32)
        self._check(tuple(standardised.shape), tuple(bits.shape), given)
        if self._weight.device.type != "cpu":
            rows = torch.from_numpy(np.ascontiguousarray(standardised)).to(self._weight.device)
            starts = torch.from_numpy(bits.astype(np.uint8)).to(self._weight.device)
            return self.refine_on_device(rows, starts, effort=effort, prices=given).cpu().numpy()
        price = (self._price[None] if given is None else given.contiguous()).numpy()
        rows_, starts_ = np.ascontiguousarray(standardised, np.float32), bits.astype(np.uint8)
        n_workers = torch.get_num_threads() if n_threads is None else n_threads
        for start in range(0, len(rows_), CHUNK_ROWS):
            chunk = slice(start, start + CHUNK_ROWS)
            own = price if given is None else price[chunk]
            self._refine_chunk(n_workers, rows_[chunk], starts_[chunk], own, n_passes)
        return starts_

    @torch.inference_mode()
    def refine_on_device(
        self,
        standardised: torch.Tensor,
        bits: torch.Tensor,
        *,
        effort: Effort = "fast",
        prices: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Search from the codes given by batched operations of torch.

        Every row takes the same flips as in `refine`, one a step, for all rows at once; the codes
        are the same up to ties within float32's rounding.

        Args:
            standardised: z, (n, d) float32 on the device of the weights.
            bits: (n, h) uint8 or bool there.
            effort: how long to search; see `Effort`.
            prices: as in `refine`.

        Returns:
            (n, h) uint8 on the same device.

        Raises:
            As `refine`.
        """
        n_passes = _passes(effort)
        self._check(tuple(standardised.shape), tuple(bits.shape), prices)
        refined = torch.empty(bits.shape, dtype=torch.uint8, device=bits.device)
        for start in range(0, len(bits), DEVICE_CHUNK_ROWS):
            chunk = slice(start, start + DEVICE_CHUNK_ROWS)
            price = self._price if prices is None else prices[chunk].to(self._price)
            refined[chunk] = self._search_on_device(
                standardised[chunk], bits[chunk], price, n_passes
            )
        return refined

    @property
    def device(self) -> torch.device:
        """Where the search runs."""
        return self._weight.device

    @torch.inference_mode()
    def squared_errors(self, standardised: torch.Tensor, bits: torch.Tensor) -> torch.Tensor:
        """Return |z - c - bD|^2 of every row, (n,) float64.

        Args:
            standardised: z, (n, d) float32 on the refiner's device.
            bits: b, (n, h), values 0 or 1, there.

        Raises:
            ShapeError: the shapes do not fit.
        """
        self._check(tuple(standardised.shape), tuple(bits.shape))
        residuals = standardised - self._bias - self._decode(bits.to(torch.float32))
        return residuals.double().square().sum(dim=1)

    def objective(self, standardised: np.ndarray, bits: np.ndarray) -> np.ndarray:
        """Return the quantity that `refine` lowers, (n,) float64; see the function `objective`."""
        self._check(tuple(standardised.shape), tuple(bits.shape))
        arrays = (tensor.cpu().numpy() for tensor in (self._weight, self._bias, self._price))
        weight, bias, price = arrays
        return objective(standardised, bits, weight=weight, bias=bias, price=price)

    def _check(
        self,
        standardised: tuple[int, ...],
        bits: tuple[int, ...],
        prices: torch.Tensor | None = None,
    ) -> None:
        n_rows = standardised[0] if standardised else 0
        if standardised != (n_rows, self.n_dims) or bits != (n_rows, self.n_bits):
            raise ShapeError(
                f"standardised and bits must be (n, {self.n_dims}) and (n, {self.n_bits}), got "
                f"{standardised} and {bits}"
            )
        if prices is None:
            return
        if tuple(prices.shape) != bits:
            raise ShapeError(f"prices must be {bits} as the bits are, got {tuple(prices.shape)}")
        _require_finite(prices)

    # on the CPU

    def _refine_chunk(
        self,
        n_workers: int,
        rows: np.ndarray,
        bits: np.ndarray,
        prices: np.ndarray,
        n_passes: int,
    ) -> None:
        tables = Tables(
            weight=self._weight.numpy(),
            bias=self._bias.numpy(),
            prices=prices,
            half_norms=self._half_norms.numpy(),
            gram=self._gram.numpy(),
        )
        residuals = np.zeros((len(rows), self.n_dims), dtype=np.float32)
        is_dense = np.zeros(len(rows), dtype=np.bool_)
        parts = row_parts(len(rows), n_threads=n_workers, min_rows=PART_ROWS)
        run(
            lambda part: sum_residuals(
                rows[part], bits[part], tables, residuals[part], is_dense[part]
            ),
            parts,
        )
        self._multiply_residuals(rows, bits, residuals, np.flatnonzero(is_dense))
        products = self._project(torch.from_numpy(residuals)).numpy()

        def search_part(part: slice) -> None:
            own = tables if len(prices) == 1 else tables._replace(prices=prices[part])
            search(rows[part], bits[part], residuals[part], products[part], own, n_passes)

        run(search_part, parts)

    def _multiply_residuals(
        self, rows: np.ndarray, bits: np.ndarray, residuals: np.ndarray, which: np.ndarray
    ) -> None:
        if len(which) == 0:
            return
        on = torch.from_numpy(bits[which].astype(np.float32))
        decoded = self._decode(on).numpy()
        residuals[which] = rows[which] - self._bias.numpy() - decoded

    # on any device

    def _search_on_device(
        self, rows: torch.Tensor, bits: torch.Tensor, price: torch.Tensor, n_passes: int
    ) -> torch.Tensor:
        on = bits.to(torch.float32)
        products = self._project(rows - self._bias - self._decode(on))
        signs = 1 - 2 * on
        gains = signs * (products - price / 2) - self._half_norms
        free = torch.full((len(rows),), -1, device=rows.device)
        self._descend(gains, signs, free)
        self._repair(gains, signs, n_passes)
        found = (signs < 0).to(torch.uint8)
        now, before = (self._objective_on_device(rows, codes, price) for codes in (found, bits))
        return torch.where((now > before)[:, None], bits.to(torch.uint8), found)

    def _objective_on_device(
        self, rows: torch.Tensor, bits: torch.Tensor, price: torch.Tensor
    ) -> torch.Tensor:
        on = bits.to(torch.float64)
        residuals = rows.to(torch.float64) - self._bias - on @ self._weight.to(torch.float64)
        return (residuals**2).sum(dim=1) + (on * price).sum(dim=1)

    def _descend(
        self, gains: torch.Tensor, signs: torch.Tensor, held: torch.Tensor
    ) -> torch.Tensor:
        """Flip each row's best bit until none pays; a row's `held` bit, if not -1, stays.

        Changes gains and signs, (n, h); returns the sums of the gains taken, (n,).
        """
        total = torch.zeros(len(gains), device=gains.device)
        bits = torch.arange(self.n_bits, device=gains.device)
        is_held = bits == held[:, None]
        for step in range(FLIPS_PER_BIT * self.n_bits):
            best, which = gains.masked_fill(is_held, -torch.inf).max(dim=1)
            if step % STEPS_PER_CHECK == 0 and not bool((best > 0).any()):
                break
            total += best.clamp(min=0)
            self._flip(gains, signs, which, best > 0)
        return total

    def _flip(
        self, gains: torch.Tensor, signs: torch.Tensor, which: torch.Tensor, pays: torch.Tensor
    ) -> None:
        column = which[:, None]
        sign = signs.gather(1, column) * pays[:, None]
        gain = gains.gather(1, column)
        gains.sub_(signs * sign * self._gram[which])
        gains.scatter_(1, column, torch.where(pays[:, None], -gain, gain))
        signs.scatter_add_(1, column, -2 * sign)

    def _repair(self, gains: torch.Tensor, signs: torch.Tensor, n_passes: int) -> None:
        """Do the repair passes of `_repair_pass`, each row at its own bit."""
        bits = torch.arange(self.n_bits, device=gains.device)
        place = torch.full((len(gains),), -1, device=gains.device)
        passes, adopted = torch.zeros_like(place), torch.zeros_like(place)
        while n_passes:
            later = (signs < 0) & (bits > place[:, None])
            place = torch.where(later, bits, self.n_bits).amin(dim=1)
            ended = place == self.n_bits
            passes += ended
            done = ended & ((adopted == 0) | (passes >= n_passes))
            if bool(done.all()):
                break
            place = torch.where(ended & ~done, -1, place)
            adopted = torch.where(ended & ~done, 0, adopted)
            adopted += self._try_without(gains, signs, place, ~ended)

    def _try_without(
        self, gains: torch.Tensor, signs: torch.Tensor, which: torch.Tensor, tried: torch.Tensor
    ) -> torch.Tensor:
        """Turn one bit of each row off and repair; return the rows that keep it, (n,) bool."""
        held = torch.where(tried, which, -1)
        safe = held.clamp(min=0)
        loss = gains.gather(1, safe[:, None])[:, 0]
        trial_gains, trial_signs = gains.clone(), signs.clone()
        self._flip(trial_gains, trial_signs, safe, tried)
        gained = self._descend(trial_gains, trial_signs, held)
        keep = tried & (loss + gained > REPAIR_MARGIN * loss.abs())
        self._descend(trial_gains, trial_signs, torch.full_like(held, -1))
        gains.copy_(torch.where(keep[:, None], trial_gains, gains))
        signs.copy_(torch.where(keep[:, None], trial_signs, signs))
        return keep


def _require_finite(prices: torch.Tensor) -> None:
    if not torch.isfinite(prices).all():
        raise ValueRangeError("prices must be finite: rate_prices smooths activities of 0 and 1")


def _passes(effort: Effort) -> int:
    if effort == "fast":
        return 0
    if effort == "best":
        return 2**31 - 1
    if isinstance(effort, bool) or not isinstance(effort, int) or effort < 0:
        raise ConfigError(
            f'effort must be "fast", "best" or a number of repair passes, got {effort!r}'
        )
    return effort
