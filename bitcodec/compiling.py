"""Compiling loops that no array library can say, with numba, when the first of them is called."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any, TypeVar, cast

Function = TypeVar("Function", bound=Callable[..., object])

_PREPARING = threading.Lock()


def compiler(*, reorder_sums: bool) -> Callable[[Function], Function]:
    """Return a decorator that compiles loops for running beside other threads.

    Args:
        reorder_sums: sums may be fused and reordered, for every row in the same way; else they are
            added in the order in which they are written.

    Returns:
        The decorator; what it compiles is kept on disk where there is a place to keep it.
    """
    fastmath: Any = {"contract", "reassoc", "nnan", "nsz"} if reorder_sums else False
    options: dict[str, Any] = {"nogil": True, "fastmath": fastmath, "error_model": "numpy"}

    def defer(function: Function) -> Function:
        return cast(Function, _Deferred(function, options))

    return defer


class _Deferred:
    """A function that numba gets to see when it is called first.

    Importing numba takes a seventh of the time that importing torch takes, and most programs that
    load a codec never run a loop.
    """

    def __init__(self, function: Callable[..., object], options: dict[str, Any]) -> None:
        self._function, self._options = function, options
        self._ready: Callable[..., object] | None = None
        self.__doc__, self.__name__ = function.__doc__, function.__name__

    def __call__(self, *arguments: object) -> object:
        return (self._ready or self._prepare())(*arguments)

    def _prepare(self) -> Callable[..., object]:
        with _PREPARING:
            # Loops of a module call one another by name: numba must find its own functions there.
            names = self._function.__globals__
            for name, value in list(names.items()):
                if isinstance(value, _Deferred):
                    names[name] = value._compiled
            self._ready = self._compiled
        return self._ready

    @functools.cached_property
    def _compiled(self) -> Callable[..., object]:
        import numba

        try:
            compiled: Callable[..., object] = numba.njit(cache=True, **self._options)(
                self._function
            )
        except RuntimeError:  # numba finds no folder that it may write to
            compiled = numba.njit(**self._options)(self._function)
        return compiled
