"""Records of a training in trackers and in a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bitcodec import BitCodec
from bitcodec.errors import ShapeError
from bitcodec.tracking import draw_history, to_tensorboard, to_wandb

SMALL = {"n_bits": 24, "n_steps": 6, "batch_size": 128, "refine": "none"}
NAMES = {"loss", "fvu", "entropy_bits", "covariance", "entropy_weight", "n_revived", "seconds"}


class Writer:
    """Remembers what it is told, as TensorBoard's writer and a run of Weights & Biases are told."""

    def __init__(self) -> None:
        self.scalars: list[tuple[str, float, int]] = []
        self.logged: list[tuple[dict[str, Any], int]] = []

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None:
        self.scalars.append((tag, scalar_value, global_step))

    def log(self, data: dict[str, Any], step: int) -> None:
        self.logged.append((data, step))


def test_tensorboard_gets_every_number_of_every_step(hidden: np.ndarray) -> None:
    writer = Writer()
    codec = BitCodec().set_params(**SMALL)
    codec.fit(hidden[:600], on_record=to_tensorboard(writer, prefix="fit"))
    assert {tag for tag, _, _ in writer.scalars} == {f"fit/{name}" for name in NAMES}
    found = [(value, step) for tag, value, step in writer.scalars if tag == "fit/fvu"]
    assert found == [(record.fvu, record.step) for record in codec.history_]


def test_weights_and_biases_gets_every_number_of_every_step(hidden: np.ndarray) -> None:
    writer = Writer()
    codec = BitCodec().set_params(**SMALL).fit(hidden[:600], on_record=to_wandb(writer))
    assert [step for _, step in writer.logged] == [1, 2, 3, 4, 5, 6]
    assert {name for data, _ in writer.logged for name in data} == NAMES
    assert writer.logged[-1][0]["loss"] == codec.history_[-1].loss


def test_the_picture_of_a_history_shows_what_was_recorded(
    hidden: np.ndarray, tmp_path: Path
) -> None:
    codec = BitCodec().set_params(**SMALL).fit(hidden[:600])
    figure = draw_history(codec.history_)
    drawn = figure.axes[0].lines[0].get_ydata()
    np.testing.assert_array_equal(drawn, [record.fvu for record in codec.history_])
    figure.savefig(tmp_path / "history.png")
    assert (tmp_path / "history.png").stat().st_size > 5000


def test_a_codec_without_a_history_has_no_picture(codec: BitCodec, tmp_path: Path) -> None:
    codec.save(tmp_path / "codec")
    with pytest.raises(ShapeError, match="the history has no records"):
        draw_history(BitCodec.load(tmp_path / "codec").history_)
