"""A codec as an autoencoder of SAELens, SAEBench and Delphi, tried in these libraries."""

from __future__ import annotations

import importlib
import json
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bitcodec import BitCodec
from bitcodec.errors import ConfigError, FileError, FormatError, NotFittedError
from bitcodec.linear_maps import LinearMaps
from bitcodec_sae import to_delphi, to_sae_bench
from bitcodec_transformers import LanguageModel, load_model

N_DIMS, MODEL, LAYER = 576, "smollm2-135m", 15


@pytest.fixture(scope="module")
def searching(hidden: np.ndarray) -> BitCodec:
    """A codec whose codes are searched for."""
    return BitCodec.preset("archive", n_bits=150, n_steps=60, batch_size=256).fit(hidden[:3072])


@pytest.fixture
def rows(hidden: np.ndarray) -> torch.Tensor:
    """(1024, 576) rows that no codec was fitted on."""
    return torch.from_numpy(hidden[3072:])


def near_threshold(codec: BitCodec, rows: torch.Tensor) -> np.ndarray:
    """Where rounding may flip a bit: (n, h) bool, by logits in float64."""
    maps = codec.linear_maps()
    centred = rows.double().numpy() - maps.centre
    logits = centred @ maps.encoder_weight.astype(np.float64) + maps.encoder_bias
    near: np.ndarray = np.abs(logits) < 1e-3
    return near


def assert_same_code(activations: torch.Tensor, codec: BitCodec, rows: torch.Tensor) -> None:
    """Assert that activations are the codec's linear bits times the lengths of its directions."""
    bits = codec.encode_bits(rows, refine="none")
    lengths = np.linalg.norm(codec.feature_directions(), axis=1)
    expected = np.where(near_threshold(codec, rows), activations.numpy(), bits * lengths)
    np.testing.assert_allclose(activations.numpy(), expected, rtol=1e-5)
    assert (activations.numpy() > 0).mean() == pytest.approx(bits.mean(), rel=1e-3)


# the weights


def test_linear_maps_are_the_codec(codec: BitCodec, rows: torch.Tensor) -> None:
    maps = codec.linear_maps()
    logits = (rows.numpy() - maps.centre) @ maps.encoder_weight + maps.encoder_bias
    bits = codec.encode_bits(rows, refine="none")
    certain = ~near_threshold(codec, rows)
    np.testing.assert_array_equal((logits >= 0)[certain], bits.astype(bool)[certain])
    assert certain.mean() > 0.99
    decoded = bits @ maps.decoder_weight + maps.centre
    np.testing.assert_allclose(
        decoded, codec.decode(codec.encode(rows, refine="none")), rtol=1e-4, atol=1e-3
    )


def test_a_codec_with_side_bytes_has_no_linear_maps(hidden: np.ndarray) -> None:
    codec = BitCodec.preset("search", n_bits=64, n_steps=5, batch_size=256, start="directions")
    codec.fit(hidden[:1024])
    with pytest.raises(ConfigError, match=r'side bytes beside its bits.*presets "archive"'):
        to_delphi(codec)


def test_a_staged_codec_has_no_linear_maps(hidden: np.ndarray) -> None:
    codec = BitCodec(n_bits=2 * N_DIMS, entropy_weight=0.0, n_steps=2, start="transform")
    with pytest.raises(ConfigError, match="bits that come in stages"):
        codec.fit(hidden[:1024]).linear_maps()


def test_an_unfitted_codec_is_refused() -> None:
    with pytest.raises(NotFittedError, match="was not fitted"):
        to_delphi(BitCodec())


def test_an_unknown_search_is_refused(codec: BitCodec) -> None:
    with pytest.raises(ConfigError, match=r"search must be .*got 'slow'"):
        to_delphi(codec, search="slow")  # type: ignore[arg-type]


# SAELens


