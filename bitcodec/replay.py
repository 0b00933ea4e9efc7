"""Work that a GPU does again and again, recorded once as a CUDA graph and replayed.

A recorded step costs the host one launch where it cost hundreds. What is recorded must read its
inputs from buffers that stay where they are, and ask the device for no number.

The recording itself has not been run on a GPU yet, only the logic around it: it is opt-in.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

import torch

from bitcodec.parallel import n_processes

logger = logging.getLogger(__name__)

WARM_UP = 3
"""Times that work runs before it is recorded: libraries set themselves up in the first."""

Result = TypeVar("Result")


class Recorder(Protocol):
    """How a device records."""

    def run(self, work: Callable[[], Result]) -> Result:
        """Do the work, in the surroundings in which it will be recorded."""

    def record(self, work: Callable[[], Result]) -> tuple[Result, Callable[[], None]]:
        """Record the work without doing it.

        Returns:
            Where its results will lie, and what does it.

        Raises:
            RuntimeError: the work cannot be recorded.
        """


class Replay(Generic[Result]):
    """Work that is run as it stands at first, and from then on replayed.

    Where it cannot be recorded a log line says so, and it goes on being run as it stands.

    Args:
        work: reads from and writes to memory that stays where it is.
        recorder: of the device.
    """

    def __init__(self, work: Callable[[], Result], recorder: Recorder) -> None:
        self._work, self._recorder = work, recorder
        self._n_runs = 0
        self._recorded: tuple[Result, Callable[[], None]] | None = None

    def __call__(self) -> Result:
        """Do the work once; its results are overwritten by the next call."""
        if self._n_runs == WARM_UP:
            self._record()
        self._n_runs += 1
        if self._recorded is None:
            return self._recorder.run(self._work)
        result, replay = self._recorded
        replay()
        return result

    def _record(self) -> None:
        try:
            self._recorded = self._recorder.record(self._work)
        except RuntimeError as error:
            logger.warning("a step is launched anew each time, it was not recorded: %s", error)


class CudaRecorder:
    """Records work as a CUDA graph.

    Args:
        generator: of the random numbers that the work draws, on the device.
    """

    def __init__(self, generator: torch.Generator) -> None:
        self._generator = generator
        self._stream = torch.cuda.Stream(generator.device)

    def run(self, work: Callable[[], Result]) -> Result:
        """Do the work on the stream on which it will be recorded."""
        usual = torch.cuda.current_stream(self._generator.device)
        self._stream.wait_stream(usual)
        with torch.cuda.stream(self._stream):
            result = work()
        usual.wait_stream(self._stream)
        return result

    def record(self, work: Callable[[], Result]) -> tuple[Result, Callable[[], None]]:
        """Record the work as a graph with memory of its own."""
        graph = torch.cuda.CUDAGraph()
        graph.register_generator_state(self._generator)
        with torch.cuda.graph(graph, stream=self._stream):
            result = work()
        return result, graph.replay


def recorder_for(generator: torch.Generator) -> Recorder | None:
    """Return what records work on the device of a generator, or None and a log line."""
    if generator.device.type == "cuda" and n_processes() == 1:
        return CudaRecorder(generator)
    where = f"on {generator.device} by {n_processes()} processes"
    logger.warning("steps are not recorded: that takes one process on CUDA, this is %s", where)
    return None
