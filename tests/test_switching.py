"""Features held on or off while a model runs, against the same sums by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bitcodec import BitCodec
from bitcodec.errors import ConfigError, ShapeError, ValueRangeError
from bitcodec_transformers import LanguageModel, feature_directions, logit_lens, switched
from bitcodec_transformers.forward import block_outputs, find_blocks
from tests.test_harvest_forward import N_DIMS, tiny_model

LAYER = 2
FEATURES = {3: True, 5: False}


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return tiny_model("llama")


@pytest.fixture(scope="module")
def token_ids() -> torch.Tensor:
    return torch.randint(3, 250, (2, 9), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def states(model: LanguageModel, token_ids: torch.Tensor) -> np.ndarray:
    """(18, d) states of the layer as the model has them."""
    mask = torch.ones_like(token_ids)
    outputs = block_outputs(model.model, layers=[LAYER], token_ids=token_ids, mask=mask)
    return outputs[LAYER].reshape(-1, N_DIMS).numpy()


@pytest.fixture(scope="module")
def small(model: LanguageModel) -> BitCodec:
    """A codec of 12 bits of that layer."""
    token_ids = torch.randint(3, 250, (24, 16), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(token_ids)
    outputs = block_outputs(model.model, layers=[LAYER], token_ids=token_ids, mask=mask)
    hidden = outputs[LAYER].reshape(-1, N_DIMS).numpy()
    codec = BitCodec(
        n_bits=12, n_steps=20, batch_size=64, initial_activity=0.3, refine="none", device="cpu"
    )
    return codec.fit(hidden)


def logits_of(model: LanguageModel, token_ids: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        logits: torch.Tensor = model.model(token_ids).logits
    return logits


def test_a_direction_is_what_a_bit_adds_to_the_decoded_state(small: BitCodec) -> None:
    codes = np.zeros((2, small.row_bytes_), dtype=np.uint8)
    codes[1, 0] = 1 << 3
    off, on = small.decode(codes)
    np.testing.assert_allclose(feature_directions(small, [3])[0], on - off, atol=1e-5)


def test_the_model_goes_on_from_the_states_with_the_features_as_wanted(
    model: LanguageModel, small: BitCodec, token_ids: torch.Tensor, states: np.ndarray
) -> None:
    bits = small.encode_bits(states)
    expected = states.copy()
    for feature, on in FEATURES.items():
        code = np.zeros((2, small.row_bytes_), dtype=np.uint8)
        code[1, feature // 8] = 1 << feature % 8
        direction = np.diff(small.decode(code), axis=0)[0]
        expected += (on - bits[:, feature].astype(float))[:, None] * direction
    n_changed = int((bits[:, list(FEATURES)] != list(FEATURES.values())).any(axis=1).sum())
    assert 0 < n_changed < len(bits)
    block = find_blocks(model.model)[LAYER + 1]
    read: list[torch.Tensor] = []
    hook = block.register_forward_pre_hook(lambda _module, inputs: read.append(inputs[0]))
    with switched(model, small, layer=LAYER, features=FEATURES, median_norm=1e9) as counts:
        logits_of(model, token_ids)
    hook.remove()
    np.testing.assert_allclose(read[0].reshape(-1, N_DIMS).numpy(), expected, atol=1e-4)
    assert (counts.n_rows, counts.n_changed, counts.n_massive) == (18, n_changed, 0)


def test_features_that_are_as_wanted_leave_the_model_bit_for_bit(
    model: LanguageModel, small: BitCodec, token_ids: torch.Tensor, states: np.ndarray
) -> None:
    plain = logits_of(model, token_ids[:1, :1])
    first = small.encode_bits(states[:1])[0]
    wanted = {feature: bool(first[feature]) for feature in range(12)}
    with switched(model, small, layer=LAYER, features=wanted, median_norm=1e9) as counts:
        assert torch.equal(logits_of(model, token_ids[:1, :1]), plain)
    assert counts.n_changed == 0


def test_afterwards_the_model_is_as_it_was(
    model: LanguageModel, small: BitCodec, token_ids: torch.Tensor
) -> None:
    plain = logits_of(model, token_ids)
    with switched(model, small, layer=LAYER, features=FEATURES, median_norm=1e9):
        assert not torch.equal(logits_of(model, token_ids), plain)
    assert torch.equal(logits_of(model, token_ids), plain)


def test_massive_states_are_left_alone(
    model: LanguageModel, small: BitCodec, token_ids: torch.Tensor
) -> None:
    plain = logits_of(model, token_ids)
    with switched(model, small, layer=LAYER, features=FEATURES, median_norm=1e-9) as counts:
        assert torch.equal(logits_of(model, token_ids), plain)
    assert counts.n_massive == 18


def test_a_layer_a_feature_a_norm_or_a_width_that_does_not_exist_is_refused(
    model: LanguageModel, small: BitCodec, codec: BitCodec
) -> None:
    def enter(used: BitCodec = small, **changes: object) -> None:
        arguments = {"layer": LAYER, "features": {0: True}, "median_norm": 1.0} | changes
        with switched(model, used, **arguments):  # type: ignore[arg-type]
            pytest.fail("it was taken")

    with pytest.raises(ConfigError, match="layers must be between 0 and"):
        enter(layer=99)
    with pytest.raises(ValueRangeError, match="between 0 and 11, got 12"):
        enter(features={12: True})
    with pytest.raises(ValueRangeError, match="at least one feature"):
        enter(features={})
    with pytest.raises(ConfigError, match="median_norm must be a number above 0"):
        enter(median_norm=0.0)
    with pytest.raises(ConfigError, match="median_norm must be a number above 0, got None"):
        enter(median_norm=None)
    with pytest.raises(ValueRangeError, match=r"on or off, True or False, got \{0: 1.5\}"):
        enter(features={0: 1.5})
    with pytest.raises(ShapeError, match="got one fitted on 576"):
        enter(codec)


def test_a_codec_with_side_bytes_is_refused(hidden: np.ndarray) -> None:
    codec = BitCodec(n_bits=8, n_steps=2, side_bytes=2, batch_size=128, device="cpu")
    codec.fit(hidden[:256])
    with pytest.raises(ConfigError, match="no side bytes, got 2"):
        feature_directions(codec, [0])


def test_on_smollm2_a_feature_held_on_raises_the_token_its_direction_promotes(
    language_model: LanguageModel, hidden: np.ndarray, codec: BitCodec
) -> None:
    directions = feature_directions(codec, range(codec.n_bits_))
    feature = int(np.linalg.norm(directions, axis=1).argmax())
    lens = logit_lens(language_model, directions[[feature]], k=1)
    token = int(lens.promoted[0, 0])
    ids = language_model.tokenizer("The capital of France is", return_tensors="pt").input_ids
    shares = {}
    for on in (False, True):
        norm = float(np.median(np.linalg.norm(hidden, axis=1)))
        with switched(
            language_model, codec, layer=15, features={feature: on}, median_norm=norm
        ) as counts:
            logits = logits_of(language_model, ids)
        assert counts.n_massive == 1  # the first token's
        shares[on] = float(logits[0, -1].float().log_softmax(0)[token])
    assert shares[True] > shares[False]
