r"""What encoding and decoding cost beside the bare matrix product, as ratios within one run.

Rows are SmolLM2-135M's hidden states of layer 15 on CPython's help texts; the codec is fitted here
on them (h = 2,304). Codes and floats are checked before anything is timed. Products, searches and
small batches are timed on one thread, in processor time, ours and the bare product in turns; files,
archives and imports in real time.

    python -m benchmarks.speed                  # all, into benchmarks/results/speed.json
    python -m benchmarks.speed --only products  # one part
    python -m benchmarks.speed --check          # compare with the committed ratios
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.results_file import RESULTS, merge_results
from bitcodec import BitCodec
from bitcodec.batches import HiddenBatches
from bitcodec.bits import unpack
from bitcodec.coder import PackedCoder
from bitcodec.config import Precision
from bitcodec.storage import PackedWriter, open_packed
from bitcodec_transformers import harvest, load_model, pydoc_topics
from bitcodec_zarr import PackedArchive, open_archive

NAME = "speed"
LAYER, N_ROWS, N_BITS = 15, 16384, 2304
CHUNK = 448
"""Rows of a bare product: as many as ours takes at a time."""
SMALL = (1, 8, 64)
TOLERANCE = 1.5
"""A ratio may be this many times the committed one before `--check` fails: machines are shared."""
ABOVE = "microseconds above the product"
GOALS = {
    "encode, float32": 1.25,
    "encode, bfloat16": 1.35,
    "decode, float32": 1.25,
    "decode, bfloat16": 1.25,
    "encode, bfloat16 over float32": 1 / 3,
    "search, fast": 3.0,
    "file to file over memory": 1.3,
    "import bitcodec": 1.2,
    "from bitcodec import BitCodec": 1.2,
    "slice of 64 rows, milliseconds": 5.0,
    "bitcodec --help, seconds": 0.3,
    "bitcodec info, seconds": 0.5,
    **{f"{what} {n} rows, {ABOVE}": 200.0 for what in ("encode", "decode") for n in SMALL},
}
"""The most that a figure should be."""


def main() -> int:
    """Measure and write, or measure and compare."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=list(PARTS), action="append", help="parts to measure")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--work", type=Path, default=Path("demo"), help="harvest and codec")
    parser.add_argument("--check", action="store_true", help="compare with the committed ratios")
    arguments = parser.parse_args()
    codec, rows = prepare(arguments.work)
    worse = []
    for part in arguments.only or list(PARTS):
        figures = PARTS[part](codec, rows, arguments.repeats)
        figures["missed"] = list(missed(figures))
        print(json.dumps({part: figures}, indent=2), flush=True)
        if arguments.check:
            worse += list(regressions(part, figures))
        else:
            merge_results(NAME, [part], figures)
    for line in worse:
        print(line)
    return 1 if worse else 0


def prepare(work: Path) -> tuple[BitCodec, np.ndarray]:
    """Return the codec and (n, 576) rows, made once and kept in a folder."""
    hidden, folder = work / "speed-hidden", work / "speed-codec"
    if not hidden.is_dir():
        work.mkdir(exist_ok=True)
        model = load_model("smollm2-135m")
        harvest(pydoc_topics(), model=model, layers=[LAYER], output=hidden, max_rows=N_ROWS)
    rows = np.concatenate([batch.numpy() for batch in HiddenBatches(hidden).batches(4096)])
    if not folder.is_dir():
        BitCodec(n_bits=N_BITS, n_steps=300).fit(rows).save(folder)
    return BitCodec.load(folder, device="cpu"), rows


