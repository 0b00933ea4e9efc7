"""Tiny random models of several kinds, and what the forward pass must do with them."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

from bitcodec.errors import ConfigError
from bitcodec_transformers import LanguageModel
from bitcodec_transformers.forward import (
    batches_by_length,
    block_outputs,
    candidate_states,
    find_blocks,
)
from bitcodec_transformers.windows import Window, WindowCutter, candidate_rows

# Any: the type hints of transformers do not fit dictionaries of sizes.
transformers: Any = importlib.import_module("transformers")

N_LAYERS = 4
N_DIMS = 16
TEXT = "The cat sat on the mat. Łódź, naïve 日本 😀 and\n\tmore words follow here."


def byte_tokenizer(*, specials: bool = False) -> Any:
    """A tokenizer with one token a byte; with `specials` it wraps texts in <s> and </s>."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {name: k for k, name in enumerate(["<s>", "</s>", "<pad>", *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    if specials:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
        )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )


def tiny_network(kind: str) -> Any:
    """A random network of 4 blocks and 16 dimensions, the same at every call."""
    common = {"vocab_size": 300, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
    sizes = {
        "hidden_size": N_DIMS,
        "num_hidden_layers": N_LAYERS,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "max_position_embeddings": 64,
    }
    gpt2 = {"n_embd": N_DIMS, "n_layer": N_LAYERS, "n_head": 2, "n_positions": 64}
    name, options = {
        "llama": ("LlamaForCausalLM", sizes | {"num_key_value_heads": 1}),
        "gpt2": ("GPT2LMHeadModel", gpt2),
        "neox": ("GPTNeoXModel", sizes),
        "bert": ("BertModel", sizes),
    }[kind]
    network_class = getattr(transformers, name)
    with torch.random.fork_rng():
        torch.manual_seed(7)
        return network_class(network_class.config_class(**common, **options)).eval()


def tiny_model(kind: str = "llama", *, specials: bool = False) -> LanguageModel:
    """A tiny language model with a tokenizer of bytes."""
    return LanguageModel(tiny_network(kind), byte_tokenizer(specials=specials), f"tiny-{kind}")


@functools.cache
def llama() -> LanguageModel:
    """A tiny Llama that tests share and must not change."""
    return tiny_model("llama")


def windows_of(model: LanguageModel, texts: Sequence[str], *, length: int = 32) -> list[Window]:
    cutter = WindowCutter(model.tokenizer, context_length=length, drop_first=1)
    return [window for k, text in enumerate(texts) for window in cutter.cut(k, text)]


def batch(n: int = 2, length: int = 9) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    token_ids = torch.randint(3, 250, (n, length), generator=generator)
    return token_ids, torch.ones_like(token_ids)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "neox", "bert"])
def test_layer_i_is_the_hidden_state_after_block_i(kind: str) -> None:
    network = tiny_network(kind)
    token_ids, mask = batch()
    expected = network(token_ids, attention_mask=mask, output_hidden_states=True).hidden_states
    layers = range(N_LAYERS - 1)
    outputs = block_outputs(network, layers=layers, token_ids=token_ids, mask=mask)
    for layer in layers:
        assert torch.equal(outputs[layer], expected[layer + 1])


@pytest.mark.parametrize(("kind", "norm"), [("llama", "model.norm"), ("gpt2", "transformer.ln_f")])
def test_the_last_layer_is_the_state_before_the_final_norm(kind: str, norm: str) -> None:
    network = tiny_network(kind)
    token_ids, mask = batch()
    reported = network(token_ids, attention_mask=mask, output_hidden_states=True).hidden_states[-1]
    last = N_LAYERS - 1
    output = block_outputs(network, layers=[last], token_ids=token_ids, mask=mask)[last]
    with torch.inference_mode():
        normed = network.get_submodule(norm)(output)
    assert not torch.allclose(output, reported)
    assert torch.allclose(normed, reported, atol=1e-6)


def test_blocks_after_the_last_wanted_layer_do_not_run() -> None:
    network = tiny_network("llama")
    ran = []
    for number, block in enumerate(find_blocks(network)):
        block.register_forward_hook(lambda *_, number=number: ran.append(number))
    token_ids, mask = batch()
    block_outputs(network, layers=[1], token_ids=token_ids, mask=mask)
    # The test's hook on block 1 was registered first, so it ran before the exit.
    assert ran == [0, 1]


def test_no_hook_stays_behind() -> None:
    network = tiny_network("llama")
    token_ids, mask = batch()
    block_outputs(network, layers=[0, 2], token_ids=token_ids, mask=mask)
    assert all(not block._forward_hooks for block in find_blocks(network))


def test_an_error_inside_the_model_is_not_taken_for_the_early_exit() -> None:
    network = tiny_network("llama")
    token_ids, mask = batch()
    with pytest.raises(IndexError, match="index out of range"):
        block_outputs(network, layers=[1], token_ids=token_ids + 1000, mask=mask)


@pytest.mark.parametrize("layer", [-1, N_LAYERS, 99])
def test_a_layer_beyond_the_model_is_an_error(layer: int) -> None:
    token_ids, mask = batch()
    with pytest.raises(ConfigError, match=rf"layers must be between 0 and 3 .*got {layer}"):
        block_outputs(llama().model, layers=[0, layer], token_ids=token_ids, mask=mask)


