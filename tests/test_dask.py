"""The lines for Dask in docs/scale.md, as they stand there."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from bitcodec import BitCodec
from bitcodec_zarr import open_archive

PAGE = Path(__file__).parent.parent / "docs" / "scale.md"


@pytest.mark.parametrize("scheduler", ["threads", "processes"])
def test_the_documented_lines_give_the_codes_of_one_process(
    hidden: np.ndarray,
    codec: BitCodec,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    scheduler: str,
) -> None:
    dask = pytest.importorskip("dask")
    section = PAGE.read_text(encoding="utf-8").split("## Dask")[1].split("\n## ")[0]
    blocks = re.findall(r"```python\n(.*?)```", section, flags=re.DOTALL)
    monkeypatch.chdir(tmp_path)
    np.save("hidden.npy", hidden[:2000])
    codec.save("codec")
    names: dict[str, object] = {}
    with dask.config.set(scheduler=scheduler, num_workers=2):
        for block in blocks:
            small = block.replace("16_384", "512")
            exec(compile(small, "docs/scale.md", "exec"), names)
    packed = codec.encode(hidden[:2000])
    np.testing.assert_array_equal(open_archive("codes.zarr")[:], packed)
    np.testing.assert_allclose(np.asarray(names["approx"]), codec.decode(packed), rtol=1e-5)
    assert len(blocks) == 2
