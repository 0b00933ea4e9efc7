"""Many threads share one codec and one index: right answers, and global settings as they were."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import faiss
import numpy as np
import pytest
import torch

from bitcodec import BitCodec
from bitcodec.threads import row_parts, run
from bitcodec_faiss import AsymmetricIndex, HammingIndex

N_THREADS = 16
ENDING = """
import threading
from bitcodec.threads import row_parts, run

main = threading.current_thread()

def late():
    main.join()
    print(sum(run(lambda part: part.stop, row_parts(6, n_threads=3))))

threading.Thread(target=late).start()
"""


def at_once(work: Callable[[int], Any]) -> list[Any]:
    """Do numbered work in 16 threads, 64 times."""
    with ThreadPoolExecutor(N_THREADS) as pool:
        return list(pool.map(work, range(4 * N_THREADS)))


def settings() -> tuple[object, ...]:
    """Give what belongs to the process, not to a call."""
    state = torch.get_rng_state().sum().item()
    numpy_state = np.random.get_state(legacy=False)["state"]["key"].sum()  # noqa: NPY002
    return (
        torch.get_num_threads(),
        faiss.omp_get_max_threads(),
        torch.get_default_dtype(),
        torch.is_grad_enabled(),
        state,
        numpy_state,
    )


@pytest.mark.parametrize("refine", ["none", "fast"])
def test_sixteen_threads_encode_and_decode_as_one_does(
    codec: BitCodec, hidden: np.ndarray, refine: Any
) -> None:
    rows, before = hidden[:512], settings()
    packed = codec.encode(rows, refine=refine)
    decoded = codec.decode(packed)

    def work(number: int) -> bool:
        part = slice(number, number + 1 + 5 * number)
        same = np.array_equal(codec.encode(rows[part], refine=refine), packed[part])
        return same and np.allclose(codec.decode(packed[part]), decoded[part], atol=1e-4)

    assert all(at_once(work))
    assert settings() == before


@pytest.mark.parametrize("factory", ["Flat", "IVF16", "HNSW8"])
def test_sixteen_threads_search_an_index_as_one_does(
    codec: BitCodec, hidden: np.ndarray, factory: str
) -> None:
    index = HammingIndex(codec, factory=factory)
    index.add(hidden[:2000])
    queries, before = codec.encode(hidden[2000:2050]), settings()
    wanted = index.search_packed(queries, k=5)
    near = index.range_search_packed(queries, radius=6)

    def work(number: int) -> bool:
        found = index.search_packed(queries, k=5, n_threads=1 + number % 3)
        within = index.range_search_packed(queries, radius=6)
        return (
            np.array_equal(found.ids, wanted.ids)
            and np.array_equal(within.ids, near.ids)
            and np.array_equal(within.limits, near.limits)
        )

    assert all(at_once(work))
    assert settings() == before


def test_threads_that_search_other_numbers_of_lists_do_not_disturb_each_other(
    codec: BitCodec, hidden: np.ndarray
) -> None:
    index = HammingIndex(codec, factory="IVF16")
    index.add(hidden[:3000])
    queries = codec.encode(hidden[3000:3200])
    efforts = [1, 2, 4, 16]
    nearest = {n: index.search_packed(queries, k=20, nprobe=n).scores for n in efforts}
    within = {n: index.range_search_packed(queries, radius=8, nprobe=n).ids for n in efforts}
    assert len(within[1]) < len(within[16])

    def work(number: int) -> bool:
        n = efforts[number % len(efforts)]
        return np.array_equal(
            index.search_packed(queries, k=20, nprobe=n).scores, nearest[n]
        ) and np.array_equal(index.range_search_packed(queries, radius=8, nprobe=n).ids, within[n])

    assert all(at_once(work))


@pytest.mark.parametrize("factory", ["Flat", "FastScan"])
def test_sixteen_threads_score_float_queries_as_one_does(
    codec: BitCodec, hidden: np.ndarray, factory: Any
) -> None:
    index = AsymmetricIndex(codec, factory=factory, metric="l2")
    index.add(hidden[:2000])
    queries, before = hidden[2000:2032], settings()
    fresh = AsymmetricIndex(codec, factory=factory, metric="l2")
    fresh.add(hidden[:2000])
    wanted = index.search(queries, k=5)

    def work(number: int) -> bool:
        searched = fresh if number % 2 else index  # fresh: what is derived from rows is not yet
        return np.array_equal(searched.search(queries, k=5).ids, wanted.ids)

    assert all(at_once(work))
    assert settings() == before


def test_torch_and_faiss_keep_computing_right_beside_each_other(
    codec: BitCodec, hidden: np.ndarray
) -> None:
    packed = codec.encode(hidden)
    index = HammingIndex(codec)
    index.add_packed(packed)
    wanted = index.search_packed(packed[:100], k=10).ids
    matrix = torch.randn(300, 300, generator=torch.Generator().manual_seed(0))
    product = matrix @ matrix

    def work(number: int) -> bool:
        if number % 3 == 0:
            return torch.allclose(matrix @ matrix, product, atol=1e-3)
        if number % 3 == 1:
            return np.array_equal(codec.encode(hidden[:700]), packed[:700])
        return np.array_equal(index.search_packed(packed[:100], k=10, n_threads=2).ids, wanted)

    assert all(at_once(work))


# parts of one call


def test_parts_are_done_at_once_and_returned_in_order() -> None:
    parts = row_parts(10, n_threads=4)
    assert [part.stop for part in parts] == [3, 6, 9, 10]
    meeting = threading.Barrier(4, timeout=20)

    def task(part: slice) -> int:
        meeting.wait()
        return int(part.stop)

    assert run(task, parts) == [3, 6, 9, 10]
    assert run(task, []) == []


@pytest.mark.parametrize("failing", [0, 1])
def test_a_task_that_fails_is_raised_after_the_others_are_done(failing: int) -> None:
    done = []

    def task(part: slice) -> None:
        if part.start == failing:
            raise ValueError("this part")
        time.sleep(0.2)
        done.append(part.start)

    with pytest.raises(ValueError, match="this part"):
        run(task, row_parts(3, n_threads=3))
    assert sorted(done) == [number for number in range(3) if number != failing]


def test_where_no_thread_can_be_started_what_runs_is_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begun: list[threading.Thread] = []
    done, start = [], threading.Thread.start

    def start_one(thread: threading.Thread) -> None:
        if begun:
            raise RuntimeError("can't start new thread")
        begun.append(thread)
        start(thread)

    def task(part: slice) -> None:
        time.sleep(0.2)
        done.append(part.start)

    monkeypatch.setattr(threading.Thread, "start", start_one)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        run(task, row_parts(3, n_threads=3))
    assert done == [1]


def test_a_thread_that_outlives_the_main_one_goes_on() -> None:
    command = [sys.executable, "-c", ENDING]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert result.stdout == "12\n", result.stderr
