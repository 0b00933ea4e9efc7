"""Check that codes and floats are the same by any number of threads, more than there are cores.

Run by a test in a process of its own: MKL_DYNAMIC=FALSE must be there before torch is imported, or
the library uses as many threads as it likes.
"""

from __future__ import annotations

import torch

from bitcodec.model import BinaryAutoencoder
from bitcodec.products import DecodingProduct, EncodingProduct
from bitcodec.scratch import Scratch

SHAPES = ((100, 37), (37, 100), (5, 3), (64, 200))


def main() -> None:
    for n_dims, n_bits in SHAPES:
        torch.manual_seed(0)
        model, rows = BinaryAutoencoder(n_dims=n_dims, n_bits=n_bits), torch.randn(300, n_dims)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter)
        outcomes = [results(model, rows, n_threads=count) for count in (1, 2, 3, 5, 8, 16)]
        for outcome in outcomes[1:]:
            for found, expected in zip(outcome, outcomes[0], strict=True):
                assert torch.equal(found, expected), (n_dims, n_bits)
    print("checked", len(SHAPES))


@torch.inference_mode()
def results(model: BinaryAutoencoder, rows: torch.Tensor, *, n_threads: int) -> list[torch.Tensor]:
    torch.set_num_threads(n_threads)
    logits = EncodingProduct(model)._stages[0].logits(model.standardise(rows), Scratch())
    few = torch.full((5, (model.n_bits + 7) // 8), 1, dtype=torch.uint8)
    return [logits.clone(), DecodingProduct(model).decode(few)]


if __name__ == "__main__":
    main()