def measure_products(codec: BitCodec, rows: np.ndarray, repeats: int) -> dict[str, Any]:
    """Time encoding and decoding beside products of the same shapes and chunks."""
    torch.set_num_threads(1)
    precisions: tuple[Precision, ...] = ("float32", "bfloat16")
    coders = {precision: PackedCoder(codec._model, precision=precision) for precision in precisions}
    figures: dict[str, Any] = {}
    seconds = {}
    for precision, coder in coders.items():
        packed = check_products(codec, coder, rows)
        bare = bare_products(codec, rows, packed, precision)
        for what, work in (
            ("encode", partial(coder.encode, torch.from_numpy(rows))),
            ("decode", partial(coder.decode, packed)),
        ):
            pairs = in_turns(work, bare[what], repeats)
            figures[f"{what}, {precision}"] = ratio(pairs)
            seconds[what, precision] = statistics.median(own for own, _ in pairs)
            figures[f"{what}, {precision}"] |= {
                "rows_per_second": round(len(rows) / seconds[what, precision])
            }
        share = np.bitwise_count(packed).sum() / (len(packed) * codec.n_bits_)
        figures[f"decode, {precision}"]["share_of_bits_on"] = round(float(share), 4)
    figures["encode, bfloat16 over float32"] = {
        "median": round(seconds["encode", "bfloat16"] / seconds["encode", "float32"], 3)
    }
    return figures


def check_products(codec: BitCodec, coder: PackedCoder, rows: np.ndarray) -> np.ndarray:
    """Assert that codes and floats are those of float64 up to rounding; return the codes."""
    packed = coder.encode(torch.from_numpy(rows))
    state = {name: value.double().numpy() for name, value in codec._model.state_dict().items()}
    few, bits = rows[:512].astype(np.float64), unpack(packed[:512], n_bits=codec.n_bits_)
    logits = (few - state["mean"]) / state["scale"] @ state["encoder_weight"].T
    logits += state["encoder_bias"]
    margin = 1e-4 if coder.precision == "float32" else 0.1
    clear = np.abs(logits) > margin
    assert (bits[clear] == (logits >= 0)[clear]).all()
    assert clear.mean() > 0.8
    expected = (bits @ state["decoder_weight"] + state["decoder_bias"]) * state["scale"]
    close = 1e-4 if coder.precision == "float32" else 0.02
    error = np.abs(coder.decode(packed[:512]) - expected - state["mean"])
    assert (error <= close * np.abs(expected).max(axis=0)).all()
    return packed


def bare_products(
    codec: BitCodec, rows: np.ndarray, packed: np.ndarray, precision: Precision
) -> dict[str, Callable[[], None]]:
    """Return the products alone: inputs as they are to be, into one buffer, chunk by chunk."""
    dtype = getattr(torch, precision)
    model = codec._model
    bits = torch.from_numpy(unpack(packed, n_bits=codec.n_bits_)).to(dtype)
    operands = {
        "encode": (torch.from_numpy(rows).to(dtype), model.encoder_weight.detach().T),
        "decode": (bits, model.decoder_weight.detach()),
    }
    return {
        what: partial(multiply, left, right.to(dtype).contiguous())
        for what, (left, right) in operands.items()
    }


@torch.inference_mode()
def multiply(left: torch.Tensor, right: torch.Tensor) -> None:
    """Multiply chunk by chunk into one buffer."""
    product = torch.empty(CHUNK, right.shape[1], dtype=left.dtype)
    for part in left.split(CHUNK):
        torch.mm(part, right, out=product[: len(part)])


def measure_small_batches(codec: BitCodec, rows: np.ndarray, repeats: int) -> dict[str, Any]:
    """Time what a call costs beyond the product of as many rows, in microseconds."""
    torch.set_num_threads(1)
    codec.set_params(refine="none")
    packed = codec.encode(rows[: max(SMALL)])
    bits = torch.from_numpy(unpack(packed, n_bits=codec.n_bits_)).float()
    encoder = codec._model.encoder_weight.detach().T.contiguous()
    decoder = codec._model.decoder_weight.detach()
    figures = {}
    for n in SMALL:
        few, codes = rows[:n], packed[:n]
        for what, work, left, right in (
            ("encode", partial(codec.encode, few), torch.from_numpy(few), encoder),
            ("decode", partial(codec.decode, codes), bits[:n], decoder),
        ):
            pairs = in_turns(work, partial(multiply, left, right), 20 * repeats)
            above = statistics.median(own - bare for own, bare in pairs)
            figures[f"{what} {n} rows, {ABOVE}"] = round(above * 1e6, 1)
    return figures


