"""A codec on its way to a worker: the bytes of its folder, never a pickle of it."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from bitcodec import BitCodec
from bitcodec.pickling import Files, restored_folder, saved_files
from bitcodec_ray.workers import Workers


@dataclass(frozen=True)
class ShippedCodec:
    """The files of a codec's folder, by name."""

    files: Files
    """Their contents."""
    fingerprint: str
    """Of the codec."""

    @classmethod
    def of(cls, codec: BitCodec) -> ShippedCodec:
        """Take the files of a codec.

        Raises:
            NotFittedError: the codec was not fitted.
        """
        return cls(saved_files(codec.save), codec.fingerprint_)

    def load(self, workers: Workers) -> BitCodec:
        """Load the codec in a worker, whose threads of torch become those it was given.

        Raises:
            FormatError: the files were damaged on the way, or are of a newer format.
        """
        torch.set_num_threads(workers.num_cpus)
        with restored_folder(self.files) as folder:
            return BitCodec.load(folder, device=workers.device)
