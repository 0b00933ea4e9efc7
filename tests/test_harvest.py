"""The harvest folder: what it holds, how it resumes, and what it refuses."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import itertools
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

import bitcodec_transformers
from bitcodec.errors import (
    BitcodecError,
    ConfigError,
    FileError,
    FormatError,
    MismatchError,
    ValueRangeError,
)
from bitcodec_transformers import (
    Counts,
    HarvestProgress,
    HarvestSummary,
    LanguageModel,
    harvest,
    hidden_of,
    pydoc_topics,
    read_documents,
    read_harvest,
    read_rows,
)
from bitcodec_transformers.forward import block_outputs
from bitcodec_transformers.selection import select_rows
from bitcodec_transformers.windows import RowTable
from tests.edited import edit_json
from tests.test_harvest_forward import N_DIMS, TEXT, llama, tiny_model

DOCUMENTS = [f"Document {k}: {'word ' * (k % 7)}{TEXT[: 3 * k]}" for k in range(12)] + [""]


def tiny_harvest(output: Path, documents: Any = DOCUMENTS, **changes: Any) -> HarvestSummary:
    """A harvest of several small shards, unless `changes` say otherwise."""
    arguments: dict[str, Any] = {
        "model": llama(),
        "layers": [0, 2],
        "output": output,
        "context_length": 16,
        "shard_rows": 150,
        "batch_tokens": 64,
    }
    return harvest(documents, **(arguments | changes))


def states(folder: Path, layer: int) -> torch.Tensor:
    files = sorted((folder / f"layer-{layer}").glob("*.safetensors"))
    return torch.cat([load_file(file)["hidden"] for file in files])


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def loud_model(scale: float) -> LanguageModel:
    """A tiny Llama in which the states of the byte "!" are `scale` times as large."""
    model = tiny_model("llama")
    loud = model.tokenizer.convert_tokens_to_ids("!")
    with torch.no_grad():
        model.model.get_input_embeddings().weight[loud] *= scale
    return model


class StopHereError(Exception):
    pass


class TestContent:
    def test_every_layer_and_the_row_table_have_the_counted_rows(self, tmp_path: Path) -> None:
        summary = tiny_harvest(tmp_path / "hidden")
        assert summary.n_shards > 2
        assert states(summary.folder, 0).shape == (summary.n_rows, N_DIMS)
        assert states(summary.folder, 2).shape == (summary.n_rows, N_DIMS)
        assert len(read_rows(summary.folder)) == summary.n_rows

    def test_rows_are_the_states_of_their_tokens(self, tmp_path: Path) -> None:
        summary = tiny_harvest(tmp_path / "hidden", dtype="float32")
        rows, hidden = read_rows(summary.folder), states(summary.folder, 2)
        ids = llama().tokenizer(DOCUMENTS[11])["input_ids"][16:32]
        token_ids = torch.tensor([ids])
        expected = block_outputs(
            llama().model, layers=[2], token_ids=token_ids, mask=torch.ones_like(token_ids)
        )[2][0]
        in_document = np.flatnonzero(rows.document == 11)
        second_window = in_document[15:30]
        assert rows.token_id[second_window].tolist() == ids[1:]
        assert rows.position[second_window].tolist() == list(range(1, 16))
        assert torch.allclose(hidden[second_window], expected[1:], atol=1e-5)

    def test_rows_are_in_the_order_of_the_documents(self, tmp_path: Path) -> None:
        summary = tiny_harvest(tmp_path / "hidden")
        rows = read_rows(summary.folder)
        places = list(zip(rows.document, rows.start, strict=True))
        assert places == sorted(places)

    def test_rows_and_drops_add_up_to_all_tokens(self, tmp_path: Path) -> None:
        model = tiny_model("bert", specials=True)
        summary = tiny_harvest(tmp_path / "hidden", model=model, drop_first=3, max_rows=301)
        counts = summary.counts
        assert counts.n_rows == 301
        assert counts.n_tokens == counts.n_rows + sum(counts.dropped.values())
        assert min(counts.dropped[name] for name in ("special", "first", "past_max_rows")) > 0

    def test_drops_are_what_the_tokenizer_says(self, tmp_path: Path) -> None:
        counts = tiny_harvest(tmp_path / "hidden").counts
        n_tokens = [len(llama().tokenizer(text)["input_ids"]) for text in DOCUMENTS]
        assert counts.n_documents == len(DOCUMENTS)
        assert counts.n_empty_documents == 1
        assert counts.n_tokens == sum(n_tokens)
        assert counts.dropped["first"] == sum(-(-n // 16) for n in n_tokens)
        assert counts.n_rows == counts.n_tokens - counts.dropped["first"]

    def test_the_manifest_names_model_settings_and_versions(self, tmp_path: Path) -> None:
        summary = tiny_harvest(tmp_path / "hidden")
        manifest = json.loads((summary.folder / "harvest.json").read_text())
        assert manifest["complete"] is True
        assert manifest["format_version"] == 2
        assert manifest["model"]["name"] == "tiny-llama"
        assert manifest["settings"]["layers"] == [0, 2]
        assert manifest["versions"]["torch"] == importlib.metadata.version("torch")
        assert sum(shard["n_rows"] for shard in manifest["shards"]) == summary.n_rows

    def test_a_folder_read_back_gives_the_same_summary(self, tmp_path: Path) -> None:
        summary = tiny_harvest(tmp_path / "hidden")
        assert read_harvest(summary.folder) == dataclasses.replace(summary, seconds=0.0)

    def test_the_median_is_that_of_the_first_shard(self, tmp_path: Path) -> None:
        summary = tiny_harvest(tmp_path / "hidden", dtype="float32", massive_policy="keep")
        first = load_file(summary.layer_folder(2) / "00000.safetensors")["hidden"]
        expected = np.median(np.linalg.norm(first.numpy(), axis=1))
        assert summary.median_norms[2] == pytest.approx(expected, rel=1e-5)

    def test_npy_and_safetensors_hold_the_same_values(self, tmp_path: Path) -> None:
        tensors = tiny_harvest(tmp_path / "a")
        arrays = tiny_harvest(tmp_path / "b", file_format="npy")
        files = sorted(arrays.layer_folder(2).glob("*.npy"))
        joined = np.concatenate([np.load(file) for file in files])
        assert joined.dtype == np.float16
        np.testing.assert_array_equal(joined, states(tensors.folder, 2).numpy())

    @pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
    def test_shards_have_the_dtype_asked_for(self, tmp_path: Path, dtype: str) -> None:
        summary = tiny_harvest(tmp_path / "hidden", dtype=dtype)
        assert states(summary.folder, 0).dtype == getattr(torch, dtype)

    def test_files_are_as_readable_as_any_new_file(self, tmp_path: Path) -> None:
        (tmp_path / "plain").touch()
        summary = tiny_harvest(tmp_path / "hidden")
        shard = summary.layer_folder(0) / "00000.safetensors"
        assert shard.stat().st_mode == (tmp_path / "plain").stat().st_mode

    def test_bitcodec_reads_a_layer_folder(self, tmp_path: Path) -> None:
        batches = pytest.importorskip("bitcodec.batches")
        summary = tiny_harvest(tmp_path / "hidden")
        source = batches.HiddenBatches(summary.layer_folder(2))
        joined = torch.cat(list(source.batches(100)))
        assert torch.equal(joined, states(summary.folder, 2).float())

    @pytest.mark.parametrize("max_rows", [1, 149, 150, 151, 400])
    def test_max_rows_is_exact_and_cuts_nothing_else(self, tmp_path: Path, max_rows: int) -> None:
        whole = tiny_harvest(tmp_path / "whole", dtype="float32")
        cut = tiny_harvest(tmp_path / "cut", dtype="float32", max_rows=max_rows)
        assert cut.n_rows == max_rows
        assert torch.allclose(states(cut.folder, 2), states(whole.folder, 2)[:max_rows], atol=1e-5)

    def test_documents_are_read_no_further_than_needed(self, tmp_path: Path) -> None:
        n_read = itertools.count()
        endless = (f"text number {next(n_read)}" for _ in itertools.repeat(None))
        summary = tiny_harvest(tmp_path / "hidden", endless, max_rows=200)
        assert summary.n_rows == 200
        assert next(n_read) < 40

    def test_the_callback_hears_of_every_batch(self, tmp_path: Path) -> None:
        heard: list[HarvestProgress] = []
        summary = tiny_harvest(tmp_path / "hidden", progress=heard.append)
        rows = [record.n_rows for record in heard]
        assert rows == sorted(rows)
        assert len(rows) > summary.n_shards
        assert (rows[-1], heard[-1].n_tokens) == (summary.n_rows, summary.counts.n_tokens)


class TestMassiveRows:
    TEXTS = ("no loud byte in here", "but here! are two!", "and here none again")

    def test_they_are_dropped_from_all_layers_and_counted(self, tmp_path: Path) -> None:
        model = loud_model(1000.0)
        summary = tiny_harvest(tmp_path / "hidden", self.TEXTS, model=model)
        rows = read_rows(summary.folder)
        assert summary.counts.dropped["massive"] == 2
        assert summary.counts.massive_by_layer == {0: 2, 2: 2}
        assert "!" not in {rows.context(k).token for k in range(len(rows))}
        assert len(states(summary.folder, 0)) == len(states(summary.folder, 2)) == len(rows)

    def test_they_are_kept_and_counted_on_request(self, tmp_path: Path) -> None:
        summary = tiny_harvest(
            tmp_path / "hidden",
            self.TEXTS,
            model=loud_model(1000.0),
            massive_policy="keep",
            dtype="float32",
        )
        assert summary.counts.dropped["massive"] == 0
        assert summary.counts.massive_by_layer == {0: 2, 2: 2}

    def test_they_are_refused_on_request(self, tmp_path: Path) -> None:
        with pytest.raises(ValueRangeError, match=r"layer 0: 2 of .* rows have norms above 10"):
            tiny_harvest(
                tmp_path / "hidden",
                self.TEXTS,
                model=loud_model(1000.0),
                massive_policy="refuse",
            )
        assert not (tmp_path / "hidden").exists()

    def test_a_row_massive_in_one_layer_is_dropped_in_all(self) -> None:
        column = np.arange(4)
        norms = {1: np.array([1.0, 50.0, 1.0, 1.0]), 5: np.array([2.0, 2.0, 2.0, 99.0])}
        kept, n_massive = select_rows(
            norms,
            {1: 1.0, 5: 2.0},
            RowTable(column, column, column, column, column),
            massive=10.0,
            policy="drop",
        )
        assert kept.tolist() == [0, 2]
        assert n_massive == {1: 1, 5: 1}

    def test_float16_overflow_is_refused_and_nothing_written(self, tmp_path: Path) -> None:
        advice = r"layer 0, row 25 .*does not fit float16.*use dtype='bfloat16' or 'float32', or m"
        with pytest.raises(ValueRangeError, match=advice):
            tiny_harvest(
                tmp_path / "hidden", self.TEXTS, model=loud_model(1e8), massive_policy="keep"
            )
        assert not (tmp_path / "hidden").exists()

    def test_rows_that_overflow_are_no_obstacle_when_dropped(self, tmp_path: Path) -> None:
        summary = tiny_harvest(tmp_path / "hidden", self.TEXTS, model=loud_model(1e8))
        assert summary.counts.dropped["massive"] == 2
        assert torch.isfinite(states(summary.folder, 0)).all()

    def test_nan_from_the_model_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ValueRangeError, match="the model itself gave NaN or infinity"):
            tiny_harvest(
                tmp_path / "hidden", self.TEXTS, model=loud_model(float("nan")), dtype="float32"
            )


class TestResuming:
    @pytest.mark.parametrize(
        ("max_rows", "stop_at"),
        [(None, 1), (None, 4), (None, 7), (None, 12), (300, 1), (300, 4), (300, 6), (300, 8)],
    )
    def test_a_resumed_harvest_is_byte_identical(
        self, tmp_path: Path, max_rows: int | None, stop_at: int
    ) -> None:
        tiny_harvest(tmp_path / "whole", max_rows=max_rows)
        calls = itertools.count(1)

        def interrupt(_: HarvestProgress) -> None:
            if next(calls) == stop_at:
                raise StopHereError

        output = tmp_path / "resumed"
        with pytest.raises(StopHereError):
            tiny_harvest(output, iter(DOCUMENTS), max_rows=max_rows, progress=interrupt)
        tiny_harvest(output, iter(DOCUMENTS), max_rows=max_rows)
        assert contents(output) == contents(tmp_path / "whole")

    def test_leavings_of_a_killed_process_do_not_matter(self, tmp_path: Path) -> None:
        tiny_harvest(tmp_path / "whole")
        output = interrupted(tmp_path / "resumed")
        with (output / "documents.jsonl").open("a") as file:
            file.write('{"id": "half a li')
        (output / "layer-0" / "00001.safetensors").write_bytes(b"half a shard")
        (output / "rows" / ".00001.safetensors.1.partial").write_bytes(b"half a table")
        tiny_harvest(output)
        assert contents(output) == contents(tmp_path / "whole")

    def test_finished_shards_do_not_run_the_model_again(self, tmp_path: Path) -> None:
        whole = tiny_harvest(tmp_path / "whole")
        output = interrupted(tmp_path / "resumed")
        done = read_harvest(output).counts.n_tokens
        heard: list[HarvestProgress] = []
        tiny_harvest(output, progress=heard.append)
        assert 0 < done < heard[0].n_tokens <= done + 64
        assert heard[-1].n_tokens == whole.counts.n_tokens

    def test_an_unfinished_harvest_can_be_read(self, tmp_path: Path) -> None:
        output = interrupted(tmp_path / "hidden")
        summary = read_harvest(output)
        assert not summary.complete
        assert len(read_rows(output)) == summary.n_rows > 0
        assert read_rows(output).context(0, width=3).before == "D"

    @pytest.mark.parametrize(
        "changes", [{"layers": [0, 1]}, {"context_length": 17}, {"max_rows": 9}, {"massive": 3.0}]
    )
    def test_other_settings_are_refused(self, tmp_path: Path, changes: dict[str, Any]) -> None:
        output = interrupted(tmp_path / "hidden")
        name = next(iter(changes))
        with pytest.raises(MismatchError, match=f"unfinished harvest with another {name}"):
            tiny_harvest(output, **changes)

    def test_another_model_is_refused(self, tmp_path: Path) -> None:
        output = interrupted(tmp_path / "hidden")
        with pytest.raises(MismatchError, match="with another model"):
            tiny_harvest(output, model=tiny_model("gpt2"))

    def test_other_documents_are_refused(self, tmp_path: Path) -> None:
        output = interrupted(tmp_path / "hidden")
        with pytest.raises(MismatchError, match="unfinished harvest of other documents"):
            tiny_harvest(output, ["Another" + DOCUMENTS[0], *DOCUMENTS[1:]])

    def test_a_missing_shard_is_noticed(self, tmp_path: Path) -> None:
        output = interrupted(tmp_path / "hidden")
        (output / "layer-2" / "00000.safetensors").unlink()
        with pytest.raises(FormatError, match="is missing from the harvest"):
            tiny_harvest(output)


class TestExistingOutput:
    def test_the_same_call_returns_at_once(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first = tiny_harvest(tmp_path / "hidden")
        before = contents(first.folder)
        monkeypatch.setattr("bitcodec_transformers.harvesting.candidate_states", None)
        second = tiny_harvest(tmp_path / "hidden")
        assert dataclasses.replace(second, seconds=0.0) == dataclasses.replace(first, seconds=0.0)
        assert contents(first.folder) == before

    def test_a_complete_harvest_with_other_settings_is_not_touched(self, tmp_path: Path) -> None:
        output = tiny_harvest(tmp_path / "hidden").folder
        before = contents(output)
        with pytest.raises(FileError, match="exists and holds a harvest with another drop_first"):
            tiny_harvest(output, drop_first=2)
        assert contents(output) == before

    @pytest.mark.parametrize("documents", [DOCUMENTS[1:], [*DOCUMENTS, "one more"]])
    def test_a_complete_harvest_of_other_documents_is_refused(
        self, tmp_path: Path, documents: list[str]
    ) -> None:
        output = tiny_harvest(tmp_path / "hidden").folder
        with pytest.raises(FileError, match="exists and holds a harvest of other documents"):
            tiny_harvest(output, documents)

    def test_documents_after_max_rows_do_not_matter(self, tmp_path: Path) -> None:
        first = tiny_harvest(tmp_path / "hidden", max_rows=50)
        second = tiny_harvest(tmp_path / "hidden", [*DOCUMENTS, "one more"], max_rows=50)
        assert second.counts == first.counts

    def test_a_folder_that_is_no_harvest_is_not_touched(self, tmp_path: Path) -> None:
        (tmp_path / "notes.txt").write_text("keep me")
        with pytest.raises(FileError, match="exists and is no harvest"):
            tiny_harvest(tmp_path)
        assert contents(tmp_path) == {"notes.txt": b"keep me"}

    def test_an_empty_folder_is_used(self, tmp_path: Path) -> None:
        assert tiny_harvest(tmp_path).complete

    def test_a_missing_parent_is_an_error(self, tmp_path: Path) -> None:
        with pytest.raises(FileError, match="does not exist: create it first"):
            tiny_harvest(tmp_path / "no" / "hidden")

    def test_a_full_disk_is_one_line_and_can_be_resumed(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(*_: object, **_metadata: object) -> None:
            raise SafetensorError("No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr("bitcodec_transformers.shards.save_file", full)
            with pytest.raises(FileError, match=r"cannot write .*No space left on device"):
                tiny_harvest(tmp_path / "hidden")
        assert not list((tmp_path / "hidden" / "layer-0").iterdir())
        assert tiny_harvest(tmp_path / "hidden").complete


class TestRefusals:
    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"layers": []}, "layers must be one or more different block numbers"),
            ({"layers": [1, 1]}, "layers must be one or more different block numbers"),
            ({"layers": [4]}, r"layers must be between 0 and 3 .*got 4"),
            ({"context_length": 0}, "context_length must be at least 1, got 0"),
            ({"context_length": 65}, "context_length must be at most 64"),
            ({"drop_first": 16}, r"drop_first must be between 0 and .* 15, got 16"),
            ({"massive": 0.5}, "massive must be at least 1"),
            ({"massive": float("nan")}, "massive must be at least 1"),
            ({"massive_policy": "hide"}, "massive_policy must be one of drop, refuse, keep"),
            ({"dtype": "int8"}, "dtype must be one of float16, bfloat16, float32, got 'int8'"),
            ({"file_format": "pt"}, "file_format must be one of safetensors, npy"),
            ({"file_format": "npy", "dtype": "bfloat16"}, "numpy has no bfloat16: use"),
            ({"max_rows": 0}, "max_rows must be at least 1, got 0"),
        ],
    )
    def test_settings_out_of_range_are_named(
        self, tmp_path: Path, changes: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(ConfigError, match=message):
            tiny_harvest(tmp_path / "hidden", **changes)
        assert not (tmp_path / "hidden").exists()

    @pytest.mark.parametrize("documents", [[], ["", ""], ["x", "y"]])
    def test_documents_without_rows_are_an_error(
        self, tmp_path: Path, documents: list[str]
    ) -> None:
        with pytest.raises(ValueRangeError, match="must hold tokens to keep, got none"):
            tiny_harvest(tmp_path / "hidden", documents)
        assert not (tmp_path / "hidden").exists()

    def test_one_string_is_no_list_of_documents(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="got one str: put it in a list"):
            tiny_harvest(tmp_path / "hidden", "a text")

    @pytest.mark.parametrize("document", [7, ("a", "b", "c"), {"id": "x"}, ("id", 3)])
    def test_a_document_of_another_form_is_named(self, tmp_path: Path, document: object) -> None:
        with pytest.raises(ConfigError, match="document 1 must be a str"):
            tiny_harvest(tmp_path / "hidden", ["fine", document])

    def test_half_a_character_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ValueRangeError, match="'odd' holds half a character"):
            tiny_harvest(tmp_path / "hidden", [("odd", "a\ud800b")])


class TestTracing:
    def test_a_row_gives_its_token_and_the_text_around_it(self, tmp_path: Path) -> None:
        documents = [("first", "abc def"), {"id": "second", "text": "ghi jkl"}, "mno"]
        rows = read_rows(tiny_harvest(tmp_path / "hidden", documents).folder)
        assert rows.context(7, width=3) == ("gh", "i", " jk")
        assert rows.context(0) == ("a", "b", "c def")
        assert [rows.document_id(k) for k in (0, 7, 12)] == ["first", "second", "2"]
        assert rows.position[7] == 2

    def test_every_row_of_every_shard_gives_its_token(self, tmp_path: Path) -> None:
        summary = tiny_harvest(tmp_path / "hidden")
        rows = read_rows(summary.folder)
        for row in range(len(rows)):
            token = rows.context(row).token
            if token.isascii():
                assert llama().tokenizer.decode([rows.token_id[row]]) == token
            assert token == DOCUMENTS[rows.document[row]][rows.start[row] : rows.end[row]]

    @pytest.mark.parametrize("row", [-1, 10**6])
    def test_a_row_beyond_the_end_is_an_error(self, tmp_path: Path, row: int) -> None:
        rows = read_rows(tiny_harvest(tmp_path / "hidden").folder)
        with pytest.raises(ValueRangeError, match=f"row must be between 0 and .*got {row}"):
            rows.context(row)

    @pytest.mark.parametrize("damage", ["truncated", "foreign", "missing", "short"])
    def test_a_damaged_row_table_is_an_error(self, tmp_path: Path, damage: str) -> None:
        folder = tiny_harvest(tmp_path / "hidden").folder
        file = folder / "rows" / "00000.safetensors"
        if damage == "truncated":
            file.write_bytes(file.read_bytes()[:-9])
        elif damage == "foreign":
            save_file({"weights": torch.zeros(3)}, file)
        elif damage == "missing":
            file.unlink()
        else:
            save_file({name: t[:-1].clone() for name, t in load_file(file).items()}, file)
        with pytest.raises(FormatError, match=r"rows/00000.safetensors .*harvest again"):
            read_rows(folder).context(0)

    def test_truncated_documents_are_an_error(self, tmp_path: Path) -> None:
        folder = tiny_harvest(tmp_path / "hidden").folder
        file = folder / "documents.jsonl"
        file.write_bytes(file.read_bytes()[:-40])
        with pytest.raises(FormatError, match="truncated or changed"):
            read_rows(folder).context(0)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"format_version": 3}, "format_version 3, this bitcodec reads 2: upgrade"),
            ({"format": "other"}, "not the manifest of a harvest"),
            ({"counts": 3}, "is damaged"),
            ({"settings": {"layers": [0], "colour": 1}}, "is damaged .*unknown setting 'colour'"),
        ],
    )
    def test_a_foreign_manifest_is_an_error(
        self, tmp_path: Path, change: dict[str, Any], message: str
    ) -> None:
        folder = tiny_harvest(tmp_path / "hidden").folder
        edit_json(folder / "harvest.json", **change)
        with pytest.raises(FormatError, match=message):
            read_rows(folder)

    def test_a_folder_without_a_manifest_is_an_error(self, tmp_path: Path) -> None:
        with pytest.raises(FileError, match=r"there is no file .*harvest.json"):
            read_rows(tmp_path)


class TestNewSentences:
    def test_states_are_those_that_a_harvest_writes(self, tmp_path: Path) -> None:
        summary = tiny_harvest(tmp_path / "hidden", dtype="float32", batch_tokens=2048)
        found = hidden_of(
            DOCUMENTS,
            model=llama(),
            layer=2,
            context_length=16,
            median_norm=summary.median_norms[2],
        )
        rows = read_rows(summary.folder)
        assert found.hidden.dtype == np.float32
        np.testing.assert_allclose(found.hidden, states(summary.folder, 2), atol=1e-5)
        np.testing.assert_array_equal(found.rows.start, rows.start)
        assert found.rows.context(40) == rows.context(40)

    def test_massive_rows_follow_the_policy(self) -> None:
        model = loud_model(1000.0)
        where: dict[str, Any] = {"model": model, "layer": 2, "context_length": 32}
        dropped = hidden_of(["here! and there"], **where)
        kept = hidden_of(["here! and there"], **where, massive_policy="keep")
        assert (len(dropped.hidden), len(kept.hidden)) == (13, 14)

    def test_texts_without_rows_are_an_error(self) -> None:
        with pytest.raises(ValueRangeError, match="must hold tokens to keep, got none in 1"):
            hidden_of(["x"], model=llama(), layer=2, context_length=32)

    def test_a_layer_beyond_the_model_is_an_error(self) -> None:
        with pytest.raises(ConfigError, match="layers must be between 0 and 3"):
            hidden_of(["some text"], model=llama(), layer=4)


class TestDocuments:
    def test_a_folder_gives_its_files_in_name_order(self, tmp_path: Path) -> None:
        (tmp_path / "b.txt").write_text("whole\n\nfile")
        (tmp_path / "sub").mkdir()
        lines = ['{"id": 5, "text": "x"}', "", '{"_id": "q", "text": "y"}', '{"text": "z"}']
        (tmp_path / "sub" / "a.jsonl").write_text("\n".join(lines))
        (tmp_path / "ignored.bin").write_bytes(b"\xff")
        assert list(read_documents(tmp_path)) == [
            ("b.txt", "whole\n\nfile"),
            ("5", "x"),
            ("q", "y"),
            ("sub/a.jsonl:4", "z"),
        ]

    @pytest.mark.parametrize(
        ("name", "content", "error", "message"),
        [
            ("a.jsonl", b'{"text": "x"}\n{"text"\n', FormatError, "a.jsonl:2 is not JSON"),
            ("a.jsonl", b'{"txt": "x"}\n', FormatError, "a.jsonl:1 must be a JSON object with"),
            ("a.txt", b"\xff\xfe", FormatError, "a.txt is not UTF-8 text .byte 0"),
            ("a.jsonl", b'"\xff"', FormatError, "a.jsonl is not UTF-8 text"),
            ("a.pdf", b"%PDF", FormatError, "must be a .txt or .jsonl file"),
        ],
    )
    def test_unreadable_files_are_named(
        self,
        tmp_path: Path,
        name: str,
        content: bytes,
        error: type[BitcodecError],
        message: str,
    ) -> None:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(error, match=message):
            list(read_documents(tmp_path / name))

    def test_missing_and_empty_folders_are_errors_at_once(self, tmp_path: Path) -> None:
        with pytest.raises(FileError, match="there is no file or folder"):
            read_documents(tmp_path / "nothing")
        with pytest.raises(FileError, match=r"holds no .txt or .jsonl file"):
            read_documents(tmp_path)

    def test_pydoc_has_hundreds_of_thousands_of_characters(self) -> None:
        documents = pydoc_topics()
        assert sum(len(document.text) for document in documents) > 300_000
        assert [document.id for document in documents] == sorted(d.id for d in documents)


class TestSmollm:
    def test_layer_15_is_what_transformers_reports(
        self, tmp_path: Path, language_model: LanguageModel
    ) -> None:
        text = pydoc_topics()[0].text
        summary = harvest(
            [text], model=language_model, layers=[15], output=tmp_path / "hidden", max_rows=60
        )
        token_ids = torch.tensor([language_model.tokenizer(text)["input_ids"][:256]])
        with torch.inference_mode():
            reported = language_model.model(token_ids, output_hidden_states=True).hidden_states
        # bfloat16 sums differ with the length of the sequence.
        expected = reported[16][0, 1:61].float()
        error = (states(summary.folder, 15).float() - expected).norm() / expected.norm()
        assert error < 0.01

    def test_the_first_token_is_massive_and_no_other_here(
        self, language_model: LanguageModel
    ) -> None:
        texts = ["The quick brown fox jumps over the lazy dog."]
        kept = hidden_of(texts, model=language_model, layer=15, drop_first=0, massive_policy="keep")
        norms = np.linalg.norm(kept.hidden, axis=1)
        assert norms[0] > 10 * np.median(norms) > norms[1:].max()

    def test_rows_trace_back_to_words(self, language_model: LanguageModel) -> None:
        found = hidden_of(["An umbrella keeps the rain off."], model=language_model, layer=5)
        tokens = [found.rows.context(k).token for k in range(len(found.rows))]
        assert "".join(tokens) == " umbrella keeps the rain off."
        assert found.hidden.shape == (len(tokens), 576)


def test_importing_the_package_loads_no_heavy_library() -> None:
    code = (
        "import sys, bitcodec_transformers\n"
        "print([m for m in ('torch', 'transformers') if m in sys.modules])"
    )
    paths = [str(Path(bitcodec_transformers.__file__).parents[1])]
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": ":".join(paths)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout == "[]\n"


def test_every_public_name_exists_and_an_unknown_one_is_an_error() -> None:
    for name in bitcodec_transformers.__all__:
        assert getattr(bitcodec_transformers, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'harvester'"):
        _ = bitcodec_transformers.harvester


def test_counts_of_two_units_add_up() -> None:
    first = Counts(n_tokens=3, n_rows=1, massive_by_layer={4: 1})
    second = Counts(n_tokens=5, n_rows=2, massive_by_layer={4: 2, 7: 1})
    total = first + second
    assert (total.n_tokens, total.n_rows) == (8, 3)
    assert total.massive_by_layer == {4: 3, 7: 1}


def interrupted(output: Path) -> Path:
    """Leave a harvest with one finished shard."""

    def stop(record: HarvestProgress) -> None:
        if (output / "harvest.json").exists():
            raise StopHereError

    def documents() -> Iterator[str]:
        yield from DOCUMENTS

    with pytest.raises(StopHereError):
        tiny_harvest(output, documents(), progress=stop)
    return output
