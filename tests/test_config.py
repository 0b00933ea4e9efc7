"""Parameters: checked, converted, presets, and the message for a missing extra."""

from __future__ import annotations

import dataclasses
import json
import sys
from typing import Any

import numpy as np
import pytest

from bitcodec import BitCodec
from bitcodec.config import CodecConfig
from bitcodec.errors import ConfigError, MissingExtraError
from bitcodec.extras import import_extra
from bitcodec.presets import PRESETS, preset


def test_a_configuration_survives_json() -> None:
    config = CodecConfig(n_bits=9, covariance_columns=None, surrogate="identity", seed=4)
    assert CodecConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_a_configuration_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError, match="n_bits"):
        CodecConfig().n_bits = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("expansion", 0, "positive"),
        ("expansion", float("nan"), "a finite number"),
        ("expansion", float("inf"), "a finite number"),
        ("expansion", "4", "a finite number"),
        ("n_bits", 0, "at least 1"),
        ("n_bits", 64.5, "a whole number"),
        ("n_bits", "64", "a whole number"),
        ("entropy_weight", -0.1, "at least 0"),
        ("entropy_weight", None, "a finite number"),
        ("covariance_weight", -1, "at least 0"),
        ("covariance_columns", 0, "at least 1, or None for all"),
        ("covariance_columns", 2.5, "a whole number"),
        ("initial_activity", 0, "between 0 and 1"),
        ("initial_activity", 1, "between 0 and 1"),
        ("surrogate", "step", "one of sigmoid, clipped, gumbel, identity, published"),
        ("surrogate", ["sigmoid"], "one of sigmoid, clipped, gumbel, identity, published"),
        ("temperature", 0, "positive"),
        ("learning_rate", -1e-3, "positive"),
        ("batch_size", 1, "at least 2"),
        ("batch_size", 128.0, "a whole number"),
        ("n_steps", 0, "at least 1"),
        ("n_steps", 10.5, "a whole number"),
        ("constant", "drop", "one of refuse, keep"),
        ("seed", None, "a whole number"),
        ("seed", 2**70, "at least 0 and below"),
    ],
)
def test_a_wrong_value_is_refused_with_what_is_right(name: str, value: Any, expected: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} must be {expected}.*, got") as raised:
        CodecConfig.from_dict({name: value})
    assert "\n" not in str(raised.value)


def test_numbers_of_numpy_become_numbers_of_python() -> None:
    values = {"n_bits": np.int64(9), "temperature": np.float32(0.5), "expansion": np.int8(2)}
    config = CodecConfig.from_dict(values)
    assert [type(getattr(config, name)) for name in values] == [int, float, float]


def test_an_unknown_parameter_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="unknown parameter 'bits': known are expansion, n_bits"):
        CodecConfig.from_dict({"bits": 9})


@pytest.mark.parametrize(
    ("parameters", "n_dims", "n_bits"),
    [
        ({}, 576, 2304),
        ({"expansion": 0.5}, 3, 2),
        ({"expansion": 0.1}, 2, 1),
        ({"n_bits": 9}, 5, 9),
    ],
)
def test_the_number_of_bits_follows_from_the_width_unless_it_is_given(
    parameters: dict[str, Any], n_dims: int, n_bits: int
) -> None:
    assert CodecConfig.from_dict(parameters).resolve_n_bits(n_dims) == n_bits


# the codec's parameters


def test_a_codec_has_the_parameters_and_defaults_of_the_configuration() -> None:
    assert BitCodec().get_params() == CodecConfig().to_dict()


def test_a_codec_stores_parameters_as_given_and_checks_them_when_it_is_fitted() -> None:
    codec = BitCodec(n_steps=-1)
    assert codec.n_steps == -1
    with pytest.raises(ConfigError, match="n_steps must be at least 1, got -1"):
        codec.fit(np.zeros((10, 2), np.float32))


def test_setting_parameters_changes_them_and_gives_the_codec_itself() -> None:
    codec = BitCodec(seed=3)
    assert codec.set_params(n_bits=9, temperature=2.0) is codec
    assert (codec.n_bits, codec.temperature, codec.seed) == (9, 2.0, 3)


def test_setting_an_unknown_parameter_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="unknown parameter 'bits': known are expansion, n_bits"):
        BitCodec().set_params(bits=9)


def test_a_codec_shows_what_differs_from_the_defaults() -> None:
    assert repr(BitCodec(n_bits=9, surrogate="identity")) == (
        "BitCodec(n_bits=9, surrogate='identity')"
    )


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_gives_its_parameters_and_takes_others(name: str) -> None:
    codec = BitCodec.preset(name, seed=7)
    assert codec.get_params() == {**CodecConfig().to_dict(), **preset(name), "seed": 7}
    CodecConfig.from_dict(codec.get_params())


def test_a_parameter_that_is_given_beats_the_preset() -> None:
    assert BitCodec.preset("search", expansion=2.0).expansion == 2.0


def test_an_unknown_preset_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="unknown preset 'best': known are archive, search"):
        BitCodec.preset("best")


# extras


def test_a_missing_extra_names_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(MissingExtraError, match=r"faiss is not installed: run `pip install 'bitc"):
        import_extra("faiss", extra="faiss")


def test_a_fault_inside_an_extra_is_not_taken_for_a_missing_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    (tmp_path / "broken_extra.py").write_text("import a_module_that_is_not_there")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="a_module_that_is_not_there") as raised:
        import_extra("broken_extra", extra="faiss")
    assert not isinstance(raised.value, MissingExtraError)
