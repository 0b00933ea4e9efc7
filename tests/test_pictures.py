"""Pictures of a report on real hidden states."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from bitcodec import BitCodec, Report, TokenTexts
from bitcodec.errors import ConfigError, FileError, MissingExtraError
from bitcodec.pictures import draw, save_pictures

NAMES = ["activity", "burstiness", "dimensions", "entropy", "errors", "positions", "prices"]


@pytest.fixture(scope="module")
def report(codec: BitCodec, hidden: np.ndarray) -> Report:
    return codec.report(hidden[:500], text=TokenTexts(["x"] * 500))


def test_every_picture_has_a_title_and_labelled_axes(report: Report) -> None:
    figures = draw(report)
    assert set(NAMES) <= set(figures)
    for name in NAMES:
        (axes,) = figures[name].axes
        assert axes.get_title()
        assert axes.get_xlabel()
        assert axes.get_ylabel()


def test_the_entropy_curve_is_the_features_entropies(report: Report) -> None:
    (line,) = draw(report)["entropy"].axes[0].lines
    expected = sorted((f.entropy_bits for f in report.features), reverse=True)
    np.testing.assert_array_equal(np.asarray(line.get_ydata()), expected)


def test_positions_are_bars_of_doubling_width(report: Report) -> None:
    axes = draw(report)["positions"].axes[0]
    names = [label.get_text() for label in axes.get_xticklabels()]
    assert names[:4] == ["0", "1", "2-3", "4-7"]
    heights = [bar.get_height() for bar in axes.containers[0]]
    assert heights == [group.sum_bits for group in report.positions]


def test_a_report_without_texts_says_so_in_the_picture(codec: BitCodec, hidden: np.ndarray) -> None:
    title = draw(codec.report(hidden[:50]))["positions"].axes[0].get_title()
    assert title == "Entropy by position: no texts were given"


@pytest.mark.parametrize(("format", "magic"), [("png", b"\x89PNG"), ("svg", b"<?xml")])
def test_pictures_are_written_and_are_the_same_every_time(
    format: str, magic: bytes, report: Report, tmp_path: Path
) -> None:
    folders = [tmp_path / name for name in ("one", "two")]
    written = [save_pictures(report, folder, format=format) for folder in folders]  # type: ignore[arg-type]
    assert {path.name for path in written[0]} == {f"{name}.{format}" for name in draw(report)}
    for one, two in zip(*written, strict=True):
        assert one.read_bytes().startswith(magic)
        assert one.read_bytes() == two.read_bytes()


def test_pictures_are_not_overwritten_unasked(report: Report, tmp_path: Path) -> None:
    save_pictures(report, tmp_path)
    with pytest.raises(FileError, match=r"\w+.png exists: choose another name"):
        save_pictures(report, tmp_path)
    save_pictures(report, tmp_path, overwrite=True)


def test_an_unknown_format_is_refused(report: Report, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="format must be one of png, svg, got 'gif'"):
        save_pictures(report, tmp_path, format="gif")  # type: ignore[arg-type]


def test_without_matplotlib_the_extra_is_named(
    report: Report, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'bitcodec\[report\]'"):
        draw(report)


def test_pictures_touch_no_global_state_of_pyplot(report: Report) -> None:
    from matplotlib import _pylab_helpers

    draw(report)
    assert not _pylab_helpers.Gcf.figs