def measure_search(codec: BitCodec, rows: np.ndarray, repeats: int) -> dict[str, Any]:
    """Time search-based encoding beside the linear pass, and on more threads than one."""
    few = rows[:4096]
    torch.set_num_threads(1)
    linear, searched = codec.encode(few, refine="none"), codec.encode(few, refine="fast")
    refiner, z = codec._refiner(), codec._model.standardise(torch.from_numpy(few)).detach().numpy()
    costs = [
        refiner.objective(z, unpack(codes, n_bits=codec.n_bits_)) for codes in (linear, searched)
    ]
    assert (costs[1] <= costs[0] * (1 + 1e-12)).all(), "a searched code costs more than its start"
    pairs = in_turns(
        lambda: codec.encode(few, refine="fast"),
        lambda: codec.encode(few, refine="none"),
        repeats,
    )
    figures: dict[str, Any] = {"search, fast": ratio(pairs)}
    for n_threads in sorted({1, os.cpu_count() or 1}):
        torch.set_num_threads(n_threads)
        times = [wall(lambda: codec.encode(few, refine="fast")) for _ in range(repeats)]
        rate = round(len(few) / statistics.median(times))
        figures[f"search, fast, {n_threads} threads, rows per second"] = rate
    return figures


def measure_files(codec: BitCodec, rows: np.ndarray, repeats: int) -> dict[str, Any]:
    """Time encoding from a file to a file beside encoding in memory, on all cores."""
    torch.set_num_threads(os.cpu_count() or 1)
    codec.set_params(refine="none")
    with tempfile.TemporaryDirectory() as scratch:
        source, target = Path(scratch) / "hidden.npy", Path(scratch) / "codes.npy"
        np.save(source, rows)

        def through_files() -> None:
            forget(source)
            with PackedWriter(
                target, n_bits=codec.n_bits_, fingerprint=codec.fingerprint_, overwrite=True
            ) as writer:
                for packed in codec.encode_batches(source):
                    writer.append(packed)

        through_files()
        _, written = open_packed(target, fingerprint=codec.fingerprint_)
        np.testing.assert_array_equal(written, codec.encode(rows))
        pairs = in_turns(through_files, lambda: codec.encode(rows), repeats, clock=wall)
    return {"file to file over memory": ratio(pairs)}


def measure_archive(codec: BitCodec, rows: np.ndarray, repeats: int) -> dict[str, Any]:
    """Time writing and reading an archive on all cores, and a slice of one just opened."""
    torch.set_num_threads(os.cpu_count() or 1)
    packed = codec.encode(rows, refine="none")
    times = [archive_times(codec, packed, start=997 * turn) for turn in range(repeats)]
    write, read, slice_ = (statistics.median(column) for column in zip(*times, strict=True))
    return {
        "write, rows per second": round(len(packed) / write),
        "read, rows per second": round(len(packed) / read),
        "slice of 64 rows, milliseconds": round(slice_ * 1e3, 2),
    }


def archive_times(codec: BitCodec, packed: np.ndarray, *, start: int) -> tuple[float, float, float]:
    """Return the seconds to write an archive, to read it, and to open it for 64 rows."""
    with tempfile.TemporaryDirectory() as scratch:
        archive = PackedArchive.create(Path(scratch), codec)
        write = wall(lambda: archive.append(packed))
        found: list[np.ndarray] = []
        read = wall(lambda: found.append(open_archive(scratch)[:]))
        for path in Path(scratch).rglob("*"):
            if path.is_file():
                forget(path)
        rows = slice(start, start + 64)
        slice_ = wall(lambda: found.append(open_archive(scratch)[rows]))
        np.testing.assert_array_equal(found[0], packed)
        np.testing.assert_array_equal(found[1], packed[rows])
    return write, read, slice_