@pytest.fixture(scope="module")
def lens() -> Any:
    """The adapter, where SAELens is installed."""
    pytest.importorskip("sae_lens", reason="SAELens is not installed")
    return importlib.import_module("bitcodec_sae.sae_lens")


def test_saelens_activations_are_bits_times_lengths(
    lens: Any, codec: BitCodec, rows: torch.Tensor
) -> None:
    sae = lens.to_sae_lens(codec)
    assert_same_code(sae.encode(rows).detach(), codec, rows)
    np.testing.assert_allclose(sae.W_dec.detach().norm(dim=1), np.ones(67), rtol=1e-5)


def test_saelens_decodes_as_the_codec_does(lens: Any, codec: BitCodec, rows: torch.Tensor) -> None:
    sae = lens.to_sae_lens(codec)
    bits = codec.encode_bits(rows, refine="none")
    decoded = sae.decode(torch.from_numpy(bits) * sae.level).detach()
    expected = codec.decode(codec.encode(rows, refine="none"))
    np.testing.assert_allclose(decoded, expected, rtol=1e-4, atol=1e-3)


def test_saelens_searches_as_the_codec_does(
    lens: Any, searching: BitCodec, rows: torch.Tensor
) -> None:
    sae = lens.to_sae_lens(searching)
    found = (sae.encode(rows) > 0).numpy()
    assert sae.cfg.search == "fast"
    agreement = (found == searching.encode_bits(rows).astype(bool)).all(axis=1).mean()
    assert agreement > 0.98  # a bit near its threshold starts another search
    linear = lens.to_sae_lens(searching, search="none")
    assert (found != (linear.encode(rows) > 0).numpy()).any()


def test_saelens_writes_and_reads_a_codec(
    lens: Any, searching: BitCodec, rows: torch.Tensor, tmp_path: Path
) -> None:
    from sae_lens import SAE

    sae = lens.to_sae_lens(searching, model_name="gpt2", layer=3)
    sae.save_model(tmp_path / "sae")
    assert {path.name for path in (tmp_path / "sae").iterdir()} == {
        "cfg.json",
        "sae_weights.safetensors",
    }
    settings = json.loads((tmp_path / "sae" / "cfg.json").read_text())
    assert (settings["architecture"], settings["search"]) == ("bitcodec", "fast")
    for read in (SAE.load_from_disk, lens.load_sae_lens):
        loaded = read(tmp_path / "sae")
        assert loaded.cfg.metadata.hook_name == "blocks.3.hook_resid_post"
        torch.testing.assert_close(loaded.encode(rows), sae.encode(rows), rtol=0, atol=0)
        torch.testing.assert_close(loaded(rows), sae(rows), rtol=0, atol=0)


def test_a_folder_of_something_else_is_no_codec_of_saelens(lens: Any, tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"there is no file .*cfg\.json"):
        lens.load_sae_lens(tmp_path)
    (tmp_path / "cfg.json").write_text(json.dumps({"architecture": "topk"}))
    with pytest.raises(FormatError, match=r"architecture 'bitcodec', got 'topk': read others with"):
        lens.load_sae_lens(tmp_path)


def test_folding_norms_again_changes_no_reconstruction(
    lens: Any, codec: BitCodec, rows: torch.Tensor
) -> None:
    sae = lens.to_sae_lens(codec)
    before = sae(rows)
    sae.W_dec.data *= 3
    sae.level /= 3
    sae.fold_W_dec_norm()
    torch.testing.assert_close(sae(rows), before)
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(67))


def test_saelens_knows_where_the_codec_came_from(lens: Any, hidden: np.ndarray) -> None:
    codec = BitCodec(n_bits=8, n_steps=2, batch_size=256)
    codec.fit(hidden[:512], provenance={"model": {"name": MODEL}, "layer": LAYER})
    told = lens.to_sae_lens(codec).cfg.metadata
    assert (told.model_name, told.hook_name) == (MODEL, "blocks.15.hook_resid_post")


