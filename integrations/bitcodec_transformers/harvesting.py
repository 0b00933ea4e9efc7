"""The harvest: documents in, shards of hidden states and their origins out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from math import ceil
from pathlib import Path
from typing import Any

import torch

from bitcodec.errors import FileError, MismatchError, ValueRangeError
from bitcodec.files import PathLike
from bitcodec.storage import library_versions
from bitcodec_transformers.documents import iterate_documents
from bitcodec_transformers.forward import candidate_states, check_layers, find_blocks
from bitcodec_transformers.identity import model_identity
from bitcodec_transformers.manifest import (
    Counts,
    FileFormat,
    HarvestSettings,
    Manifest,
    MassivePolicy,
    StateDtype,
)
from bitcodec_transformers.models import LanguageModel
from bitcodec_transformers.selection import check_finite, median_norms, select_rows
from bitcodec_transformers.shards import HarvestFolder
from bitcodec_transformers.summary import HarvestProgress, HarvestSummary, summarise
from bitcodec_transformers.windows import (
    DocumentDigest,
    UnitReader,
    Window,
    WindowCutter,
    WorkUnit,
    candidate_rows,
)

PACKAGES = ("bitcodec", "torch", "transformers", "tokenizers")
"""Whose versions shape the states."""

ProgressCallback = Callable[[HarvestProgress], None]


def harvest(
    documents: Iterable[Any],
    *,
    model: LanguageModel,
    layers: Sequence[int],
    output: PathLike,
    context_length: int = 256,
    drop_first: int = 1,
    massive: float = 10.0,
    massive_policy: MassivePolicy = "drop",
    dtype: StateDtype = "float16",
    file_format: FileFormat = "safetensors",
    shard_rows: int = 65_536,
    batch_tokens: int = 2048,
    max_rows: int | None = None,
    progress: ProgressCallback | None = None,
) -> HarvestSummary:
    """Write the hidden states of texts, with the origin of every row.

    Layer i is the output of block i, from 0 (see `bitcodec_transformers.forward`). The folder's
    layout is described in `bitcodec_transformers.shards`; rows are in the order of the
    documents and aligned between layers. Memory holds one shard. The same call on an
    interrupted harvest resumes it, with the result an uninterrupted call would have had; on a
    complete one it only checks the documents.

    Args:
        documents: texts, (id, text) pairs or mappings with `text` and perhaps `id`; read
            lazily, once.
        model: the language model, see `load_model`.
        layers: wanted blocks, from 0.
        output: the folder to write.
        context_length: tokens per window, special tokens included; documents are cut into
            windows.
        drop_first: tokens at window positions below this are dropped.
        massive: a row is massive when its norm exceeds this many times the layer's median,
            which is taken from the first shard.
        massive_policy: `"drop"` massive rows (in all layers), `"refuse"` or `"keep"` them.
        dtype: element type on disk.
        file_format: `"safetensors"`, or `"npy"` for the hidden states.
        shard_rows: about how many rows a shard holds.
        batch_tokens: tokens the model reads at once, padding included.
        max_rows: stop after exactly so many rows.
        progress: called after every batch and every shard.

    Returns:
        The counts and where the layers lie.

    Raises:
        ConfigError: a setting is out of range, or a layer beyond the model.
        ValueRangeError: a value is not finite in `dtype`, a row is massive under `"refuse"`,
            or no token is left to keep.
        FileError: `output` exists and is not this harvest, or cannot be written.
        MismatchError: `output` is an unfinished harvest with other settings or documents.
    """
    begun = time.perf_counter()
    settings = HarvestSettings(
        layers=tuple(layers),
        context_length=context_length,
        drop_first=drop_first,
        massive=massive,
        massive_policy=massive_policy,
        dtype=dtype,
        file_format=file_format,
        shard_rows=shard_rows,
        batch_tokens=batch_tokens,
        max_rows=max_rows,
    )
    check_layers(settings.layers, n_layers=len(find_blocks(model.model)))
    model.check_context(settings.context_length)
    wanted = Manifest(settings, model_identity(model), library_versions(PACKAGES), model.n_dims)
    folder = HarvestFolder(Path(output), wanted)
    if folder.manifest.complete:
        _check_documents(documents, folder)
    else:
        with folder.writing_alone():
            _Harvest(documents, model, folder, begun, progress).run()
    return summarise(folder.folder, folder.manifest, seconds=time.perf_counter() - begun)


class _Harvest:
    """One call's work on a harvest that is not complete."""

    def __init__(
        self,
        documents: Iterable[Any],
        model: LanguageModel,
        folder: HarvestFolder,
        begun: float,
        progress: ProgressCallback | None,
    ) -> None:
        settings = folder.manifest.settings
        cutter = WindowCutter(
            model.tokenizer,
            context_length=settings.context_length,
            drop_first=settings.drop_first,
        )
        self._reader = UnitReader(iterate_documents(documents), cutter)
        self._model = model
        self._folder = folder
        self._settings = settings
        self._begun = begun
        self._progress = progress

    def run(self) -> None:
        self._skip_finished()
        while self._n_remaining(self._counts.n_rows) > 0:
            unit = self._reader.next_unit(self._unit_size(self._counts.n_rows))
            if not any(window.candidate.any() for window in unit.windows):
                self._finish(unit)
                return
            self._harvest_unit(unit)
        self._folder.finish(
            counts=Counts(),
            documents=[],
            documents_sha256=self._folder.manifest.documents_sha256,
        )

    @property
    def _counts(self) -> Counts:
        return self._folder.manifest.counts

    def _n_remaining(self, n_rows: int) -> int:
        limit = self._settings.max_rows
        return self._settings.shard_rows if limit is None else limit - n_rows

    def _unit_size(self, n_rows: int) -> int:
        """Give the candidates to gather when `n_rows` rows are written.

        A little more than `max_rows` asks for, so that massive rows rarely cost another unit.
        """
        slack = self._settings.context_length
        return min(self._settings.shard_rows, ceil(1.01 * self._n_remaining(n_rows)) + slack)

    def _skip_finished(self) -> None:
        n_rows = 0
        for shard in self._folder.manifest.shards:
            unit = self._reader.next_unit(self._unit_size(n_rows))
            if unit.documents_sha256 != shard.documents_sha256:
                raise MismatchError(
                    f"{self._folder.folder} holds an unfinished harvest of other documents: "
                    "give the same documents in the same order to resume it, or remove the folder"
                )
            n_rows += shard.n_rows

    def _harvest_unit(self, unit: WorkUnit) -> None:
        settings = self._settings
        states = candidate_states(
            self._model,
            unit.windows,
            layers=settings.layers,
            dtype=getattr(torch, settings.dtype),
            batch_tokens=settings.batch_tokens,
            on_batch=self._batch_reporter(),
        )
        rows = candidate_rows(unit.windows)
        medians = self._folder.manifest.median_norms or median_norms(states.norms)
        kept, n_massive = select_rows(
            states.norms, medians, rows, massive=settings.massive, policy=settings.massive_policy
        )
        n_selected = len(kept)
        if settings.max_rows is not None:
            kept = kept[: self._n_remaining(self._counts.n_rows)]
        states, rows = states.take(kept), rows.take(kept)
        check_finite(states.hidden, states.norms, rows, first_row=self._counts.n_rows)
        self._folder.save_unit(
            states.hidden,
            rows,
            counts=_unit_counts(unit, len(rows), n_selected=n_selected, n_massive=n_massive),
            documents=unit.documents,
            documents_sha256=unit.documents_sha256,
            median_norms=medians,
        )
        self._report(self._counts.n_rows, self._counts.n_tokens)

    def _finish(self, unit: WorkUnit) -> None:
        """Record the last documents, which gave no rows."""
        counts = _unit_counts(unit, 0, n_selected=0, n_massive={})
        total = self._counts + counts
        if total.n_rows == 0:
            raise ValueRangeError(
                f"the documents must hold tokens to keep, got none in {total.n_documents} "
                f"documents ({total.n_empty_documents} empty, {total.n_tokens} tokens, all "
                "special or first): give longer texts or drop_first=0"
            )
        self._folder.finish(
            counts=counts, documents=unit.documents, documents_sha256=unit.documents_sha256
        )

    def _batch_reporter(self) -> Callable[[Sequence[Window]], None]:
        n_rows, n_tokens = self._counts.n_rows, self._counts.n_tokens

        def report(windows: Sequence[Window]) -> None:
            nonlocal n_rows, n_tokens
            n_rows += sum(int(window.candidate.sum()) for window in windows)
            n_tokens += sum(len(window) for window in windows)
            self._report(n_rows, n_tokens)

        return report

    def _report(self, n_rows: int, n_tokens: int) -> None:
        if self._progress is None:
            return
        limit = self._settings.max_rows
        n_rows = n_rows if limit is None else min(n_rows, limit)
        self._progress(HarvestProgress(n_rows, n_tokens, time.perf_counter() - self._begun))