def measure_start(codec: BitCodec, rows: np.ndarray, repeats: int) -> dict[str, Any]:
    """Time imports and the command line in fresh processes."""
    del rows
    with tempfile.TemporaryDirectory() as scratch:
        codec.save(Path(scratch) / "codec")
        commands = {
            "import torch": ["-c", "import torch"],
            "import bitcodec": ["-c", "import bitcodec"],
            "from bitcodec import BitCodec": ["-c", "from bitcodec import BitCodec"],
            "bitcodec --help": ["-m", "bitcodec_cli", "--help"],
            "bitcodec info": ["-m", "bitcodec_cli", "info", str(Path(scratch) / "codec")],
        }
        seconds = {
            name: [wall(partial(start_python, command)) for _ in range(max(3, repeats // 2))]
            for name, command in commands.items()
        }
    middle = {name: statistics.median(times) for name, times in seconds.items()}
    return {
        "import bitcodec": {"median": round(middle["import bitcodec"] / middle["import torch"], 3)},
        "from bitcodec import BitCodec": {
            "median": round(middle["from bitcodec import BitCodec"] / middle["import torch"], 3)
        },
        "bitcodec --help, seconds": round(middle["bitcodec --help"], 3),
        "bitcodec info, seconds": round(middle["bitcodec info"], 3),
    }


PARTS: dict[str, Callable[[BitCodec, np.ndarray, int], dict[str, Any]]] = {
    "products": measure_products,
    "small batches": measure_small_batches,
    "search": measure_search,
    "files": measure_files,
    "archive": measure_archive,
    "start": measure_start,
}


def missed(figures: dict[str, Any]) -> Iterator[str]:
    """Yield the figures that are above their goal."""
    for name, figure in figures.items():
        value = figure["median"] if isinstance(figure, dict) else figure
        if name in GOALS and value > GOALS[name]:
            yield f"{name}: {value}, goal {GOALS[name]:.3g}"


def regressions(part: str, figures: dict[str, Any]) -> Iterator[str]:
    """Yield a line for each ratio that is far above the committed one."""
    committed = json.loads((RESULTS / f"{NAME}.json").read_text(encoding="utf-8"))
    for name, figure in figures.items():
        if isinstance(figure, dict):
            before = committed["results"][part][name]["median"]
            if figure["median"] > TOLERANCE * before:
                yield f"{name}: {figure['median']}, committed {before}"


def in_turns(
    own: Callable[[], object],
    bare: Callable[[], object],
    repeats: int,
    *,
    clock: Callable[[Callable[[], object]], float] | None = None,
) -> list[tuple[float, float]]:
    """Time two pieces of work one after the other, again and again, after one round unmeasured."""
    seconds = clock or processor
    own(), bare()
    return [(seconds(own), seconds(bare)) for _ in range(repeats)]


def processor(work: Callable[[], object]) -> float:
    """Return the processor time of some work, in seconds."""
    began = time.process_time()
    work()
    return time.process_time() - began


def wall(work: Callable[[], object]) -> float:
    """Return the real time of some work, in seconds."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def ratio(pairs: list[tuple[float, float]]) -> dict[str, Any]:
    """Return the median of the ratios within a turn, and the quartiles."""
    low, middle, high = statistics.quantiles([own / bare for own, bare in pairs], n=4)
    return {"median": round(middle, 3), "quartiles": [round(low, 3), round(high, 3)]}


def forget(path: Path) -> None:
    """Drop a file from the system's cache, so that it is read from the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(handle)


def start_python(arguments: list[str]) -> None:
    """Run Python and wait for it."""
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    sys.exit(main())
