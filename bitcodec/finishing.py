"""What follows gradient training: decoder refit, pruning, searched codes, polarity."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice

import numpy as np
import torch

from bitcodec.batches import HiddenBatches
from bitcodec.config import CodecConfig
from bitcodec.errors import ValueRangeError
from bitcodec.imitation import pull_encoder
from bitcodec.model import BinaryAutoencoder
from bitcodec.normal_equations import NormalEquations, fit_decoder, sum_errors
from bitcodec.parallel import own_share, sum_over_processes, take_from_first
from bitcodec.pruning import prune
from bitcodec.refine import Refiner, rate_prices
from bitcodec.reseeding import SearchedRows, reseed
from bitcodec.revival import DEAD
from bitcodec.start import take_rows
from bitcodec.statistics import BitStatistics
from bitcodec.steering import Steering
from bitcodec.validation import Validation

REFIT_ROWS = 2**17
"""Rows on which the decoder is refitted after training."""
REFIT_BATCH = 2048
"""Rows of one product of that refit: few sums of (h, h) in float64."""
REFIT_PENALTY = 1000.0
"""Ridge of that refit, in rows."""
SEARCH_PENALTY = 100.0
"""The same where the codes were searched: their decoder has further to go."""
PRUNE_PENALTY = 10.0
"""The same where bits are dropped: what took the place of a dropped bit must not be held back."""
STEERED_ROUNDS = 6
"""At most so many measurements of searched codes, each followed by a change of their price."""
STEERED_BATCHES = 8
"""Of `REFIT_BATCH` rows, on which activities are counted at each of these prices."""
CLOSE_ENOUGH = 0.01
"""Share of a wanted rate or error at which the price is right."""

_Encoded = Iterator[tuple[torch.Tensor, torch.Tensor]]


class Finisher:
    """Makes a trained model final.

    Args:
        model: as gradient training left it; changed in place, unless it is pruned.
        config: what the codec is to be.
        steering: the entropy's weight as training left it; with a target it is moved on.
        validation: rows kept from training, where there is a target.

    Attributes:
        reached: FVU and bits on the validation rows, where there is a target.
    """

    def __init__(
        self,
        model: BinaryAutoencoder,
        config: CodecConfig,
        *,
        steering: Steering,
        validation: Validation | None,
    ) -> None:
        self.model = model
        self._config = config
        self._steering = steering
        self._validation = validation
        self.reached: tuple[float, float] | None = None

    @torch.no_grad()
    def finish(self, batches: HiddenBatches) -> BitStatistics:
        """Refit the decoder, alternately with searching its codes, and make the polarity canonical.

        Bits that are dead after a search get new work before the next.

        A transform code keeps its decoder.

        Args:
            batches: the training data; at most about `REFIT_ROWS` of its rows are read, in random
                order.

        Returns:
            The counts of the bits over the rows read, none on in over half of them. Where codes are
            searched they are those of the last search that was steered or refitted to.

        Raises:
            ValueRangeError: training diverged.
        """
        config = self._config
        refits = (
            not config.starts_from_transform(self.model.n_dims) and config.objective == "standard"
        )
        n_rows, bit_sums = self._refit(batches) if refits else self._count(batches)
        if not all(torch.isfinite(weight).all() for weight in self.model.parameters()):
            raise ValueRangeError(
                f"training diverged: lower learning_rate (now {config.learning_rate})"
            )
        flipped = bit_sums > n_rows / 2
        self.model.flip(flipped)
        counts = torch.where(flipped, n_rows - bit_sums, bit_sums)
        return BitStatistics(n_rows=n_rows, counts=counts.round().long().cpu().numpy())

    def _refit(self, batches: HiddenBatches) -> tuple[int, torch.Tensor]:
        """Refit the decoder; return the rows read and (h,) in how many of them each bit is on."""
        config = self._config
        sums = fit_decoder(self.model, self._encoded(batches), penalty=REFIT_PENALTY)
        if config.prune:
            sums = self._prune(self._encoded(batches))
        if config.search_effort != "none":
            for n_left in reversed(range(config.refine_rounds)):
                rows = SearchedRows(self.model.n_dims)
                searched = self._searched(batches, self._refiner(sums.bit_sums, sums.n_rows))
                sums = fit_decoder(self.model, rows.tap(searched), penalty=SEARCH_PENALTY)
                self._nudge(sums)
                if config.revive and n_left > 0:  # new bits are refitted, too
                    self._reseed(rows, sums)
            if config.pull:
                refiner = self._refiner(sums.bit_sums, sums.n_rows)
                everything = self._searched(batches, refiner, shared=False)
                pull_encoder(self.model, everything, n_rows=sums.n_rows)
        if config.refine == "none":
            return self._refit_linear(batches, sums)
        if config.has_target:
            return self._settle(batches, sums)
        return sums.n_rows, sums.bit_sums

    def _refit_linear(
        self, batches: HiddenBatches, sums: NormalEquations
    ) -> tuple[int, torch.Tensor]:
        """Return the same of a codec that does not search when it encodes."""
        if self._config.search_effort != "none":
            encoded = self._encoded(batches)
            if self._config.prune:
                sums = self._prune(encoded)
            else:
                sums = fit_decoder(self.model, encoded, penalty=SEARCH_PENALTY)
        if self._validation is not None and self._config.has_target:
            self.reached = self._validation.measure(self.model)
        return sums.n_rows, sums.bit_sums

    def _reseed(self, rows: SearchedRows, sums: NormalEquations) -> None:
        """Give dead bits new work, and count them as if they had done it."""
        dead = sums.bit_sums < DEAD * sums.n_rows
        shares = reseed(self.model, rows, dead, entropy_weight=self._steering.weight)
        take_from_first([shares, *(weight.data for weight in self.model.parameters())])
        sums.bit_sums = torch.where(shares > 0, shares * sums.n_rows, sums.bit_sums)

    def _prune(self, encoded: _Encoded) -> NormalEquations:
        """Drop bits from the model; return the sums of those that are left."""
        sums = sum_errors(self.model, encoded)
        self.model, kept = prune(
            self.model, sums, penalty=PRUNE_PENALTY, entropy_weight=self._steering.weight
        )
        return sums.select(kept)

    def _nudge(self, sums: NormalEquations) -> None:
        """Move the price of a bit towards the wish, before codes are searched and refitted to."""
        if self._validation is None or not self._config.has_target or self._config.refine == "none":
            return
        fvu, entropy_bits = self._measure(self._validation, sums.bit_sums, sums.n_rows)
        if abs(self._steering.miss(fvu=fvu, entropy_bits=entropy_bits)) >= CLOSE_ENOUGH:
            self._steering.move(self._steering.correction(fvu=fvu, entropy_bits=entropy_bits))

    def _settle(self, batches: HiddenBatches, sums: NormalEquations) -> tuple[int, torch.Tensor]:
        """Move the price until searched codes of the validation rows are as wished; count codes.

        Rarer bits are dearer, and dearer bits rarer: activities are counted anew at every price.
        """
        assert self._validation is not None, "a target has rows to measure on"
        n_rows, bit_sums = sums.n_rows, sums.bit_sums
        for _ in range(STEERED_ROUNDS):
            fvu, entropy_bits = self._measure(self._validation, bit_sums, n_rows)
            if abs(self._steering.miss(fvu=fvu, entropy_bits=entropy_bits)) < CLOSE_ENOUGH:
                break
            self._steering.settle(fvu=fvu, entropy_bits=entropy_bits)
            searched = self._searched(batches, self._refiner(bit_sums, n_rows))
            n_rows, bit_sums = self._sum_bits(islice(searched, STEERED_BATCHES))
        searched = self._searched(batches, self._refiner(bit_sums, n_rows))
        n_rows, bit_sums = self._sum_bits(searched)
        self.reached = self._measure(self._validation, bit_sums, n_rows)  # as the codec will encode
        return n_rows, bit_sums

    def _measure(
        self, validation: Validation, bit_sums: torch.Tensor, n_rows: int
    ) -> tuple[float, float]:
        """Return FVU and bits of the validation rows' codes, searched at these activities."""
        return validation.measure(self.model, refiner=self._refiner(bit_sums, n_rows))

    def _count(self, batches: HiddenBatches) -> tuple[int, torch.Tensor]:
        """Return the same of the linear pass, without a refit: on other text, that loses."""
        return self._sum_bits(self._encoded(batches))

    def _sum_bits(
        self, encoded: Iterable[tuple[torch.Tensor, torch.Tensor]]
    ) -> tuple[int, torch.Tensor]:
        device = self.model.mean.device
        n_rows = torch.zeros((), dtype=torch.float64, device=device)
        bit_sums = torch.zeros(self.model.n_bits, dtype=torch.float64, device=device)
        for bits, _ in encoded:
            n_rows += len(bits)
            bit_sums += bits.sum(dim=0)
        sum_over_processes(n_rows, bit_sums)
        return int(n_rows), bit_sums

    def _encoded(self, batches: HiddenBatches, *, shared: bool = True) -> _Encoded:
        """Yield the linear pass's bits, and z, of random batches of `REFIT_ROWS` rows.

        Several processes share the batches, unless each is to see all of them.
        """
        generator = torch.Generator().manual_seed(self._config.seed)
        shuffled = batches.shuffled(REFIT_BATCH, generator, keep_rest=True)
        taken = take_rows(shuffled, REFIT_ROWS)
        for batch in own_share(taken) if shared else taken:
            standardised = self.model.standardise(batch.to(self.model.mean.device))
            yield self.model.encode(standardised), standardised

    def _searched(
        self, batches: HiddenBatches, refiner: Refiner, *, shared: bool = True
    ) -> _Encoded:
        """Yield the same with searched bits."""
        effort = "fast" if self._config.refine == "none" else self._config.refine
        for bits, standardised in self._encoded(batches, shared=shared):
            rows, starts = standardised.cpu().numpy(), bits.to(torch.uint8).cpu().numpy()
            found = refiner.refine(rows, starts, effort=effort)
            yield torch.from_numpy(found).to(bits), standardised

    def _refiner(self, bit_sums: torch.Tensor, n_rows: int) -> Refiner:
        counts: np.ndarray = bit_sums.cpu().numpy()
        prices = rate_prices(counts, n_rows, entropy_weight=self._steering.weight)
        return Refiner(self.model.decoder_weight, self.model.decoder_bias, price=prices)
