"""The logit lens against a plain product, on tiny random models and on SmolLM2."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bitcodec import BitCodec
from bitcodec.errors import ConfigError, ShapeError, ValueRangeError
from bitcodec_transformers import LanguageModel, logit_changes, logit_lens
from bitcodec_transformers.lens import final_norm
from tests.test_harvest_forward import N_DIMS, tiny_model


def directions_of(n: int) -> np.ndarray:
    return np.random.default_rng(7).normal(size=(n, N_DIMS)).astype(np.float32)


def with_uneven_gain(model: LanguageModel) -> LanguageModel:
    norm = final_norm(model.model)
    assert norm is not None
    with torch.no_grad():
        norm.weight.copy_(torch.linspace(0.2, 3.0, N_DIMS))  # type: ignore[operator]
    return model


@pytest.mark.parametrize(("kind", "centres"), [("llama", False), ("gpt2", True)])
def test_the_lens_is_the_product_of_gain_and_unembedding(kind: str, centres: bool) -> None:
    model = with_uneven_gain(tiny_model(kind))
    rows = directions_of(5)
    lens = logit_lens(model, rows, k=3)
    unembedding = model.model.get_output_embeddings().weight.detach().float().numpy()
    gain = np.linspace(0.2, 3.0, N_DIMS)
    for i, row in enumerate(rows.astype(np.float64)):
        logits = unembedding @ (gain * (row - row.mean() * centres))
        logits -= logits.mean()
        order = np.argsort(logits)
        assert lens.promoted[i].tolist() == order[::-1][:3].tolist()
        assert lens.suppressed[i].tolist() == order[:3].tolist()
        np.testing.assert_allclose(lens.promoted_logits[i], logits[order[::-1][:3]], rtol=1e-3)
        np.testing.assert_allclose(lens.suppressed_logits[i], logits[order[:3]], rtol=1e-3)
    assert lens.gain


def test_the_lens_tells_how_the_models_own_logits_change() -> None:
    """A small step of the final state along a direction, through the model's own norm and head."""
    model = with_uneven_gain(tiny_model("llama"))
    direction, state = directions_of(2).astype(np.float64)
    direction -= state * (direction @ state) / (state @ state)  # so that the norm's divisor stays
    norm = final_norm(model.model)
    assert norm is not None
    head = model.model.get_output_embeddings()

    def logits(at: np.ndarray) -> torch.Tensor:
        with torch.no_grad():
            return head(norm(torch.from_numpy(at.astype(np.float32)).to(head.weight.dtype)))  # type: ignore[no-any-return]

    step = 1e-2
    change = (logits(state + step * direction) - logits(state)).double()
    expected = (change - change.mean()) / step * np.sqrt((state**2).mean())
    lens = logit_lens(model, direction[None].astype(np.float32), k=2)
    np.testing.assert_allclose(
        lens.promoted_logits[0], expected[torch.from_numpy(lens.promoted[0])], rtol=0.02
    )


def test_many_directions_are_taken_in_blocks_and_none_is_a_result_too() -> None:
    model = tiny_model("llama")
    rows = directions_of(300)
    lens = logit_lens(model, rows, k=2)
    alone = logit_lens(model, rows[290:291], k=2)
    assert lens.promoted[290].tolist() == alone.promoted[0].tolist()
    assert logit_lens(model, rows[:0], k=2).promoted.shape == (0, 2)


def test_a_codecs_decoder_rows_are_read_with_its_scale(
    codec: BitCodec, language_model: LanguageModel, hidden: np.ndarray
) -> None:
    """Turning one bit on moves the decoded state by the row that the lens is given."""
    directions = codec.query_weights(np.eye(codec.n_dims_, dtype=np.float32)).weights.T
    packed = codec.encode(hidden[:1])
    packed[0, 0] &= 0xFE
    off = codec.decode(packed)[0]
    packed[0, 0] |= 1
    np.testing.assert_allclose(codec.decode(packed)[0] - off, directions[0], atol=2e-3)
    lens = logit_lens(language_model, np.ascontiguousarray(directions), k=5)
    assert lens.promoted.shape == (codec.n_bits_, 5)
    assert (lens.promoted_logits > 0).all()


def test_what_is_no_direction_of_the_model_is_refused() -> None:
    model = tiny_model("llama")
    with pytest.raises(ShapeError, match=rf"directions must be \(n, {N_DIMS}\)"):
        logit_lens(model, np.zeros((2, N_DIMS + 1), np.float32))
    with pytest.raises(ValueRangeError, match="k must be between 1"):
        logit_lens(model, directions_of(1), k=0)
    with pytest.raises(ValueRangeError, match="NaN or infinite"):
        logit_lens(model, np.full((1, N_DIMS), np.nan, np.float32))


def test_a_model_without_a_head_is_refused() -> None:
    model = tiny_model("bert")
    with pytest.raises(ConfigError, match="language model with its head"):
        logit_lens(model, directions_of(1))


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_changes_of_chosen_tokens_are_those_of_the_lens(kind: str) -> None:
    model = with_uneven_gain(tiny_model(kind))
    rows = directions_of(5)
    lens = logit_lens(model, rows, k=4)
    for row, tokens, expected in zip(rows, lens.promoted, lens.promoted_logits, strict=True):
        np.testing.assert_allclose(
            logit_changes(model, row[None], tokens)[0], expected, rtol=1e-3, atol=1e-5
        )


def test_a_token_that_the_model_lacks_is_refused() -> None:
    with pytest.raises(ValueRangeError, match=r"token_ids must be between 0 and .*, got -1 to 3"):
        logit_changes(tiny_model("llama"), directions_of(2), np.array([3, -1]))