@pytest.fixture(scope="module")
def small_model(hidden: np.ndarray) -> Any:
    """A TransformerLens model whose states are near those of a real one: they are its tokens'."""
    pytest.importorskip("transformer_lens", reason="SAELens is not installed")
    from sae_lens import HookedSAETransformer
    from transformer_lens import HookedTransformerConfig

    config = HookedTransformerConfig(
        n_layers=1, d_model=N_DIMS, n_ctx=16, d_head=64, n_heads=2, d_mlp=64, d_vocab=50,
        act_fn="gelu", device="cpu", seed=0, normalization_type="LN", model_name="small",
    )  # fmt: skip
    model = HookedSAETransformer(config)
    model.embed.W_E.data = torch.from_numpy(hidden[3072:3122].copy())
    return model


def test_a_model_of_saelens_runs_through_a_codec(
    lens: Any, codec: BitCodec, small_model: Any
) -> None:
    tokens = torch.randint(50, (2, 16), generator=torch.Generator().manual_seed(0))
    sae = lens.to_sae_lens(codec, model_name="small", layer=0)
    _, cache = small_model.run_with_cache_with_saes(tokens, saes=[sae])
    _, plain = small_model.run_with_cache(tokens)
    hook = "blocks.0.hook_resid_post"
    torch.testing.assert_close(cache[f"{hook}.hook_sae_acts_post"], sae.encode(plain[hook]))
    torch.testing.assert_close(cache[f"{hook}.hook_sae_output"], sae(plain[hook]))


# SAEBench


def test_saebench_gets_unit_rows_and_bits_times_lengths(
    codec: BitCodec, rows: torch.Tensor
) -> None:
    sae = to_sae_bench(codec, model_name=MODEL, layer=LAYER)
    assert_same_code(sae.encode(rows), codec, rows)
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(67))
    torch.testing.assert_close(sae(rows), sae.decode(sae.encode(rows)))
    json.dumps(sae.cfg.to_dict())


def test_bits_do_not_depend_on_the_dtype_saebench_moves_to(
    codec: BitCodec, rows: torch.Tensor
) -> None:
    sae = to_sae_bench(codec, model_name=MODEL, layer=LAYER)
    coarse = rows.bfloat16()
    before = sae.encode(coarse) > 0
    sae.to(device=torch.device("cpu"), dtype=torch.bfloat16)
    assert (sae.dtype, sae.cfg.dtype, sae.W_dec.dtype) == (
        torch.bfloat16,
        "bfloat16",
        torch.bfloat16,
    )
    torch.testing.assert_close(sae.encode(coarse) > 0, before)
    assert sae(coarse).dtype == torch.bfloat16


def test_saebench_searches_as_the_codec_does(searching: BitCodec, rows: torch.Tensor) -> None:
    sae = to_sae_bench(searching, model_name=MODEL, layer=LAYER)
    found = (sae.encode(rows.reshape(2, 512, N_DIMS)) > 0).reshape(1024, -1).numpy()
    same = (found == searching.encode_bits(rows).astype(bool)).all(axis=1).mean()
    assert same > 0.98


def test_saebench_needs_model_and_layer(codec: BitCodec) -> None:
    with pytest.raises(ConfigError, match="must know the model and the layer"):
        to_sae_bench(codec)


def test_layers_are_counted_from_the_first_block(codec: BitCodec) -> None:
    with pytest.raises(ConfigError, match="layer must be a block's number, from 0, got -3"):
        to_sae_bench(codec, model_name="gpt2", layer=-3)


def test_saebench_accepts_a_codec(codec: BitCodec) -> None:
    utilities = import_saebench("sae_bench.sae_bench_utils.general_utils")
    given = to_sae_bench(codec, model_name=MODEL, layer=LAYER)
    assert utilities.check_decoder_norms(given.W_dec)
    name, sae, _ = utilities.load_and_format_sae("bitcodec", given, "cpu")
    assert (name, sae) == ("custom_sae", given)
    assert (sae.cfg.hook_layer, sae.cfg.model_name) == (LAYER, MODEL)


