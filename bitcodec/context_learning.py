"""Learning the weights of a context table from packed rows in their order."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch.nn import functional

from bitcodec.bits import check_packed, unpack
from bitcodec.context_table import MAX_CONTEXT_BITS, UNIT, ContextTable
from bitcodec.errors import ConfigError, ShapeError

WEIGHT_COST = 14.0
"""What a weight of 1 nat has to save over all rows, in nats: the rate of a Laplace prior."""
LEAST_WEIGHT = 0.1
"""Weights below, in nats, become 0: they save less than their place in the table takes."""
LEARNING_RATE, DECAY = 0.01, 0.4
"""Adam's rate, and the share of the steps after which it falls to 0."""


def learn_context(
    packed: ArrayLike,
    *,
    n_bits: int,
    n_steps: int = 300,
    batch_size: int = 512,
    seed: int = 0,
    device: torch.device | str = "cpu",
    on_step: Callable[[int], None] | None = None,
) -> ContextTable:
    """Learn what earlier bits and the row before tell of each bit.

    Maximum likelihood with a Laplace prior, by Adam on random minibatches of rows, each beside the
    row before it. Weights beyond 8 nats, which tell all there is to tell, are kept as 8.

    Args:
        packed: (n, ceil(h / 8)) uint8, in their order; some hundred thousand rows are good.
        n_bits: true bits h of a row, at most 8,192.
        n_steps: minibatches.
        batch_size: rows of a minibatch.
        seed: of the choice of rows.
        device: where to learn; it takes 8 h^2 floats there.
        on_step: called with the number of steps done, after each.

    Returns:
        The table; its own bytes are worth their place from some ten thousand rows on.

    Raises:
        ConfigError: there are too many bits, or no steps or rows in a minibatch.
        ShapeError: the width is not that of h bits, or there are no two rows.
        ValueRangeError: the dtype is not uint8, or a pad bit is set.
    """
    if n_bits > MAX_CONTEXT_BITS or min(n_steps, batch_size) < 1:
        raise ConfigError(
            f"a context table takes up to {MAX_CONTEXT_BITS} bits, and steps and rows from 1; got "
            f"{n_bits}, {n_steps} and {batch_size}"
        )
    rows = np.asarray(packed)
    check_packed(rows, n_bits=n_bits)
    if len(rows) < 2:
        raise ShapeError(f"context is learned from at least 2 rows, got {len(rows)}")
    network = _Network(rows, n_bits=n_bits, device=torch.device(device))
    for step in network.steps(n_steps=n_steps, batch_size=batch_size, seed=seed):
        if on_step is not None:
            on_step(step)
    return network.table()


class _Network:
    """The table as floats in nats, in learning."""

    def __init__(self, packed: np.ndarray, *, n_bits: int, device: torch.device) -> None:
        self._packed, self._n_bits, self._device = packed, n_bits, device
        counts = sum(
            unpack(packed[start : start + 4096], n_bits=n_bits).sum(axis=0, dtype=np.int64)
            for start in range(0, len(packed), 4096)
        )
        activity = torch.from_numpy((np.asarray(counts) + 0.5) / (len(packed) + 1))
        self._bias = activity.logit().float().to(device).requires_grad_()
        self._within, self._across = (
            torch.zeros(n_bits, n_bits, device=device, requires_grad=True) for _ in range(2)
        )

    def steps(self, *, n_steps: int, batch_size: int, seed: int) -> Iterator[int]:
        """Learn; yield the number of steps done after each."""
        parameters = [self._bias, self._within, self._across]
        optimizer = torch.optim.Adam(parameters, lr=LEARNING_RATE, betas=(0.9, 0.99), fused=True)
        generator = np.random.default_rng(seed)
        for step in range(n_steps):
            rows = generator.integers(1, len(self._packed), batch_size)
            loss = self._loss(self._bits(rows), self._bits(rows - 1))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.param_groups[0]["lr"] = LEARNING_RATE * min(
                1.0, (1 - step / n_steps) / (1 - DECAY)
            )
            optimizer.step()
            yield step + 1

    def _loss(self, bits: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
        within = self._within.triu(1)
        logits = torch.addmm(torch.addmm(self._bias, bits, within), before, self._across)
        nats = functional.binary_cross_entropy_with_logits(logits, bits, reduction="sum")
        prior = WEIGHT_COST * (within.abs().sum() + self._across.abs().sum())
        return nats / len(bits) + prior / len(self._packed)

    def _bits(self, rows: np.ndarray) -> torch.Tensor:
        bits = unpack(self._packed[rows], n_bits=self._n_bits)
        return torch.from_numpy(bits).to(self._device, torch.float32)

    @torch.no_grad()
    def table(self) -> ContextTable:
        return ContextTable(
            bias=(self._bias / UNIT).round().clamp(-(2**15), 2**15 - 1).short().cpu().numpy(),
            within=_weights(self._within.triu(1)),
            across=_weights(self._across),
        )


def _weights(nats: torch.Tensor) -> np.ndarray:
    kept = torch.where(nats.abs() < LEAST_WEIGHT, 0.0, nats)
    weights: np.ndarray = (kept / UNIT).round().clamp(-127, 127).to(torch.int8).cpu().numpy()
    return weights
