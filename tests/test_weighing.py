"""Errors weighed by a sensitivity, against the plain formulas in float64."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bitcodec import BitCodec
from bitcodec.batches import HiddenBatches
from bitcodec.config import CodecConfig
from bitcodec.errors import (
    ConfigError,
    FormatError,
    MismatchError,
    ShapeError,
    ValueRangeError,
)
from bitcodec.model import BinaryAutoencoder
from bitcodec.range_coding import learn_context
from bitcodec.refine import rate_prices
from bitcodec.row_meter import flip_margins
from bitcodec.storage import CodecHeader
from bitcodec.tensors import model_of
from bitcodec.validation import Validation
from bitcodec.weighing import Weighing
from bitcodec_transformers import LanguageModel, pydoc_topics, sensitivity

N_DIMS = 12
CPU = torch.device("cpu")


def random_states(n_rows: int = 1500, *, seed: int = 0) -> np.ndarray:
    """Rows of a few causes and noise, dimensions of unlike scales, away from 0."""
    random, directions = np.random.default_rng(seed), np.random.default_rng(100)
    causes = random.standard_normal((n_rows, 5)) @ directions.standard_normal((5, N_DIMS))
    rows = causes + 0.3 * random.standard_normal((n_rows, N_DIMS))
    return (rows * np.geomspace(0.1, 10, N_DIMS) + 3).astype(np.float32)


def random_sensitivity(*, seed: int = 1, rank: int = 3) -> np.ndarray:
    """A matrix of low rank, as Fisher matrices nearly are."""
    gradients = np.random.default_rng(seed).standard_normal((rank, N_DIMS))
    return gradients.T @ gradients


def fitted(
    rows: np.ndarray,
    minded: np.ndarray | None = None,
    *,
    validation: np.ndarray | None = None,
    **changes: Any,
) -> BitCodec:
    settings: dict[str, Any] = {"n_steps": 60, "batch_size": 128, "entropy_weight": 0.1}
    settings["device"] = "cpu"
    return BitCodec(**settings | changes).fit(rows, sensitivity=minded, validation=validation)


def weighed_errors(rows: np.ndarray, decoded: np.ndarray, minded: np.ndarray) -> np.ndarray:
    """e F e of every row, (n,)."""
    errors = rows.astype(np.float64) - decoded
    products: np.ndarray = np.einsum("ni,ij,nj->n", errors, minded, errors)
    return products


def random_autoencoder(*, n_bits: int = 40, stages: bool = False) -> BinaryAutoencoder:
    """Weights of every kind, as a fit on weighed rows might leave them."""
    generator = torch.Generator().manual_seed(3)
    model = BinaryAutoencoder(n_dims=N_DIMS, n_bits=n_bits)
    for name, value in model.state_dict().items():
        if value.is_floating_point() and name not in ("shrinkage", "scale"):
            value.copy_(torch.randn(value.shape, generator=generator))
    model.scale.fill_(1.7)
    if stages:
        model.stages.copy_(torch.arange(n_bits) // 10)
    return model


class TestWeighing:
    @pytest.mark.parametrize("scaling", ["dimension", "global"])
    @pytest.mark.parametrize("share", [0.0, 0.5, 0.95])
    def test_lengths_of_weighed_rows_are_the_mixture_of_both_errors(
        self, share: float, scaling: str
    ) -> None:
        rows, minded = random_states(), random_sensitivity()
        config = CodecConfig(sensitivity_share=share, scaling=scaling)  # type: ignore[arg-type]
        weighing = Weighing.of(minded, HiddenBatches(rows), config, device=CPU)
        found = (weighing.weigh(torch.from_numpy(rows)).double() ** 2).sum(dim=1).numpy()
        centred = rows.astype(np.float64) - rows.astype(np.float64).mean(axis=0)
        deviations = centred.std(axis=0)
        if scaling == "global":
            deviations = np.full(N_DIMS, np.sqrt((deviations**2).mean()))
        standardised = centred / deviations
        inner = minded * deviations[:, None] * deviations
        of_model = np.einsum("ni,ij,nj->n", standardised, inner, standardised)
        plain = (standardised**2).sum(axis=1)
        expected = (1 - share) * plain + share * N_DIMS / np.trace(inner) * of_model
        np.testing.assert_allclose(found, expected, rtol=1e-4)

    @pytest.mark.parametrize("stages", [False, True])
    def test_folding_changes_neither_codes_nor_decoded_rows(self, stages: bool) -> None:
        rows = torch.from_numpy(random_states())
        weighing = Weighing.of(random_sensitivity(), HiddenBatches(rows), CodecConfig(), device=CPU)
        inner = random_autoencoder(stages=stages)
        folded = weighing.fold(inner)
        seen = inner.standardise(weighing.weigh(rows))
        bits = inner.encode(seen)
        differ = (bits != folded.encode(folded.standardise(rows))).float().mean()
        assert differ < 1e-4  # logits at a threshold, in another order of sums
        expected = (inner.reconstruct(bits) * 1.7 + inner.mean).double() @ weighing.inverse
        assert torch.allclose(folded.reconstruct(bits).double(), expected, atol=1e-4)
        lengths = folded.weigh(folded.standardise(rows) - folded.reconstruct(bits)).norm(dim=1)
        assert torch.allclose(lengths, (seen - inner.reconstruct(bits)).norm(dim=1), rtol=1e-4)

    @pytest.mark.parametrize(
        ("minded", "error", "words"),
        [
            (np.eye(N_DIMS + 1), ShapeError, r"must be \(12, 12\) .*, got \(13, 13\)"),
            (np.ones(N_DIMS), ShapeError, r"got \(12,\)"),
            (np.eye(N_DIMS, dtype=np.int64), ValueRangeError, "must be floats, got dtype int64"),
            (np.diag([1.0, np.nan] * 6), ValueRangeError, "got nan in row 1, column 1: pass what"),
            (np.triu(np.ones((N_DIMS, N_DIMS))), ValueRangeError, "must be symmetric"),
            (-np.eye(N_DIMS), ValueRangeError, "semidefinite, got an eigenvalue of -1: pass"),
            (np.zeros((N_DIMS, N_DIMS)), ValueRangeError, "is 0 in every dimension that varies"),
        ],
    )
    def test_what_is_no_sensitivity_is_refused(
        self, minded: np.ndarray, error: type[Exception], words: str
    ) -> None:
        with pytest.raises(error, match=words):
            fitted(random_states(300), minded)


@pytest.mark.parametrize("kind", ["array", "stream"])
def test_mapped_rows_are_those_of_the_source_after_the_functions(kind: str) -> None:
    rows = random_states(600)
    source = HiddenBatches(rows if kind == "array" else [rows[:350], rows[350:]])
    doubled = source.mapped(lambda batch: 2 * batch).mapped(lambda batch: batch + 1)
    expected = 2 * torch.from_numpy(rows) + 1
    assert torch.equal(torch.cat(list(doubled.batches(100))), expected)
    shuffled = torch.cat(list(doubled.shuffled(50, torch.Generator().manual_seed(0))))
    assert torch.equal(shuffled[shuffled[:, 0].argsort()], expected[expected[:, 0].argsort()])
    assert torch.equal(torch.cat(list(source.batches(100))), torch.from_numpy(rows))


class TestWeighedCodec:
    def test_it_spends_its_bits_where_the_sensitivity_is(self) -> None:
        rows, held = random_states(), random_states(500, seed=9)
        minded = random_sensitivity()
        plain, weighed = (fitted(rows, given, n_steps=150) for given in (None, minded))
        errors = [
            weighed_errors(held, codec.decode(codec.encode(held)), minded).mean()
            for codec in (weighed, plain)
        ]
        rates = [codec.evaluate(held).entropy_bits for codec in (weighed, plain)]
        assert errors[0] < 0.5 * errors[1]
        assert rates[0] < 1.1 * rates[1]

    def test_codes_are_searched_for_the_weighed_error(self) -> None:
        rows, n_bits = random_states(), 9
        codec = fitted(rows, random_sensitivity(), n_bits=n_bits)
        held = random_states(40, seed=9)
        model, counted = codec._model, codec.statistics_
        root = model.error_root
        assert root is not None
        prices = rate_prices(counted.counts, counted.n_rows, entropy_weight=codec.entropy_weight)
        every = np.array(list(itertools.product((0, 1), repeat=n_bits)))[:, ::-1]  # bit 0 first
        decoded = every @ model.decoder_weight.detach().double().numpy()
        decoded += model.decoder_bias.detach().double().numpy()
        z = model.standardise(torch.from_numpy(held)).double().numpy()
        residuals = (z[:, None] - decoded) @ root.double().numpy()
        costs = (residuals**2).sum(axis=2) + every @ prices  # of each row with each code

        def codes_and_costs(effort: Any) -> tuple[np.ndarray, np.ndarray]:
            codes = codec.encode_bits(held, refine=effort) @ (1 << np.arange(n_bits))
            return codes, costs[np.arange(len(held)), codes]

        codes, found = codes_and_costs("best")
        assert (found <= codes_and_costs("none")[1] + 1e-6).all()
        flipped = np.stack([codes ^ (1 << bit) for bit in range(n_bits)])
        assert (costs[np.arange(len(held)), flipped] >= found - 1e-4).all()

    def test_a_row_has_the_same_code_whatever_rows_are_beside_it(self) -> None:
        rows = random_states()
        codec = fitted(rows, random_sensitivity())
        whole = codec.encode(rows[:300])
        parts = [codec.encode(rows[start : start + 7]) for start in range(0, 300, 7)]
        assert (np.concatenate(parts)[:300] == whole).all()

    def test_it_is_saved_with_its_root(self, tmp_path: Path) -> None:
        rows = random_states()
        codec = fitted(rows, random_sensitivity())
        codec.save(tmp_path / "codec")
        loaded = BitCodec.load(tmp_path / "codec")
        assert loaded.fingerprint_ == codec.fingerprint_ != fitted(rows).fingerprint_
        assert (loaded.encode(rows) == codec.encode(rows)).all()
        assert (loaded.encode(rows) != fitted(rows).encode(rows)).any()
        assert len(loaded.provenance_["sensitivity_sha256"]) == 64

    def test_a_context_table_prices_its_bits_too(self) -> None:
        rows = random_states()
        codec = fitted(rows, random_sensitivity())
        table = learn_context(codec.encode(rows), n_bits=codec.n_bits_)
        codes = codec.encode(rows, context=table)
        plain = codec.encode(rows)
        assert (codes != plain).any()
        assert len(codec.compress(codes, table=table)) < len(codec.compress(plain, table=table))

    def test_a_transform_code_may_be_weighed(self) -> None:
        rows, minded = random_states(), random_sensitivity()
        plain, weighed = (
            fitted(rows, given, entropy_weight=0, start="transform", expansion=3)
            for given in (None, minded)
        )
        errors = [
            weighed_errors(rows, codec.decode(codec.encode(rows)), minded).mean()
            for codec in (weighed, plain)
        ]
        assert errors[0] < errors[1]

    def test_dimensions_that_never_vary_keep_their_value(self) -> None:
        rows, others = random_states(), np.arange(N_DIMS) != 4
        rows[:, 4] = 2.5
        minded = random_sensitivity()
        codec = fitted(rows, minded, constant="keep", n_bits=24)
        decoded = codec.decode(codec.encode(rows))
        assert (decoded[:, 4] == 2.5).all()
        rest, own = rows[:, others], minded[np.ix_(others, others)]
        without = fitted(rest, own, n_bits=24)
        expected = weighed_errors(rest, without.decode(without.encode(rest)), own).mean()
        assert weighed_errors(rows, decoded, minded).mean() == pytest.approx(expected, rel=0.3)

    @pytest.mark.parametrize("given", [True, False])
    def test_rows_kept_from_training_are_weighed_like_those_trained_on(
        self, given: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        rows, held = random_states(), random_states(400, seed=5)
        minded = random_sensitivity()
        seen: list[torch.Tensor] = []

        def note(self: Validation, batches: HiddenBatches, config: CodecConfig) -> None:
            start(self, batches, config)
            seen.append(self._rows)

        start = Validation.__init__
        monkeypatch.setattr(Validation, "__init__", note)
        fitted(rows, minded, target_bits=15, validation=held if given else None)
        config = CodecConfig(batch_size=128)
        weighing = Weighing.of(minded, HiddenBatches(rows), config, device=CPU)
        own = weighing.weigh(torch.from_numpy(held if given else rows))
        exactly = "donot_use_mm_for_euclid_dist"
        gaps = torch.cdist(seen[0], own, compute_mode=exactly).amin(dim=1)
        assert (gaps < 1e-5).all()

    def test_a_stopped_fit_goes_on_to_the_same_codec(self, tmp_path: Path) -> None:
        rows, minded = random_states(), random_sensitivity()
        whole = fitted(rows, minded)
        place = tmp_path / "state"

        def stop(record: Any) -> None:
            if record.step == 30:
                raise KeyboardInterrupt

        codec = BitCodec(n_steps=60, batch_size=128, entropy_weight=0.1, device="cpu")
        with pytest.raises(KeyboardInterrupt):
            codec.fit(
                rows, sensitivity=minded, checkpoint=place, checkpoint_every=10, on_record=stop
            )
        for other in (None, random_sensitivity(seed=7)):
            with pytest.raises(MismatchError, match="is of a training with another sensitivity"):
                codec.fit(rows, sensitivity=other, checkpoint=place)
        with pytest.raises(MismatchError, match="hidden states of other standard deviations"):
            codec.fit(rows * [*([1] * 11), 1.5], sensitivity=minded, checkpoint=place)
        resumed = codec.fit(rows, sensitivity=minded, checkpoint=place)
        assert resumed.fingerprint_ == whole.fingerprint_

    def test_what_cannot_weigh_errors_says_so(self) -> None:
        rows, minded = random_states(300), random_sensitivity()
        with pytest.raises(ConfigError, match="sensitivity needs side_bytes=0, got 2"):
            BitCodec.preset("search").fit(rows, sensitivity=minded)
        with pytest.raises(ConfigError, match="takes data as they come"):
            BitCodec.preset("paper").fit(rows, sensitivity=minded)
        with pytest.raises(ConfigError, match="sensitivity_share must be at least 0 and below 1"):
            fitted(rows, minded, sensitivity_share=1.0)
        codec = fitted(rows, minded)
        with pytest.raises(ConfigError, match="does not weigh errors as this codec's fit did"):
            codec.partial_fit(rows)
        with pytest.raises(ConfigError, match="fitted with a sensitivity"):
            codec.linear_maps()

    def test_a_generator_of_rows_is_refused_before_it_is_read(self) -> None:
        batches = iter([random_states()])
        with pytest.raises(ConfigError, match="a generator can be read once"):
            BitCodec(batch_size=128).fit(batches, sensitivity=random_sensitivity())
        assert len(next(batches)) == 1500

    def test_a_tensor_that_wants_gradients_is_a_sensitivity_too(self) -> None:
        rows, minded = random_states(), random_sensitivity()
        tensor = torch.from_numpy(minded).requires_grad_()
        codecs = [
            BitCodec(n_steps=20, batch_size=128, device="cpu").fit(rows, sensitivity=given)
            for given in (minded, tensor)
        ]
        assert codecs[0].fingerprint_ == codecs[1].fingerprint_

    def test_reports_count_what_a_flip_costs_by_the_weighed_error(self) -> None:
        rows = random_states(300)
        codec = fitted(rows, random_sensitivity())
        model = codec._model
        bits = codec.encode_bits(rows[:5])
        margins = flip_margins(model, torch.from_numpy(rows[:5]), bits)
        assert model.error_root is not None
        z = model.standardise(torch.from_numpy(rows[:5]))
        for row, bit in itertools.product(range(5), range(codec.n_bits_)):
            flipped = bits[row].copy()
            flipped[bit] ^= 1
            codes = torch.from_numpy(np.stack([flipped, bits[row]])).float()
            errors = (z[row] - model.reconstruct(codes).detach()) @ model.error_root
            change = errors.double().square().sum(dim=1)
            assert margins[row, bit] == pytest.approx(float(change[0] - change[1]), abs=1e-3)


@pytest.mark.parametrize(
    ("n_dims", "root", "side_bytes", "words"),
    [
        (60_000, 1, 0, r"must be \(60000, 60000\), .*, got \(1, 1\)"),  # 14 GB where it is made
        (4, 4, 2, r"without side bytes, got \(4, 4\) and 2 side bytes"),
    ],
)
def test_a_root_that_does_not_fit_is_refused_before_room_is_made_for_it(
    n_dims: int, root: int, side_bytes: int, words: str
) -> None:
    header = CodecHeader(
        n_dims=n_dims,
        n_bits=1,
        n_rows=1,
        entropy_bits=0,
        fingerprint="",
        parameters=CodecConfig(side_bytes=side_bytes),
    )
    tensors = {
        "encoder_weight": np.zeros((1, n_dims), np.float32),
        "error_root": np.zeros((root, root), np.float32),
    }
    with pytest.raises(FormatError, match=words):
        model_of(header, tensors, where="codec")


def test_real_states_are_coded_where_their_model_minds_it(
    hidden: np.ndarray, language_model: LanguageModel
) -> None:
    minded = sensitivity(pydoc_topics(), model=language_model, layer=15, max_tokens=300)
    settings: dict[str, Any] = {"n_bits": 128, "n_steps": 60, "batch_size": 256}
    rows, held = hidden[:3072], hidden[3072:]
    plain, weighed = (BitCodec(**settings).fit(rows, sensitivity=given) for given in (None, minded))
    errors = [
        weighed_errors(held, codec.decode(codec.encode(held)), minded).mean()
        for codec in (weighed, plain)
    ]
    assert errors[0] < 0.9 * errors[1]
    assert weighed.evaluate(held).code_bits < 1.1 * plain.evaluate(held).code_bits
