"""Real input for the tests: hidden states of SmolLM2-135M reading Python's help texts.

`make test` fetches and converts the model beforehand; the tests themselves stay offline.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import settings

from bitcodec import BitCodec
from bitcodec.batches import HiddenBatches
from bitcodec_transformers import LanguageModel, harvest, load_model, pydoc_topics

if TYPE_CHECKING:
    from playwright.sync_api import Browser

# The same examples on every run, however slow the machine.
settings.register_profile("bitcodec", deadline=None, derandomize=True)
settings.load_profile("bitcodec")

LAYER = 15
N_ROWS = 4096


@pytest.fixture(scope="session")
def language_model() -> LanguageModel:
    return load_model("smollm2-135m")


@pytest.fixture(scope="session")
def harvest_folder(language_model: LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A harvest of 4,096 rows of layer 15, in text order, in two shards."""
    folder = tmp_path_factory.mktemp("harvest") / "hidden"
    harvest(
        pydoc_topics(),
        model=language_model,
        layers=[LAYER],
        output=folder,
        max_rows=N_ROWS,
        shard_rows=N_ROWS // 2,
    )
    return folder


@pytest.fixture(scope="session")
def hidden(harvest_folder: Path) -> np.ndarray:
    """(4096, 576) float32 states of that harvest."""
    batches = HiddenBatches(harvest_folder).batches(N_ROWS)
    return np.concatenate([batch.numpy() for batch in batches])


@pytest.fixture(scope="session")
def codec(hidden: np.ndarray) -> BitCodec:
    """A codec of 67 bits without search, so that the last byte has pad bits; not to be changed."""
    return BitCodec(n_bits=67, n_steps=60, batch_size=256, refine="none").fit(hidden[:3072])


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The URL of a PostgreSQL with pgvector: the one BITCODEC_TEST_POSTGRES names, or our own."""
    from tests.postgres import database

    with database() as url:
        yield url


@pytest.fixture(scope="session")
def cluster() -> Iterator[None]:
    """Ray with two cores of this machine; started once, for it takes seconds."""
    ray = pytest.importorskip("ray")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))  # of pytest, when not installed
        patch.setenv("RAY_worker_niceness", "0")  # else workers yield to whatever else runs
        ray.init(
            num_cpus=2,
            include_dashboard=False,
            object_store_memory=200_000_000,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    ray.data.DataContext.get_current().enable_progress_bars = False
    yield
    ray.shutdown()


@pytest.fixture(scope="module")  # while it runs, no other event loop can
def browser() -> Iterator[Browser]:
    """A headless Chromium; the test skips where none is installed."""
    from tests.browsing import chromium

    with chromium() as started:
        yield started


@pytest.fixture
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have training steps run what they run on a GPU, in place of the CPU's loops."""
    for module in ("sparse_products", "covariance"):
        monkeypatch.setattr(f"bitcodec.{module}.runs_loops", lambda _: False)
