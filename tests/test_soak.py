"""A minute of what `benchmarks.soak` does for hours: mixed use against a brute-force model."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from benchmarks.soak_machine import IndexMachine, Material, Tally
from bitcodec import BitCodec
from bitcodec_faiss import HammingIndex

SETTINGS = settings(
    max_examples=15,
    stateful_step_count=30,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)

GENERATED = settings(SETTINGS, phases=[Phase.generate])
"""Without making a failing example small, which takes minutes."""


@pytest.fixture(scope="module")
def material(codec: BitCodec, hidden: np.ndarray) -> Material:
    small = BitCodec.preset("search", n_bits=20, n_steps=20, batch_size=128).fit(hidden[:1000])
    return Material(hidden[:500], (codec, small))


def machine_on(material_: Material) -> type[IndexMachine]:
    class Machine(IndexMachine):
        material = material_
        tally = Tally()

    return Machine


def test_any_order_of_uses_gives_what_brute_force_gives(material: Material) -> None:
    machine = machine_on(material)
    run_state_machine_as_test(machine, settings=SETTINGS)
    assert machine.tally.n_steps > 200
    assert machine.tally.n_compared > machine.tally.n_steps


def test_the_model_sees_a_row_that_is_lost(
    material: Material, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = HammingIndex.search_packed

    def last_hit_twice(index: HammingIndex, *args: object, **more: object) -> object:
        result = found(index, *args, **more)  # type: ignore[arg-type]
        ids = result.ids.copy()
        ids[..., 1:2] = ids[..., :1]
        return dataclasses.replace(result, ids=ids)

    monkeypatch.setattr(HammingIndex, "search_packed", last_hit_twice)
    with pytest.raises(BaseException, match="state = Machine"):
        run_state_machine_as_test(machine_on(material), settings=GENERATED)
