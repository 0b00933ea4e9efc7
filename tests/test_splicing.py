"""Splice and Fisher matrix of tiny random models, against loops that spell the definition out."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from torch import nn

import bitcodec_transformers
from bitcodec import BitCodec
from bitcodec.errors import ConfigError, ShapeError, ValueRangeError
from bitcodec_cli.main import main
from bitcodec_cli.provenance import describe_source
from bitcodec_transformers import (
    LanguageModel,
    SpliceOutcome,
    SpliceReport,
    TokenProgress,
    harvest,
    pydoc_topics,
    sensitivity,
    splice,
    through,
)
from bitcodec_transformers.causal import OpenBlock, edited
from bitcodec_transformers.forward import block_outputs, find_blocks, pad
from bitcodec_transformers.manifest import HarvestSettings
from bitcodec_transformers.windows import Window
from tests.test_harvest import loud_model
from tests.test_harvest_forward import (
    N_DIMS,
    N_LAYERS,
    TEXT,
    byte_tokenizer,
    tiny_model,
    transformers,
    windows_of,
)

PLAIN = "Only letters of one byte each are in this text of some length."
DOCUMENTS = ["Loud! and long: " + TEXT, "short", "A! B", TEXT[:40], "", "x"]
LAST = N_LAYERS - 1


def sharp_model(kind: str = "llama", *, scale: float = 20.0) -> LanguageModel:
    """A tiny model with strong opinions on the next token, so that states matter to its loss."""
    model = (
        bloom() if kind == "bloom" else loud_model(40.0) if kind == "llama" else tiny_model(kind)
    )
    with torch.no_grad():
        model.model.get_output_embeddings().weight *= scale
    return model


def bloom() -> LanguageModel:
    """A tiny model whose blocks put out tuples."""
    config = transformers.BloomConfig(
        vocab_size=300, hidden_size=N_DIMS, n_layer=N_LAYERS, n_head=2, pad_token_id=2
    )
    with torch.random.fork_rng():
        torch.manual_seed(7)
        network = transformers.BloomForCausalLM(config).eval()
    return LanguageModel(network, byte_tokenizer(), "tiny-bloom")


def coarse(hidden: np.ndarray) -> np.ndarray:
    """A replacement that loses half of the dimensions."""
    return hidden * (np.arange(hidden.shape[1]) % 2).astype(np.float32)


def tiny_splice(documents: Any = DOCUMENTS, **changes: Any) -> SpliceReport:
    arguments: dict[str, Any] = {
        "model": changes.get("model") or sharp_model(),
        "layer": 2,
        "replace": {"coarse": coarse},
        "context_length": 32,
    }
    return splice(documents, **(arguments | changes))


def tiny_sensitivity(documents: list[str], **changes: Any) -> np.ndarray:
    return sensitivity(documents, **({"context_length": 32} | changes))


class Alone(NamedTuple):
    """One window read without padding: what the definition says, one row of figures a token."""

    loss: torch.Tensor
    loss_original: torch.Tensor
    kl: torch.Tensor
    agreed: torch.Tensor


def layer_states(model: LanguageModel, window: Window, layer: int) -> torch.Tensor:
    token_ids = torch.from_numpy(window.token_ids).long()[None]
    mask = torch.ones_like(token_ids)
    return block_outputs(model.model, layers=[layer], token_ids=token_ids, mask=mask)[layer][0]


def free_places(
    model: LanguageModel, windows: list[Window], layer: int, *, massive: float = 10.0
) -> list[list[int]]:
    """For every window the positions whose rows may change."""
    norms = [layer_states(model, window, layer).norm(dim=1) for window in windows]
    candidates = [np.flatnonzero(window.candidate) for window in windows]
    known = torch.cat([norm[places] for norm, places in zip(norms, candidates, strict=True)])
    limit = massive * float(np.median(known.numpy()))
    return [
        [int(k) for k in places if norm[k] <= limit]
        for norm, places in zip(norms, candidates, strict=True)
    ]


def read_alone(
    model: LanguageModel,
    window: Window,
    layer: int,
    places: list[int],
    replacement: Callable[[np.ndarray], np.ndarray],
) -> Alone:
    token_ids = torch.from_numpy(window.token_ids).long()[None]

    def hook(_module: Any, _inputs: Any, output: Any) -> Any:
        states = (output[0] if isinstance(output, tuple) else output).clone()
        for k in places:
            states[0, k] = torch.from_numpy(replacement(states[0, k : k + 1].numpy())[0])
        return (states, *output[1:]) if isinstance(output, tuple) else states

    with torch.no_grad():
        before = model.model(token_ids).logits[0, :-1].double()
        handle = find_blocks(model.model)[layer].register_forward_hook(hook)
        after = model.model(token_ids).logits[0, :-1].double()
        handle.remove()
    targets = token_ids[0, 1:]
    p, q = (torch.distributions.Categorical(logits=logits) for logits in (before, after))
    kl = torch.distributions.kl_divergence(p, q)
    agreed = before.argmax(1) == after.argmax(1)
    return Alone(-q.log_prob(targets), -p.log_prob(targets), kl, agreed.double())


def definition(
    model: LanguageModel, layer: int, replacement: Callable[[np.ndarray], np.ndarray]
) -> tuple[SpliceOutcome, float]:
    """What splice must find on DOCUMENTS, and the original cross-entropy."""
    windows = [w for w in windows_of(model, DOCUMENTS) if len(w) > 1]
    places = free_places(model, windows, layer)
    pairs = list(zip(windows, places, strict=True))
    runs = [read_alone(model, window, layer, free, replacement) for window, free in pairs]
    zeros = [read_alone(model, window, layer, free, np.zeros_like) for window, free in pairs]
    loss, original, kl, agreed = (float(torch.cat(part).mean()) for part in zip(*runs, strict=True))
    zero = float(torch.cat([run.loss for run in zeros]).mean())
    n_tokens = sum(len(run.loss) for run in runs)
    squares = [float((run.loss - run.loss_original - (loss - original)).sum()) ** 2 for run in runs]
    error = math.sqrt(sum(squares) * len(runs) / (len(runs) - 1)) / n_tokens
    outcome = SpliceOutcome(loss, error, (zero - loss) / (zero - original), kl, agreed)
    return outcome, original


def figures(outcome: SpliceOutcome) -> list[float]:
    return [float("nan") if value is None else value for value in dataclasses.astuple(outcome)]


class TestIdentity:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    @pytest.mark.parametrize("layer", [0, LAST])
    @pytest.mark.parametrize("kind", ["llama", "gpt2", "bloom"])
    def test_states_put_back_as_they_were_change_nothing(
        self, kind: str, layer: int, dtype: torch.dtype
    ) -> None:
        model = sharp_model(kind)
        model.model.to(dtype)
        report = tiny_splice(model=model, layer=layer, replace={"same": lambda hidden: hidden})
        same = report.outcomes["same"]
        assert same.cross_entropy == report.cross_entropy_original
        assert figures(same)[1:] == [0.0, 1.0, 0.0, 1.0]
        assert report.cross_entropy_zero != report.cross_entropy_original

    def test_the_original_loss_is_that_of_the_model_itself(self) -> None:
        model = sharp_model("gpt2")
        token_ids = torch.tensor([model.tokenizer(PLAIN[:30])["input_ids"]])
        with torch.no_grad():
            expected = float(model.model(token_ids, labels=token_ids).loss)
        report = tiny_splice([PLAIN[:30]], model=model)
        assert report.cross_entropy_original == pytest.approx(expected, rel=1e-5)


class TestDefinition:
    @pytest.mark.parametrize("layer", [0, 2, LAST])
    @pytest.mark.parametrize("kind", ["llama", "bloom"])
    def test_every_figure_is_that_of_windows_read_alone(self, kind: str, layer: int) -> None:
        model = sharp_model(kind)
        report = tiny_splice(model=model, layer=layer, batch_tokens=10_000)
        expected, original = definition(model, layer, coarse)
        assert expected.kl > 0.01
        assert report.cross_entropy_original == pytest.approx(original, rel=1e-5)
        np.testing.assert_allclose(figures(report.outcomes["coarse"]), figures(expected), rtol=1e-3)

    def test_zeros_recover_nothing_and_are_what_a_replacement_by_zeros_gives(self) -> None:
        report = tiny_splice(replace={"zeros": np.zeros_like})
        assert report.zeros.recovered == 0.0
        assert report.outcomes["zeros"] == report.zeros
        assert report.zeros.kl > 0.1

    def test_neither_padding_nor_the_size_of_batches_matters(self) -> None:
        together, alone = (tiny_splice(batch_tokens=n) for n in (10_000, 1))
        for one, other in (
            (together.outcomes["coarse"], alone.outcomes["coarse"]),
            (together.zeros, alone.zeros),
        ):
            np.testing.assert_allclose(figures(one), figures(other), rtol=1e-4)
        assert (together.n_tokens, together.n_replaced) == (alone.n_tokens, alone.n_replaced)

    def test_the_error_is_the_standard_error_of_the_means_of_like_windows(self) -> None:
        model = sharp_model()
        texts = [PLAIN[k : k + 16] for k in (0, 5, 9, 20)]
        report = tiny_splice(texts, model=model, context_length=16)
        windows = windows_of(model, texts, length=16)
        assert {len(window) for window in windows} == {16}
        pairs = zip(windows, free_places(model, windows, 2), strict=True)
        runs = [read_alone(model, window, 2, places, coarse) for window, places in pairs]
        means = np.array([float((run.loss - run.loss_original).mean()) for run in runs])
        expected = means.std(ddof=1) / math.sqrt(len(means))
        assert report.outcomes["coarse"].cross_entropy_error == pytest.approx(expected, rel=1e-3)

    def test_a_single_window_has_no_error(self) -> None:
        assert tiny_splice([TEXT[:20]]).outcomes["coarse"].cross_entropy_error is None

    def test_long_logits_are_summed_in_chunks(self, monkeypatch: pytest.MonkeyPatch) -> None:
        model = sharp_model()
        whole = tiny_splice(model=model)
        monkeypatch.setattr("bitcodec_transformers.outcomes._CHUNK_VALUES", 7 * 300)
        chunked = tiny_splice(model=model)
        for name in ("zeros", "cross_entropy_original"):
            assert getattr(chunked, name) == getattr(whole, name)


class TestRows:
    def test_first_special_and_massive_rows_are_never_given_away(self) -> None:
        model = LanguageModel(sharp_model().model, byte_tokenizer(specials=True), "framed")
        given: list[np.ndarray] = []

        def record(hidden: np.ndarray) -> np.ndarray:
            given.append(hidden.copy())
            return hidden

        report = tiny_splice(model=model, drop_first=3, replace={"record": record})
        windows = [
            window
            for k, text in enumerate(DOCUMENTS)
            for window in windows_of_frame(model, text, number=k)
        ]
        places = free_places(model, windows, 2)
        n_candidates = sum(int(window.candidate.sum()) for window in windows)
        expected = np.concatenate(
            [
                layer_states(model, window, 2)[free].numpy()
                for window, free in zip(windows, places, strict=True)
            ]
        )
        got = np.concatenate(given)
        assert got.dtype == np.float32
        assert report.n_massive == n_candidates - len(expected) > 0
        assert report.n_replaced == len(got) == len(expected)
        # Batches are in the order of length; the rows differ by more than padding changes them.
        apart = np.abs(got[:, None] - expected[None]).max(axis=2)
        assert max(apart.min(axis=0).max(), apart.min(axis=1).max()) < 1e-4

    def test_the_median_norm_is_that_of_the_harvest(self, tmp_path: Path) -> None:
        model = sharp_model()
        summary = harvest(
            DOCUMENTS, model=model, layers=[2], output=tmp_path / "hidden", context_length=32
        )
        report = tiny_splice(model=model)
        assert report.median_norm == pytest.approx(summary.median_norms[2], rel=1e-5)
        assert report.n_replaced == summary.n_rows
        assert report.n_massive == summary.counts.dropped["massive"] > 0

    def test_a_median_norm_that_is_given_is_used(self) -> None:
        report = tiny_splice(median_norm=1e9)
        assert (report.median_norm, report.n_massive) == (1e9, 0)

    def test_max_tokens_is_met_exactly_and_no_more_is_read(self) -> None:
        read = []

        def endless() -> Iterator[str]:
            for k in itertools.count():
                read.append(k)
                yield TEXT

        report = tiny_splice(endless(), max_tokens=100)
        assert report.n_tokens == 100
        assert report.n_windows == math.ceil(100 / 31)
        assert len(read) <= 3

    def test_units_of_windows_add_up(self, monkeypatch: pytest.MonkeyPatch) -> None:
        model = sharp_model()
        whole = tiny_splice([TEXT] * 4, model=model)
        monkeypatch.setattr("bitcodec_transformers.causal.UNIT_TOKENS", 50)
        parts = tiny_splice([TEXT] * 4, model=model, median_norm=whole.median_norm)
        assert parts.n_tokens == whole.n_tokens
        np.testing.assert_allclose(figures(parts.zeros), figures(whole.zeros), rtol=1e-4)

    def test_replacements_do_not_touch_each_other(self) -> None:
        def greedy(hidden: np.ndarray) -> np.ndarray:
            hidden *= 0
            return hidden

        model = sharp_model()
        both = tiny_splice(model=model, replace={"greedy": greedy, "coarse": coarse})
        assert both.outcomes["coarse"] == tiny_splice(model=model).outcomes["coarse"]
        assert both.outcomes["greedy"] == both.zeros

    def test_progress_tells_the_tokens_of_every_batch(self) -> None:
        seen: list[TokenProgress] = []
        report = tiny_splice(batch_tokens=40, progress=seen.append)
        counts = [record.n_tokens for record in seen]
        assert len(counts) > 2
        assert counts == sorted(set(counts))
        assert counts[-1] == report.n_tokens


class TestHooks:
    def test_an_edit_of_a_tuple_keeps_what_follows_the_states(self) -> None:
        class Pair(nn.Module):
            def forward(self, states: torch.Tensor) -> tuple[torch.Tensor, str]:
                return states, "rest"

        block = Pair()
        with edited(block, lambda states: states + 1):
            states, rest = block(torch.zeros(2))
        assert states.tolist() == [1, 1]
        assert rest == "rest"

    def test_no_hook_stays_behind_after_an_error(self) -> None:
        model = sharp_model()
        block = OpenBlock(model, HarvestSettings(layers=(2,), context_length=32), median_norm=1.0)

        def fail(states: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("on purpose")

        with pytest.raises(RuntimeError, match="on purpose"):
            block.logits(pad(windows_of(model, [TEXT]), model=model), fail)
        assert not any(part._forward_hooks for part in find_blocks(model.model))

    def test_an_error_of_a_replacement_passes_and_leaves_the_model_as_it_was(self) -> None:
        model = sharp_model()
        before = tiny_splice(model=model)

        def fail(hidden: np.ndarray) -> np.ndarray:
            raise RuntimeError("on purpose")

        with pytest.raises(RuntimeError, match="on purpose"):
            tiny_splice(model=model, replace={"fail": fail})
        assert tiny_splice(model=model) == before


class TestThrough:
    class Halves:
        """A codec that is none of ours."""

        def encode(self, hidden: Any, refine: str = "none") -> np.ndarray:
            return np.asarray(hidden * (3 if refine == "best" else 1))

        def decode(self, packed: np.ndarray) -> np.ndarray:
            return packed / 2

    def test_a_codec_becomes_a_replacement(self) -> None:
        report = tiny_splice(replace={"a": through(self.Halves()), "b": lambda hidden: hidden / 2})
        assert report.outcomes["a"] == report.outcomes["b"]

    def test_the_search_effort_reaches_the_codec(self) -> None:
        rows = np.ones((2, 4), dtype=np.float32)
        assert through(self.Halves(), refine="best")(rows).tolist() == (1.5 * rows).tolist()

    def test_a_codec_of_another_width_is_refused_before_the_model_runs(self) -> None:
        rows = np.random.default_rng(0).standard_normal((300, 8)).astype(np.float32)
        codec = BitCodec(n_bits=8, n_steps=2, batch_size=64, device="cpu").fit(rows)
        with pytest.raises(ShapeError, match=r"'mine' must be of a codec of 16 dim.*fitted on 8"):
            tiny_splice(iter(()), replace={"mine": through(codec)})


class TestRefusals:
    @pytest.mark.parametrize("layer", [N_LAYERS, 99])
    def test_a_layer_beyond_the_model(self, layer: int) -> None:
        with pytest.raises(ConfigError, match=rf"between 0 and 3 .*got {layer}"):
            tiny_splice(layer=layer)

    @pytest.mark.parametrize("kind", ["bert", "neox"])
    def test_a_model_without_a_head(self, kind: str) -> None:
        with pytest.raises(ConfigError, match=r"causal language model with its head, got 'tiny-"):
            tiny_splice(model=tiny_model(kind))

    def test_a_model_in_training_mode(self) -> None:
        model = sharp_model("gpt2")
        model.model.train()
        with pytest.raises(ConfigError, match=r"call model.eval\(\)"):
            tiny_splice(model=model)

    @pytest.mark.parametrize("documents", [[], ["", "x"]])
    def test_documents_without_a_next_token(self, documents: list[str]) -> None:
        with pytest.raises(ValueRangeError, match="at least two tokens"):
            tiny_splice(documents)

    def test_max_tokens_below_one(self) -> None:
        with pytest.raises(ConfigError, match="max_tokens must be at least 1, got 0"):
            tiny_splice(max_tokens=0)

    def test_a_median_that_is_no_norm(self) -> None:
        with pytest.raises(ConfigError, match="median_norm must be above 0, got -1"):
            tiny_splice(median_norm=-1)

    def test_a_replacement_of_another_shape(self) -> None:
        with pytest.raises(ShapeError, match=r"'narrow' must return \(\d+, 16\).*got \(\d+, 15\)"):
            tiny_splice(replace={"fine": coarse, "narrow": lambda hidden: hidden[:, 1:]})

    @pytest.mark.parametrize("bad", [np.nan, np.inf])
    def test_a_replacement_that_is_not_finite(self, bad: float) -> None:
        def broken(hidden: np.ndarray) -> np.ndarray:
            return np.where(np.arange(len(hidden))[:, None] == 1, np.float32(bad), hidden)

        with pytest.raises(ValueRangeError, match=r"'broken'.*infinity in 1 of \d+ rows"):
            tiny_splice(replace={"broken": broken})

    def test_a_replacement_too_large_for_the_model(self) -> None:
        model = sharp_model()
        model.model.to(torch.float16)
        with pytest.raises(ValueRangeError, match="finite in the model's float16"):
            tiny_splice(model=model, replace={"large": lambda hidden: hidden * np.float32(1e9)})

    def test_a_model_that_gives_nan(self) -> None:
        model = sharp_model()
        with torch.no_grad():
            model.model.get_submodule("model.layers.1.input_layernorm").weight[3] = math.nan
        with pytest.raises(ValueRangeError, match="layer 2: the model itself gave NaN"):
            tiny_splice(model=model)

    def test_a_head_that_gives_infinity(self) -> None:
        model = sharp_model()
        with torch.no_grad():
            model.model.get_output_embeddings().weight[:] = math.inf
        with pytest.raises(ValueRangeError, match="logits of the original run hold NaN"):
            tiny_splice(model=model)

    def test_rows_that_are_all_massive(self) -> None:
        with pytest.raises(ValueRangeError, match=r"no row was left to replace, [1-9]"):
            tiny_splice(median_norm=1e-9)

    def test_rows_on_which_no_prediction_depends(self) -> None:
        with pytest.raises(ValueRangeError, match=r"zeros .* changed no prediction"):
            tiny_splice([TEXT[:8]], layer=LAST, context_length=8, drop_first=7)


class TestSensitivity:
    def test_it_is_the_mean_of_outer_products_of_finite_differences(self) -> None:
        model = sharp_model("gpt2")  # the norms of a Llama are float32 in any dtype
        model.model.double()
        (window,) = windows_of(model, [PLAIN[:9]])
        found = tiny_sensitivity([PLAIN[:9]], model=model, layer=1, seed=5, massive=1.05)
        (places,) = free_places(model, [window], 1, massive=1.05)
        assert 0 < len(places) < len(window) - 1
        gradients = np.array(
            [
                [summed_loss_slope(model, window, 1, place, j, seed=5) for j in range(N_DIMS)]
                for place in places
            ]
        )
        expected = gradients.T @ gradients / len(gradients)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-7 * np.abs(expected).max())

    def test_its_mean_is_the_fisher_matrix_of_the_predictions(self) -> None:
        model = sharp_model(scale=3.0)
        found = tiny_sensitivity(["four"] * 4000, model=model, layer=2, drop_first=3)
        (window,) = windows_of(model, ["four"])

        def predicted(row: torch.Tensor) -> torch.Tensor:
            def put(states: torch.Tensor) -> torch.Tensor:
                return torch.cat([states[:, :-1], row.expand(1, 1, -1)], dim=1)

            with edited(find_blocks(model.model)[2], put):
                logits: torch.Tensor = model.model(token_ids).logits
            return logits[0, -1]

        token_ids = torch.from_numpy(window.token_ids).long()[None]
        row = layer_states(model, window, 2)[-1].clone()
        jacobian = torch.autograd.functional.jacobian(predicted, row).double()
        p = predicted(row).detach().double().softmax(0)
        expected = (jacobian.T @ (p.diag() - p.outer(p)) @ jacobian).numpy()
        error = np.linalg.norm(found - expected) / np.linalg.norm(expected)
        assert error < 0.1

    def test_a_seed_decides_the_targets(self) -> None:
        model = sharp_model(scale=3.0)
        first, again, other = (
            tiny_sensitivity([TEXT], model=model, layer=2, seed=seed) for seed in (1, 1, 2)
        )
        assert np.array_equal(first, again)
        assert not np.allclose(first, other)

    def test_a_bfloat16_model_gives_about_the_same_matrix_in_float64(self) -> None:
        exact = tiny_sensitivity([TEXT] * 9, model=sharp_model("gpt2", scale=3.0), layer=1)
        model = sharp_model("gpt2", scale=3.0)
        model.model.to(torch.bfloat16)
        found = tiny_sensitivity([TEXT] * 9, model=model, layer=1)
        assert found.dtype == np.float64
        assert found.shape == (N_DIMS, N_DIMS)
        assert np.trace(found) == pytest.approx(np.trace(exact), rel=0.1)

    def test_it_leaves_weights_gradients_and_random_state_as_they_were(self) -> None:
        model = sharp_model()
        frozen, *others = model.model.parameters()
        frozen.requires_grad_(False)
        state = torch.get_rng_state()
        tiny_sensitivity([TEXT], model=model, layer=1)
        assert not frozen.requires_grad
        assert all(weight.requires_grad and weight.grad is None for weight in others)
        assert torch.equal(torch.get_rng_state(), state)

    def test_an_error_thaws_the_weights(self) -> None:
        model = sharp_model()

        def stop(record: TokenProgress) -> None:
            raise RuntimeError("on purpose")

        with pytest.raises(RuntimeError, match="on purpose"):
            tiny_sensitivity([TEXT], model=model, layer=1, progress=stop)
        assert all(weight.requires_grad for weight in model.model.parameters())

    def test_rows_that_are_all_massive_are_an_error(self) -> None:
        with pytest.raises(ValueRangeError, match="every row is massive"):
            tiny_sensitivity([TEXT], model=sharp_model(), layer=1, median_norm=1e-9)

    def test_the_name_stays_the_function_once_it_was_used(self) -> None:
        assert callable(bitcodec_transformers.sensitivity)
        assert callable(bitcodec_transformers.splice)


def test_on_smollm2_a_little_noise_costs_little_and_zeros_nearly_everything(
    language_model: LanguageModel,
) -> None:
    def noisy(hidden: np.ndarray) -> np.ndarray:
        noise = np.random.default_rng(0).standard_normal(hidden.shape)
        return np.asarray(hidden + 0.3 * hidden.std(axis=0) * noise)

    report = splice(
        pydoc_topics()[20:],
        model=language_model,
        layer=15,
        replace={"same": lambda hidden: hidden, "noisy": noisy},
        context_length=64,
        max_tokens=150,
    )
    assert report.outcomes["same"].kl == 0
    assert report.outcomes["same"].recovered == 1
    assert 2 < report.cross_entropy_original < 5
    assert report.cross_entropy_zero > 9
    assert 0.9 < report.outcomes["noisy"].recovered < 1
    assert report.outcomes["noisy"].kl > 0.01


class TestCommand:
    @pytest.fixture(scope="class")
    @staticmethod
    def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
        """A folder with a model, a text, a codec that knows both and one that knows nothing."""
        folder = tmp_path_factory.mktemp("splice")
        model = sharp_model()
        model.model.save_pretrained(folder / "model")
        model.tokenizer.save_pretrained(folder / "model")
        (folder / "text.txt").write_text(PLAIN * 12)
        (folder / "more.txt").write_text(TEXT[:40])
        loaded = bitcodec_transformers.load_model(str(folder / "model"), dtype="float32")
        documents = [TEXT * 12]
        output = folder / "hidden"
        harvest(documents, model=loaded, layers=[1], output=output, context_length=32)
        codec = BitCodec(n_bits=24, n_steps=20, batch_size=64, device="cpu")
        codec.fit(output, provenance=describe_source(output)).save(folder / "codec")
        codec.fit(output).save(folder / "stray")
        return folder

    @staticmethod
    def run(*arguments: object) -> Result:
        return CliRunner().invoke(main, ["splice", *map(str, arguments)])

    def test_it_explains_itself_with_an_example(self) -> None:
        assert "Example: bitcodec splice" in self.run("--help").stdout

    def test_it_prints_what_the_library_measures_as_the_codec_was_fitted(self, work: Path) -> None:
        texts = work / "text.txt", work / "more.txt"
        result = self.run(work / "codec", *texts, "--refine", "none", "--json")
        assert result.exit_code == 0, result.stderr
        content = json.loads(result.stdout)
        codec = BitCodec.load(work / "codec", device="cpu")
        expected = splice(
            [text.read_text() for text in texts],
            model=bitcodec_transformers.load_model(str(work / "model"), dtype="float32"),
            layer=1,
            replace={"codec": through(codec, refine="none")},
            context_length=32,
            median_norm=codec.provenance_["median_norm"],
        )
        assert expected.n_tokens == content["n_tokens"] > 500
        assert content["outcomes"]["codec"] == dataclasses.asdict(expected.outcomes["codec"])
        assert content["median_norm"] == codec.provenance_["median_norm"]
        assert content["zeros"] == dataclasses.asdict(expected.zeros)
        assert content["bytes_per_vector"] == 3
        assert 0 < content["coded_bytes_per_vector"] < 3.5

    def test_it_prints_a_table_of_the_runs(self, work: Path) -> None:
        result = self.run(work / "codec", work / "more.txt")
        assert result.exit_code == 0, result.stderr
        for name in ("original", "zeros", "codec", "cross-entropy", "recovered", "top-1"):
            assert name in result.stdout

    def test_a_codec_that_knows_no_layer_needs_one(self, work: Path) -> None:
        result = self.run(work / "stray", work / "text.txt")
        assert result.exit_code == 2
        assert "give --layer" in result.stderr

    def test_a_codec_that_knows_nothing_is_spliced_where_it_is_told(self, work: Path) -> None:
        told = ("--layer", 1, "--model", work / "model", "--context-length", 32, "--max-tokens", 50)
        result = self.run(work / "stray", work / "text.txt", *told, "--json")
        assert result.exit_code == 0, result.stderr
        assert json.loads(result.stdout)["n_tokens"] == 50

    def test_another_layer_or_model_than_the_fit_s_is_a_warning(self, work: Path) -> None:
        told = ("--layer", 2, "--model-dtype", "bfloat16", "--max-tokens", 50)
        result = self.run(work / "codec", work / "text.txt", *told)
        assert result.exit_code == 0, result.stderr
        assert "warning: the codec was fitted on layer 1, not on layer 2" in result.stderr
        assert "warning: the codec was fitted on" in result.stderr.split("not on layer 2")[1]

    def test_a_model_that_changed_under_its_name_is_refused(
        self, work: Path, tmp_path: Path
    ) -> None:
        codec = BitCodec.load(work / "codec", device="cpu")
        codec.provenance_["model"]["digest"] = "another"
        codec.save(tmp_path / "codec")
        result = self.run(tmp_path / "codec", work / "text.txt")
        assert result.exit_code == 1
        assert "fitted on another model of the name" in result.stderr


def windows_of_frame(model: LanguageModel, text: str, *, number: int) -> list[Window]:
    """Windows of 32 tokens in which the first three rows are no candidates."""
    cutter = bitcodec_transformers.windows.WindowCutter(
        model.tokenizer, context_length=32, drop_first=3
    )
    return [w for w in cutter.cut(number, text) if w.candidate.any()]


def summed_loss_slope(
    model: LanguageModel, window: Window, layer: int, place: int, dimension: int, *, seed: int
) -> float:
    """The central difference of the window's summed loss on the targets that `seed` draws."""
    token_ids = torch.from_numpy(window.token_ids).long()[None]
    step = 1e-5

    def loss(shift: float) -> float:
        def put(states: torch.Tensor) -> torch.Tensor:
            moved = states.clone()
            moved[0, place, dimension] += shift
            return moved

        with torch.no_grad(), edited(find_blocks(model.model)[layer], put):
            logits = model.model(token_ids).logits[0]
        return float(nn.functional.cross_entropy(logits, targets, reduction="sum"))

    with torch.no_grad():
        predictions = model.model(token_ids).logits[0].float().softmax(1)
    generator = torch.Generator().manual_seed(seed)
    targets = torch.multinomial(predictions, 1, generator=generator)[:, 0]
    return (loss(step) - loss(-step)) / (2 * step)
