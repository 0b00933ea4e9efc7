"""Errors of workers, raised where the job was started as what they are."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from ray.data import Dataset

from bitcodec.errors import BitcodecError


@contextlib.contextmanager
def raising_own_errors() -> Iterator[None]:
    """Turn Ray's wrapping of an error of bitcodec into that error, with the wrapping as its cause.

    Raises:
        BitcodecError: a worker raised it.
    """
    try:
        yield
    except Exception as error:
        own = _own_error(error)
        if own is None or own is error:
            raise
        raise own from error


def keeping_errors(dataset: Dataset) -> Dataset:
    """Have a dataset's workers raise what went wrong, instead of Ray's word that something did."""
    dataset.context.raise_original_map_exception = True
    return dataset


def _own_error(error: BaseException | None) -> BitcodecError | None:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, BitcodecError) and type(error).__module__ == BitcodecError.__module__:
            return error
        # Ray raises a subclass of the worker's error, which keeps that one as `cause`.
        inner = getattr(error, "cause", None)
        error = inner if isinstance(inner, BaseException) else error.__cause__
    return None
