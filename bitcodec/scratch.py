"""Buffers that are used again from call to call."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

import torch

Value = TypeVar("Value")


class Scratch:
    """Buffers that a thread's next call uses again; each thread has its own."""

    def __init__(self) -> None:
        self._local = threading.local()

    def __reduce__(self) -> tuple[type[Scratch], tuple[()]]:
        return Scratch, ()

    def take(
        self,
        name: str,
        shape: tuple[int, int],
        dtype: torch.dtype,
        device: torch.device,
        *,
        fill: float = 0.0,
    ) -> torch.Tensor:
        """Return room of a shape: filled with a number at first, and later what was left there."""
        kept: dict[str, torch.Tensor] = self._local.__dict__
        n_rows, n_columns = shape
        key = f"{name} {n_columns} {dtype}"
        if key not in kept or len(kept[key]) < n_rows:
            with torch.inference_mode(mode=False):  # so that calls outside it may write here
                kept[key] = torch.full(shape, fill, dtype=dtype, device=device)
        return kept[key][:n_rows]

    def latest(self, name: str, key: Hashable, make: Callable[[], Value]) -> Value:
        """Return what `make` returned for a key, made anew where the last key was another.

        Cutting a view takes microseconds each time: as long as adding up a few rows does.
        """
        kept: dict[str, tuple[Hashable, Any]] = self._local.__dict__
        found = kept.get(name)
        if found is None or found[0] != key:
            kept[name] = found = key, make()
        value: Value = found[1]
        return value
