"""A codec on its way to a worker: the bytes of its folder, never a pickle of it."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch

from bitcodec import BitCodec
from bitcodec_ray.workers import Workers


@dataclass(frozen=True)
class ShippedCodec:
    """The files of a codec's folder, by name."""

    files: dict[str, bytes]
    """Their contents."""
    fingerprint: str
    """Of the codec."""

    @classmethod
    def of(cls, codec: BitCodec) -> ShippedCodec:
        """Take the files of a codec.

        Raises:
            NotFittedError: the codec was not fitted.
        """
        with tempfile.TemporaryDirectory() as folder:
            codec.save(Path(folder) / "codec")
            paths = sorted((Path(folder) / "codec").iterdir())
            files = {path.name: path.read_bytes() for path in paths}
        return cls(files, codec.fingerprint_)

    def load(self, workers: Workers) -> BitCodec:
        """Load the codec in a worker, whose threads of torch become those it was given.

        Raises:
            FormatError: the files were damaged on the way, or are of a newer format.
        """
        torch.set_num_threads(workers.num_cpus)
        with tempfile.TemporaryDirectory() as folder:
            for name, content in self.files.items():
                (Path(folder) / name).write_bytes(content)
            return BitCodec.load(folder, device=workers.device)