def test_an_encoder_decoder_is_refused() -> None:
    config = transformers.T5Config(
        d_model=8, d_ff=8, d_kv=4, num_layers=2, num_heads=2, vocab_size=20
    )
    with pytest.raises(ConfigError, match="give its encoder or its decoder"):
        find_blocks(transformers.T5Model(config))


def test_a_model_without_a_list_of_its_blocks_is_refused() -> None:
    network = tiny_network("llama")
    network.config.num_hidden_layers = 9
    with pytest.raises(ConfigError, match="must have one list of 9 blocks, found 0"):
        find_blocks(network)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "bert"])
def test_batching_and_padding_do_not_change_the_states(kind: str) -> None:
    model = tiny_model(kind, specials=kind == "bert")
    windows = windows_of(model, ["a short one", TEXT, "x", TEXT * 2, "medium text here"])
    together, alone = (
        candidate_states(
            model, windows, layers=[0, 2], dtype=torch.float32, batch_tokens=batch_tokens
        )
        for batch_tokens in (10_000, 1)
    )
    for layer in (0, 2):
        assert together.hidden[layer].shape == (len(candidate_rows(windows)), N_DIMS)
        assert torch.allclose(together.hidden[layer], alone.hidden[layer], atol=1e-5)


def test_states_keep_the_order_of_the_windows() -> None:
    windows = windows_of(llama(), ["four", "a much longer text", "seven77"])
    states = candidate_states(
        llama(), windows, layers=[1], dtype=torch.float32, batch_tokens=10_000
    )
    first = 0
    for window in windows:
        n_rows = int(window.candidate.sum())
        token_ids = torch.from_numpy(window.token_ids).long()[None]
        alone = block_outputs(
            llama().model, layers=[1], token_ids=token_ids, mask=torch.ones_like(token_ids)
        )[1][0, 1:]
        assert torch.allclose(states.hidden[1][first : first + n_rows], alone, atol=1e-5)
        first += n_rows


def test_norms_are_those_of_the_states() -> None:
    windows = windows_of(llama(), [TEXT])
    states = candidate_states(llama(), windows, layers=[2], dtype=torch.float32, batch_tokens=64)
    expected = np.linalg.norm(states.hidden[2].numpy(), axis=1)
    np.testing.assert_allclose(states.norms[2], expected, rtol=1e-5)


def test_a_model_in_training_mode_is_refused() -> None:
    model = tiny_model("gpt2")
    model.model.train()
    with pytest.raises(ConfigError, match=r"training mode.*call model.eval\(\)"):
        candidate_states(
            model, windows_of(model, [TEXT]), layers=[0], dtype=torch.float32, batch_tokens=64
        )


@settings(max_examples=25, deadline=None)
@given(lengths=st.lists(st.integers(0, 40), max_size=12), batch_tokens=st.integers(1, 100))
def test_every_window_with_candidates_is_in_one_batch_of_bounded_size(
    lengths: list[int], batch_tokens: int
) -> None:
    windows = [window for n in lengths for window in windows_of(llama(), ["x" * n], length=64)]
    batches = list(batches_by_length(windows, batch_tokens=batch_tokens))
    members = sorted(k for batch in batches for k in batch)
    assert members == [k for k, window in enumerate(windows) if len(window) > 1]
    for group in batches:
        size = len(group) * max(len(windows[k]) for k in group)
        assert size <= batch_tokens or len(group) == 1


@settings(max_examples=50, deadline=None)
@given(text=st.text(max_size=60), length=st.integers(3, 12), specials=st.booleans())
def test_windows_hold_every_token_of_a_text_once_and_in_order(
    text: str, length: int, specials: bool
) -> None:
    tokenizer = byte_tokenizer(specials=specials)
    windows = list(WindowCutter(tokenizer, context_length=length, drop_first=0).cut(0, text))
    token_ids = [int(i) for w in windows for i in w.token_ids[~w.special]]
    assert token_ids == tokenizer(text, add_special_tokens=False)["input_ids"]
    assert all(len(window) <= length for window in windows)


@settings(max_examples=50, deadline=None)
@given(text=st.text(alphabet="abc äß日😀\n", max_size=40))
def test_offsets_name_the_characters_of_each_token(text: str) -> None:
    tokenizer = byte_tokenizer()
    for window in WindowCutter(tokenizer, context_length=7, drop_first=0).cut(0, text):
        for token_id, start, end in zip(window.token_ids, window.start, window.end, strict=True):
            raw = text[start:end].encode()
            byte = _byte_of(tokenizer.convert_ids_to_tokens(int(token_id)))
            assert byte in raw


def test_every_window_is_framed_by_the_special_tokens() -> None:
    model = tiny_model("bert", specials=True)
    for window in windows_of(model, [TEXT], length=20):
        assert window.token_ids[0] == 0
        assert window.token_ids[-1] == 1
        assert window.special.tolist() == [True, *[False] * (len(window) - 2), True]
        assert not window.candidate[window.special].any()


def test_a_slow_tokenizer_is_refused() -> None:
    class Slow:
        is_fast = False

    with pytest.raises(ConfigError, match="must be a fast one"):
        WindowCutter(Slow(), context_length=8, drop_first=1)


def test_a_context_that_special_tokens_fill_is_refused() -> None:
    with pytest.raises(ConfigError, match="context_length must exceed 2"):
        WindowCutter(byte_tokenizer(specials=True), context_length=2, drop_first=1)


def _byte_of(token: str) -> int:
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = {chr(byte): byte for byte in printable}
    letters |= {chr(256 + k): byte for k, byte in enumerate(others)}
    return int(letters[token])
