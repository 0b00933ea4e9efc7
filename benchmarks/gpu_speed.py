r"""Encoding and decoding on a GPU as shares of the rate of its bare matrix product.

d = 2,048, h = 8,192, bfloat16, rows that are already on the device, codes that stay there. Codes
and floats are checked against the CPU's first. The times of a bare product of the same chunks and
of our work are taken in turns by events on the device: encoding by the library's product and a
kernel that packs, encoding by one kernel, decoding. A step of training is timed as it stands and
recorded as a CUDA graph.

    python -m benchmarks.gpu_speed              # needs a CUDA device and Triton
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable
from functools import partial

import numpy as np
import torch

from benchmarks.results_file import save_results
from bitcodec.coder import PackedCoder
from bitcodec.config import CodecConfig
from bitcodec.model import BinaryAutoencoder
from bitcodec.products import EncodingProduct, chunk_rows
from bitcodec.replay import WARM_UP
from bitcodec.training import Trainer

N_ROWS, N_DIMS, N_BITS = 2**16, 2048, 8192
BATCH = 4096
"""Rows of a step of training."""
GOAL = 0.8
"""Of the product's rate that encoding and decoding should reach."""


def main() -> int:
    """Measure and write benchmarks/results/gpu_speed.json; return 1 where there is no GPU."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=30)
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        print("there is no CUDA device here: nothing was measured", file=sys.stderr)
        return 1
    model = random_model()
    rows = torch.randn(N_ROWS, N_DIMS, generator=torch.Generator().manual_seed(1)).cuda()
    coder = PackedCoder(model.cuda(), precision="bfloat16")
    check(coder, PackedCoder(random_model(), precision="bfloat16"), rows[:256])
    packed = coder.encode_on_device(rows)
    one_kernel = EncodingProduct(model, precision="bfloat16", fused=True)
    check_fused(one_kernel, rows[:256], packed[:256])
    narrow, wide = torch.bfloat16, (N_ROWS, N_BITS)
    weight = model.encoder_weight.detach().to(narrow)
    bits = torch.randint(0, 2, wide, device="cuda").to(narrow)
    product = partial(multiply, rows.to(narrow), weight.T.contiguous())
    work: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
        "encode": (partial(coder.encode_on_device, rows), product),
        "encode, one kernel": (partial(encode, one_kernel, rows), product),
        "decode": (partial(coder.decode_on_device, packed), partial(multiply, bits, weight)),
    }
    figures = {
        name: share(own, bare, repeats=arguments.repeats) for name, (own, bare) in work.items()
    }
    steps = training_steps(rows, repeats=arguments.repeats)
    print(figures, steps)
    card = {"card": torch.cuda.get_device_name()}
    print(save_results("gpu_speed", {**card, **figures, "training step": steps}))
    return 0


def random_model() -> BinaryAutoencoder:
    """Draw an autoencoder; what it costs does not depend on its weights."""
    torch.manual_seed(0)
    model = BinaryAutoencoder(n_dims=N_DIMS, n_bits=N_BITS)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    return model


def check(coder: PackedCoder, on_cpu: PackedCoder, rows: torch.Tensor) -> None:
    """Assert that codes and floats are the CPU's up to rounding."""
    packed, expected = coder.encode(rows), on_cpu.encode(rows.cpu())
    differing = np.bitwise_count(packed ^ expected).sum() / (len(rows) * N_BITS)
    assert differing < 1e-3, f"{differing:.2%} of the bits differ from the CPU's"
    decoded, close = coder.decode(expected), on_cpu.decode(expected)
    assert np.abs(decoded - close).max() < 0.02 * np.abs(close).max()


def check_fused(product: EncodingProduct, rows: torch.Tensor, expected: torch.Tensor) -> None:
    """Assert that one kernel gives the codes of two, up to the order in which it adds."""
    differing = np.bitwise_count((product.encode(rows) ^ expected).cpu().numpy()).sum()
    assert differing < 1e-3 * len(rows) * N_BITS, f"{differing} bits differ between the kernels"


def encode(product: EncodingProduct, rows: torch.Tensor) -> None:
    """Encode in chunks as large as the codec's."""
    for part in rows.split(chunk_rows(N_BITS, rows.device)):
        product.encode(part)


def training_steps(rows: torch.Tensor, *, repeats: int) -> dict[str, float]:
    """Return the median seconds of a step as it stands and recorded, and their ratio."""
    config = CodecConfig(n_bits=N_BITS, batch_size=BATCH, n_steps=2**20, precision="bfloat16")
    trainers = [Trainer(random_model().cuda(), config, capture=kept) for kept in (False, True)]
    minibatch = rows[:BATCH]
    for trainer in trainers:
        for _ in range(WARM_UP + 2):
            trainer.step(minibatch)
    eager, recorded = trainers
    pairs = [
        (seconds(partial(eager.step, minibatch)), seconds(partial(recorded.step, minibatch)))
        for _ in range(repeats)
    ]
    return {
        "eager_seconds": statistics.median(plain for plain, _ in pairs),
        "recorded_seconds": statistics.median(replayed for _, replayed in pairs),
        "recorded_over_eager": round(statistics.median(b / a for a, b in pairs), 3),
    }


def multiply(left: torch.Tensor, right: torch.Tensor) -> None:
    """Multiply in chunks as large as the codec's, into one buffer."""
    size = chunk_rows(N_BITS, left.device)
    product = torch.empty(size, right.shape[1], dtype=left.dtype, device=left.device)
    for part in left.split(size):
        torch.mm(part, right, out=product[: len(part)])


def share(
    own: Callable[[], object], bare: Callable[[], object], *, repeats: int
) -> dict[str, float]:
    """Return the median share of the bare product's rate, its quartiles, and our rows a second."""
    own(), bare()
    pairs = [(seconds(own), seconds(bare)) for _ in range(repeats)]
    low, middle, high = statistics.quantiles([theirs / ours for ours, theirs in pairs], n=4)
    rate = N_ROWS / statistics.median([ours for ours, _ in pairs])
    return {
        "share_of_product": round(middle, 3),
        "lower_quartile": round(low, 3),
        "upper_quartile": round(high, 3),
        "goal": GOAL,
        "rows_per_second": round(rate),
    }


def seconds(work: Callable[[], object]) -> float:
    """Return the device's time for some work."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    work()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) / 1e3


if __name__ == "__main__":
    sys.exit(main())