def _unit_counts(
    unit: WorkUnit, n_rows: int, *, n_selected: int, n_massive: dict[int, int]
) -> Counts:
    n_tokens = sum(len(window) for window in unit.windows)
    n_special = sum(int(window.special.sum()) for window in unit.windows)
    n_candidates = sum(int(window.candidate.sum()) for window in unit.windows)
    return Counts(
        n_documents=len(unit.documents),
        n_empty_documents=unit.n_empty_documents,
        n_tokens=n_tokens,
        n_rows=n_rows,
        dropped={
            "special": n_special,
            "first": n_tokens - n_special - n_candidates,
            "massive": n_candidates - n_selected,
            "past_max_rows": n_selected - n_rows,
        },
        massive_by_layer=n_massive,
    )


def _check_documents(documents: Iterable[Any], folder: HarvestFolder) -> None:
    """Refuse to pass a complete harvest of other documents off as this one."""
    manifest = folder.manifest
    stream = iterate_documents(documents)
    digest = DocumentDigest()
    for document in islice(stream, manifest.counts.n_documents):
        digest.update(document)
    was_cut = manifest.counts.n_rows == manifest.settings.max_rows
    goes_on = not was_cut and next(stream, None) is not None
    if goes_on or digest.hexdigest() != manifest.documents_sha256:
        raise FileError(
            f"{folder.folder} exists and holds a harvest of other documents: choose another "
            "output folder or remove it"
        )
