"""The retrieval benchmark: its sets, its pooled vectors, and how its results are kept."""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import retrieval, retrieval_data
from benchmarks.results_file import merge_results
from benchmarks.retrieval_codecs import make_codecs
from benchmarks.retrieval_data import (
    RUN_TOKENS,
    RetrievalSet,
    choose_sets,
    make_mean_pooled,
    pool_harvest,
    shortened,
)
from benchmarks.rivals import make_rivals
from bitcodec.batches import HiddenBatches
from bitcodec.errors import FileError, ValueRangeError
from bitcodec.metrics import recall
from bitcodec.similarity import Metric
from bitcodec_transformers import LanguageModel, hidden_of, read_rows

LAYER = 1


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of two sets, of which only the names count, and of something else."""
    for name in ("cacm", "scifact"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "qrels.tsv").touch()
    (tmp_path / "notes").mkdir()
    return tmp_path


def judged(name: str, n_documents: int = 600, n_dims: int = 16, seed: int = 0) -> RetrievalSet:
    """Random vectors, of which each of 20 queries is near one document."""
    draw = np.random.default_rng(seed)
    documents = draw.normal(size=(n_documents, n_dims)).astype(np.float32)
    documents /= np.linalg.norm(documents, axis=1, keepdims=True)
    near = documents[:20] + 0.05 * draw.normal(size=(20, n_dims)).astype(np.float32)
    return RetrievalSet(name, documents, near, [{row: 1.0} for row in range(20)])


def arguments(*, methods: list[str], **others: Any) -> argparse.Namespace:
    settled = {"model": "minilm", "fit": "other", "sets": None, "seeds": 1, "slow": False}
    settled |= {"metric": "inner_product"}
    return argparse.Namespace(**(settled | {"methods": methods} | others))


def test_sets_are_taken_by_name_and_all_by_default(folder: Path) -> None:
    assert choose_sets(folder) == ["cacm", "scifact"]
    assert choose_sets(folder, ["scifact"]) == ["scifact"]


def test_a_set_that_is_not_there_is_refused_with_those_that_are(folder: Path) -> None:
    with pytest.raises(FileError, match=r"holds no set 'notes': there are cacm, scifact"):
        choose_sets(folder, ["cacm", "notes"])


def test_texts_are_cut_where_their_last_token_ends(language_model: LanguageModel) -> None:
    text = "The quick brown fox jumps over the lazy dog."
    tokenizer = language_model.tokenizer
    first, empty = shortened([text, ""], tokenizer, 4)
    assert text.startswith(first)
    assert empty == ""
    whole = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer(first, add_special_tokens=False)["input_ids"] == whole[:4]


def test_a_text_is_the_mean_of_its_tokens_and_an_empty_one_zeros(
    language_model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retrieval_data, "load_model", lambda name, dtype: language_model)
    text = "A lambda expression yields a function object."
    pooled = make_mean_pooled("any", layer=LAYER, max_tokens=6)([text, "", text + " More of it."])
    cut = shortened([text], language_model.tokenizer, 6)
    mean = hidden_of(cut, model=language_model, layer=LAYER).hidden.mean(axis=0)
    np.testing.assert_allclose(pooled[0], mean / np.linalg.norm(mean), atol=1e-5)
    np.testing.assert_allclose(pooled[2], pooled[0], atol=1e-5)  # the cut leaves the same tokens
    assert not pooled[1].any()


def test_runs_of_a_harvest_are_pooled_within_their_documents(harvest_folder: Path) -> None:
    layer = int(next(harvest_folder.glob("layer-*")).name.split("-")[1])
    batches = HiddenBatches(harvest_folder / f"layer-{layer}").batches(1000)
    hidden = np.concatenate([batch.numpy() for batch in batches])
    owners = read_rows(harvest_folder).column("document")
    wanted = []
    for document in np.unique(owners):
        rows = hidden[owners == document]
        for start in range(0, len(rows) - RUN_TOKENS + 1, RUN_TOKENS):
            mean = rows[start : start + RUN_TOKENS].mean(axis=0)
            wanted.append(mean / np.linalg.norm(mean))
    pooled = pool_harvest(harvest_folder, layer=layer)
    assert len(wanted) > 10
    np.testing.assert_allclose(pooled, wanted, atol=1e-5)


def test_a_run_replaces_only_the_methods_it_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retrieval, "merge_results", partial(merge_results, folder=tmp_path))
    merge_results("retrieval", ("minilm", "other", "methods", "older"), {"n": 1}, folder=tmp_path)
    sets = [judged("a", seed=1), judged("b", seed=2)]
    other = judged("c", seed=3).documents
    rows = retrieval.run_fit(arguments(methods=["sign", "float"]), ("minilm", "other"), sets, other)
    stored = json.loads((tmp_path / "retrieval.json").read_text())["results"]["minilm"]["other"]
    assert set(stored["methods"]) == {*rows, "older"}
    assert stored["data"]["sets"]["b"] == {"documents": 600, "queries": 20}
    assert rows["float"]["average"]["recall_10"]["median"] == 1.0
    assert rows["float"]["sets"]["a"]["ndcg"]["median"] == 1.0
    assert 0.1 < rows["sign"]["average"]["recall_10"]["median"] < 1.0


@pytest.mark.parametrize("metric", ["inner_product", "l2"])
def test_rivals_of_8_bits_find_the_exact_neighbours_by_either_metric(metric: Metric) -> None:
    some, shift = judged("a"), np.full(16, 0.5, dtype=np.float32)
    rows = some.documents + shift
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    queries = some.queries / 3 - rows.mean(axis=0)  # what forgets the mean ranks by the rest
    exact = np.argsort(-(queries @ rows.T), axis=1)[:, :10]
    index = make_rivals(16, metric=metric)["SQ8"](rows, 0)["SQ8"](rows)
    assert recall(index.search(queries, 10), exact) > 0.9


def test_ours_take_the_bytes_they_are_named_after_by_either_metric(hidden: np.ndarray) -> None:
    metrics: tuple[Metric, ...] = ("inner_product", "l2")
    for metric in metrics:
        fits = make_codecs(64, metric=metric)
        builds = fits["bitcodec search 36 B"](hidden[:1000, :64], 0)
        searchable = builds["bitcodec search 36 B"](hidden[:50, :64])
        assert searchable.bytes_per_vector == 36


def test_a_set_is_never_fitted_on_unless_its_own_documents_are_asked_for() -> None:
    sets, other = [judged("a", seed=1), judged("b", seed=2)], judged("c", seed=3).documents
    rows = retrieval.training_rows("other", sets[0], sets, other)
    np.testing.assert_array_equal(rows, np.concatenate([sets[1].documents, other]))
    own = retrieval.training_rows("documents", sets[0], sets, other)
    np.testing.assert_array_equal(own, sets[0].documents)


def test_a_set_smaller_than_a_minibatch_is_told_of(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        assert not retrieval.is_large(judged("few", n_documents=240))
    assert "few is left out: its 240 documents are fewer than a minibatch of 512" in caplog.text
    assert retrieval.is_large(judged("enough", n_documents=512))


def test_methods_that_do_not_exist_are_refused() -> None:
    with pytest.raises(ValueRangeError, match=r"no method's name holds \['simhash'\]: there are"):
        retrieval.choose_methods(arguments(methods=["simhash"]), 16)


@pytest.mark.parametrize(
    "others", [{"model": "smollm2-135m"}, {"fit": "documents"}, {"sets": ["cacm"]}]
)
def test_nothing_is_promised_of_other_models_fits_and_fewer_sets(
    others: dict[str, Any], folder: Path
) -> None:
    asked = arguments(methods=[""], data=folder, **others)
    assert retrieval.promised_rows(asked, asked.model) == {}