def test_saebench_evaluates_a_codec(codec: BitCodec, small_model: Any) -> None:
    core = import_saebench("sae_bench.evals.core.main")
    datasets = pytest.importorskip("datasets")
    store = importlib.import_module("sae_lens.training.activations_store").ActivationsStore
    tokens = torch.randint(50, (64, 16), generator=torch.Generator().manual_seed(0))
    sae = to_sae_bench(codec, model_name="small", layer=0, context_size=16)
    small_model.tokenizer = types.SimpleNamespace(
        bos_token_id=0, eos_token_id=1, padding_side="right"
    )
    activations = store(
        model=small_model, dataset=datasets.Dataset.from_dict({"tokens": tokens.tolist()}),
        hook_name=sae.cfg.hook_name, hook_head_index=None, context_size=16, d_in=N_DIMS,
        n_batches_in_buffer=2, total_training_tokens=512, store_batch_size_prompts=4,
        train_batch_size_tokens=16, prepend_bos=False, normalize_activations="none",
        device=torch.device("cpu"), dtype="float32", streaming=False,
    )  # fmt: skip
    metrics, _ = core.get_sparsity_and_variance_metrics(
        sae, small_model, activations, n_batches=2, compute_l2_norms=True,
        compute_sparsity_metrics=True, compute_variance_metrics=True,
        compute_featurewise_density_statistics=True, eval_batch_size_prompts=4, model_kwargs={},
    )  # fmt: skip
    assert 0 < metrics["l0"] <= codec.n_bits_
    assert metrics["explained_variance"] < 1


def import_saebench(module: str) -> Any:
    """Import from SAEBench; its requirements exclude ours, so it is installed without them."""
    pytest.importorskip("sae_bench", reason="SAEBench is not installed")
    return importlib.import_module(module)


# Delphi


def test_delphi_gets_bits_times_lengths(codec: BitCodec, rows: torch.Tensor) -> None:
    latents = to_delphi(codec)(rows.reshape(4, 256, N_DIMS))
    assert latents.shape == (4, 256, 67)
    assert_same_code(latents.reshape(1024, 67), codec, rows)


@pytest.fixture
def latent_cache(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Delphi's `LatentCache`, without what only its explainers import."""
    delphi = pytest.importorskip("delphi", reason="Delphi is not installed")
    package = types.ModuleType("delphi.latents")
    package.__path__ = [str(Path(delphi.__file__).parent / "latents")]
    monkeypatch.setitem(sys.modules, "delphi.latents", package)
    monkeypatch.delitem(sys.modules, "delphi.latents.cache", raising=False)
    return importlib.import_module("delphi.latents.cache").LatentCache


def test_delphi_caches_a_codecs_features_of_a_running_model(
    latent_cache: Any, codec: BitCodec, language_model: LanguageModel
) -> None:
    encode, hook = to_delphi(codec), f"model.layers.{LAYER}"
    model = load_model(MODEL).model
    tokens = torch.randint(1000, (4, 12), generator=torch.Generator().manual_seed(0))
    cache = latent_cache(model, {hook: encode}, batch_size=2)
    cache.run(48, tokens)
    with torch.no_grad():
        states = [
            model(part, output_hidden_states=True).hidden_states[LAYER + 1]
            for part in tokens.split(2)
        ]
    expected = torch.cat([encode(part) for part in states])
    torch.testing.assert_close(cache.cache.latent_locations[hook], expected.nonzero())
    torch.testing.assert_close(cache.cache.latent_activations[hook], expected[expected > 0])


def test_maps_are_frozen(codec: BitCodec) -> None:
    maps: LinearMaps = codec.linear_maps()
    with pytest.raises(AttributeError, match="cannot assign"):
        maps.centre = maps.scale  # type: ignore[misc]
