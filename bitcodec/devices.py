"""Which device computes."""

from __future__ import annotations

import torch

from bitcodec.errors import ConfigError


def resolve_device(device: str) -> torch.device:
    """Return the torch device of a name.

    Args:
        device: "auto" for CUDA where there is one and else the CPU, or a torch device.

    Raises:
        ConfigError: the device is unknown or not on this machine.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:  # unknown, or torch was built without it
        raise ConfigError(
            f'device must be "auto" or a torch device of this machine, got {device!r}'
        ) from error
