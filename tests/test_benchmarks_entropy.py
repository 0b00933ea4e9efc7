"""The benchmarks of entropy and burstiness: estimators against brute force, prompts, orders."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.burstiness_orders import (
    ORDERS,
    Removal,
    RowOrders,
    error_curves,
    rank_agreement,
)
from benchmarks.burstiness_test import COUNTS as REMOVED
from benchmarks.burstiness_test import draw as draw_removal
from benchmarks.demonstrations import (
    COUNTS,
    TASKS,
    Prompt,
    answer_prompts,
    built_in_prompts,
    first_token,
    read_prompts,
)
from benchmarks.feature_effects import changed_contexts, compared
from benchmarks.jackknife import ClusterCounts, mean_of, set_entropy
from benchmarks.layer_entropy_plot import draw as draw_entropy
from benchmarks.layer_positions import BLOCK, STARTS, chosen_rows, saturation
from bitcodec import BitCodec
from bitcodec.errors import FormatError, ShapeError, ValueRangeError
from bitcodec.statistics import binary_entropy
from bitcodec_transformers import LanguageModel, read_rows
from bitcodec_transformers.forward import block_outputs


def drawn_bits(seed: int, *, n_clusters: int, size: int, n_bits: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return (generator.random((n_clusters * size, n_bits)) < 0.3).astype(np.uint8)


class TestJackknife:
    def test_it_is_what_leaving_out_each_cluster_gives(self) -> None:
        bits, clusters = drawn_bits(0, n_clusters=5, size=3, n_bits=4), np.repeat(range(5), 3)
        found = set_entropy(ClusterCounts.of(bits, clusters, n_clusters=5))
        for cluster in range(5):
            left = bits[clusters != cluster].mean(axis=0)
            assert found.left_out[cluster] == pytest.approx(binary_entropy(left).sum())
        assert found.plain == pytest.approx(binary_entropy(bits.mean(axis=0)).sum())

    def test_the_bias_of_few_rows_is_taken_back_and_the_error_covers_the_truth(self) -> None:
        truth, n = 40 * float(binary_entropy(np.array([0.3]))[0]), 30
        found = [
            set_entropy(
                ClusterCounts.of(
                    drawn_bits(seed, n_clusters=n, size=1, n_bits=40), np.arange(n), n_clusters=n
                )
            )
            for seed in range(60)
        ]
        plain = np.mean([estimate.plain for estimate in found]) - truth
        corrected = np.mean([estimate.value for estimate in found]) - truth
        assert plain < -0.7  # 40 bits / (2 ln 2 * 30) = 0.96
        assert abs(corrected) < 0.25
        covered = [abs(estimate.value - truth) < 1.96 * estimate.error for estimate in found]
        assert np.mean(covered) > 0.85

    def test_of_a_mean_the_error_is_the_textbook_s_and_there_is_no_bias(self) -> None:
        values = np.random.default_rng(0).normal(size=12)
        found = mean_of(values, np.arange(12), n_clusters=12)
        assert found.value == pytest.approx(values.mean())
        assert found.error == pytest.approx(values.std(ddof=1) / np.sqrt(12))

    def test_of_a_difference_what_both_share_cancels(self) -> None:
        values = np.random.default_rng(0).normal(size=12)
        first = mean_of(values, np.arange(12), n_clusters=12)
        second = mean_of(values + 3, np.arange(12), n_clusters=12)
        assert (second - first).value == pytest.approx(3)
        assert (second - first).error == pytest.approx(0, abs=1e-12)

    def test_one_cluster_tells_no_error_and_is_refused(self) -> None:
        counted = ClusterCounts.of(np.ones((3, 2)), np.ones(3, np.int64), n_clusters=2)
        with pytest.raises(ValueRangeError, match="at least two documents or questions"):
            set_entropy(counted)

    def test_estimates_of_other_clusters_do_not_subtract(self) -> None:
        one = mean_of(np.ones(3), np.arange(3), n_clusters=3)
        other = mean_of(np.ones(4), np.arange(4), n_clusters=4)
        with pytest.raises(ShapeError, match="got 3 and 4"):
            one - other


class TestPositions:
    def test_every_block_has_consecutive_rows_of_long_documents(self, harvest_folder: Path) -> None:
        rows = read_rows(harvest_folder)
        kept, block, document = chosen_rows(rows)
        assert len(kept) > 100
        for number in np.unique(document):
            mine = kept[document == number]
            assert len(np.unique(rows.document[mine])) == 1
            places = rows.position[mine]
            assert len(np.unique(places)) == len(places)  # of one window
            starts = np.array(STARTS)[block[document == number]]
            assert (places >= starts).all()
            assert (places < starts + BLOCK).all()
            assert len(places) > 0.9 * BLOCK * len(STARTS)  # but for massive rows

    def test_saturation_is_where_nine_tenths_of_the_rise_are_reached(self) -> None:
        middles = np.array(STARTS) + (BLOCK - 1) / 2
        shares = np.minimum(0.1 + 0.4 * np.arange(len(STARTS)) / 4, 0.5)
        counted = [
            ClusterCounts(np.full(50, 100), np.full((50, 1), round(100 * share)))
            for share in shares
        ]
        found = saturation(counted)
        entropies = [float(binary_entropy(np.array([round(100 * s) / 100]))[0]) for s in shares]
        level = entropies[0] + 0.9 * (1 - entropies[0])
        assert found["position"] == pytest.approx(np.interp(level, entropies[:5], middles[:5]))
        assert found["interval"] == pytest.approx([found["position"]] * 2)

    def test_a_falling_entropy_saturates_nowhere(self) -> None:
        counted = [
            ClusterCounts(np.full(9, 100), np.full((9, 1), 50 - number))
            for number in range(len(STARTS))
        ]
        assert saturation(counted)["position"] is None


class TestDemonstrations:
    def test_every_question_is_asked_after_each_number_of_others(self) -> None:
        prompts = built_in_prompts()
        for prompt in prompts:
            pairs = dict(TASKS[prompt.task.split(",")[0]])
            *shown, asked = prompt.prompt.split("\n")
            assert len(shown) == prompt.demonstrations
            assert asked == f"{prompt.question} ->"
            assert prompt.answer == f" {pairs[prompt.question]}"
            told = dict(line.split(" -> ") for line in shown)
            assert prompt.question not in told
            right = [pairs[question] == answer for question, answer in told.items()]
            assert not any(right) if "exchanged" in prompt.task else all(right)
        assert len(prompts) == 2 * len(COUNTS) * sum(map(len, TASKS.values()))

    def test_prompts_of_one_s_own_are_read_a_line_each(self, tmp_path: Path) -> None:
        prompt = Prompt("sum", "2 + 3", 1, "1 + 1 = 2\n2 + 3 =", " 5")
        path = tmp_path / "prompts.jsonl"
        path.write_text(json.dumps(vars(prompt)) + "\n")
        assert read_prompts(path) == [prompt]
        path.write_text('{"task": "sum"}\n')
        with pytest.raises(FormatError, match=r"line 1 of .* must be a JSON object with task"):
            read_prompts(path)

    def test_an_answer_that_begins_within_a_token_of_the_prompt_is_refused(
        self, language_model: LanguageModel
    ) -> None:
        with pytest.raises(FormatError, match="begin the answer with its space"):
            first_token(language_model, Prompt("t", "q", 0, "The cap", "ital"))

    def test_states_and_probabilities_are_those_of_each_prompt_read_alone(
        self, language_model: LanguageModel
    ) -> None:
        prompts = [p for p in built_in_prompts() if p.demonstrations in (0, 2)][:4]
        found = answer_prompts(language_model, prompts, layers=[3, 15], batch=4)
        for row, prompt in enumerate(prompts):
            ids = language_model.tokenizer(prompt.prompt, return_tensors="pt").input_ids
            with torch.inference_mode():
                logits = language_model.model(ids).logits[0, -1].float()
            token = first_token(language_model, prompt)
            assert found.probability[row] == pytest.approx(
                float(logits.softmax(0)[token]), rel=0.2, abs=1e-4
            )
            mask = torch.ones_like(ids)
            states = block_outputs(language_model.model, layers=[15], token_ids=ids, mask=mask)
            expected = states[15][0, -1].float().numpy()
            distance = np.linalg.norm(found.hidden[15][row] - expected)
            assert distance < 0.05 * np.linalg.norm(expected)


class TestOrders:
    @pytest.fixture(scope="class")
    @staticmethod
    def orders(hidden: np.ndarray, codec: BitCodec) -> RowOrders:
        rows = hidden[3072:3136]
        return RowOrders.of(codec, rows, scale=rows.std(axis=0))

    def test_the_rise_of_the_error_is_that_of_decoding_without_the_feature(
        self, orders: RowOrders
    ) -> None:
        rises, codec = orders.error_rises(), orders.codec
        for row in range(4):
            for feature in np.flatnonzero(orders.bits[row])[:5]:
                bits = np.stack([orders.bits[row]] * 2)
                bits[1, feature] = False
                decoded = codec.decode(np.packbits(bits, axis=1, bitorder="little"))
                errors = np.square((orders.hidden[row] - decoded) / orders.scale).sum(axis=1)
                assert rises[row, feature] == pytest.approx(errors[1] - errors[0], abs=0.05)

    def test_features_go_in_the_order_of_their_scores(self, orders: RowOrders) -> None:
        activity = orders.codec.statistics_.activity
        on = [np.flatnonzero(bits) for bits in orders.bits]
        for order, key in (("most bursty", activity), ("least bursty", -activity)):
            decoded = orders.without(order, 2)  # type: ignore[arg-type]
            for row in range(8):
                left = orders.bits[row].copy()
                left[sorted(on[row], key=lambda feature: key[feature])[:2]] = False
                code = np.packbits(left[None], axis=1, bitorder="little")
                np.testing.assert_allclose(decoded[row], orders.codec.decode(code)[0], atol=1e-3)

    def test_without_all_features_every_order_leaves_the_bias(self, orders: RowOrders) -> None:
        nothing = orders.codec.decode(np.zeros((1, orders.codec.row_bytes_), np.uint8))
        for order in ORDERS:
            decoded = orders.without(order, orders.codec.n_bits_)
            np.testing.assert_allclose(decoded, np.repeat(nothing, 64, axis=0), atol=1e-3)

    def test_the_largest_rise_hurts_most_and_curves_start_together(self, orders: RowOrders) -> None:
        curves = error_curves(orders, counts=(0, 1))
        assert len({curve[0] for curve in curves.values()}) == 1
        assert all(curves["largest error rise"][1] >= curves[order][1] - 1e-6 for order in ORDERS)

    def test_opposite_orders_agree_oppositely_and_a_random_one_with_nothing(
        self, orders: RowOrders
    ) -> None:
        found = rank_agreement(orders, np.arange(64) // 8)
        up, down = found["most bursty"]["correlation"], found["least bursty"]["correlation"]
        assert up == pytest.approx(-down)
        assert abs(found["random"]["correlation"]) < 0.2

    def test_a_replacement_shares_codes_but_not_rows(self, orders: RowOrders) -> None:
        removal = Removal(orders.codec, scale=orders.scale)
        first = removal.replacement("most bursty", 1)
        other = removal.replacement("most bursty", 0)
        for rows in (orders.hidden[:8], orders.hidden[8:16]):
            mine = RowOrders.of(orders.codec, rows, scale=orders.scale)
            np.testing.assert_array_equal(first(rows), mine.without("most bursty", 1))
            np.testing.assert_array_equal(other(rows), mine.without("most bursty", 0))


def test_effects_are_means_over_all_places() -> None:
    generator = torch.Generator().manual_seed(0)
    plain, changed = (
        [torch.randn(n, 5, generator=generator).log_softmax(dim=1) for n in (3, 4)]
        for _ in range(2)
    )
    change = compared(plain, changed)
    before, after = torch.cat(plain), torch.cat(changed)
    assert torch.allclose(change.logarithm, (after - before).mean(dim=0), atol=1e-6)
    assert torch.allclose(change.probability, (after.exp() - before.exp()).mean(dim=0), atol=1e-6)
    each = (before.exp() * (before - after)).sum(dim=1)
    assert change.kl == pytest.approx(float(each.mean()), rel=1e-5)


def test_the_contexts_shown_are_those_whose_next_token_changed_most(
    language_model: LanguageModel,
) -> None:
    tokenizer = language_model.tokenizer
    ids = [tokenizer(text, return_tensors="pt").input_ids for text in ("one two three", "a b c")]
    plain = [torch.zeros(row.shape[1] - 1, len(tokenizer)).log_softmax(dim=1) for row in ids]
    changed = [rows.clone() for rows in plain]
    word = tokenizer.encode(" three")[0]
    for rows, place, weight in ((changed[0], 0, 9.0), (changed[1], 1, 12.0)):
        rows[place, word] += weight  # the token after the second, and after the third
        rows[place] = rows[place].log_softmax(dim=0)
    second, first = changed_contexts(language_model, ids, plain, changed)
    assert (second["text"], first["text"]) == ("a b c", "one two")
    assert second["after"][0] == (" three", pytest.approx(0.76, abs=0.03))
    assert second["before"][0][1] == pytest.approx(1 / len(tokenizer), abs=1e-4)
    assert second["kl"] > first["kl"] > 0


def test_the_pictures_are_drawn_from_the_figures(tmp_path: Path) -> None:
    cell = {"probability": [0.3, 0.1], "entropy_bits": {"layer-3": [9.0, 1.0]}}
    positions = {"positions": [1.0, 9.0], "entropy_bits": [[9.0, 1.0], [11.0, 1.0]]}
    by_task = {f"task {k}": {"0": cell, "1": cell} for k in range(3)}
    results = {
        "by position": {"layer-3": positions},
        "by demonstrations": {"mine": {"tasks": by_task}},
    }
    draw_entropy(results, tmp_path / "entropy.png", group="mine")
    loss = {"cross_entropy": 4.0, "cross_entropy_error": None}
    names = ["0 removed", *(f"{order}, {n} removed" for order in ORDERS for n in REMOVED)]
    figures = {
        "reconstruction": {
            "figures": {"fvu": {order: [0.1] * (1 + len(REMOVED)) for order in ORDERS}}
        },
        "losses": {"figures": {"by_removal": dict.fromkeys(names, loss)}},
    }
    draw_removal(figures, tmp_path / "removal.png")
    for name in ("entropy.png", "removal.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
