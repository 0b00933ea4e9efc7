"""splice: what a language model loses when a codec's states take the place of its own."""

from __future__ import annotations

import dataclasses
import itertools
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bitcodec_cli.harvesting import BUILT_IN_TEXT, read_text
from bitcodec_cli.options import codec_argument, device_option, json_option
from bitcodec_cli.provenance import QueryOrigin, query_origin
from bitcodec_cli.terminal import note, output_console, print_json, progress_bar

if TYPE_CHECKING:
    import numpy as np
    from rich.table import Table

    from bitcodec import BitCodec
    from bitcodec_transformers import LanguageModel, SpliceOutcome, SpliceReport

CODEC = "codec"
"""What the codec's run is called."""
COLUMNS = (
    "",
    "cross-entropy",
    "rise",
    "recovered",
    "KL",
    "top-1",
    "bytes per vector, packed",
    "entropy-coded",
)


@click.command()
@codec_argument
@click.argument("texts", metavar="[TEXT]...", nargs=-1)
@click.option("--layer", type=int, help="Block, from 0; by default the one of the fit.")
@click.option("--model", "name", help="Name or path; by default the model of the fit.")
@click.option("--refine", type=click.Choice(["none", "fast", "best"]), help="Search of the codes.")
@click.option(
    "--max-tokens", type=int, default=20_000, show_default=True, help="Stop after so many."
)
@click.option("--context-length", type=int, help="Tokens a window; by default those of the fit.")
@click.option("--model-dtype", help="Of the computation; by default that of the fit, or bfloat16.")
@device_option
@json_option
def splice(
    codec: Path,
    texts: tuple[str, ...],
    layer: int | None,
    name: str | None,
    refine: str | None,
    max_tokens: int,
    context_length: int | None,
    model_dtype: Any,
    device: str,
    as_json: bool,
) -> None:
    """Put a codec's states back into the running model and measure its next-token loss.

    TEXT is a .txt or .jsonl file, a folder of such, - for stdin, or "pydoc" (the default) for the
    help texts that come with Python; best text that the codec was not fitted on. Cross-entropies
    are in nats per token, their rise with its standard error; "recovered" is 1 for the original
    states and 0 for zeros.

    \b
    Example: bitcodec splice codec held-out.txt --max-tokens 5000
    """
    from bitcodec import BitCodec

    loaded = BitCodec.load(codec, device=device)
    origin = known_origin(loaded)
    layer = chosen_layer(layer, origin)
    documents = [read_text(text) for text in texts or (BUILT_IN_TEXT,)]
    model = load_model_of(origin, name=name, dtype=model_dtype, device=device)
    report, rate = splice_with_bar(
        itertools.chain.from_iterable(documents),
        codec=loaded,
        model=model,
        layer=layer,
        refine=refine,
        max_tokens=max_tokens,
        **rows_of(origin, model=model, layer=layer, context_length=context_length),
    )
    told = {"codec": str(codec), "fingerprint": loaded.fingerprint_, "model": model.name}
    if as_json:
        print_json(told | dataclasses.asdict(report) | rate)
    else:
        output_console().print(splice_table(report, rate, n_dims=loaded.n_dims_))
        note(
            f"{model.name}, layer {layer}: {report.n_tokens:,} tokens in {report.n_windows:,} "
            f"windows; {report.n_replaced:,} rows replaced, {report.n_massive:,} massive ones left"
        )


def splice_with_bar(
    documents: Any,
    *,
    codec: BitCodec,
    refine: str | None,
    max_tokens: int,
    **arguments: Any,
) -> tuple[SpliceReport, dict[str, float]]:
    """Splice with a progress bar on stderr.

    Returns:
        The report, and the bytes per vector of the rows that were replaced.
    """
    from bitcodec_transformers import TokenProgress, splice, through

    meter = MeteredCodec(codec)
    with progress_bar("splice", total=max_tokens, unit="tokens") as advance:

        def show(record: TokenProgress) -> None:
            advance(record.n_tokens)

        report = splice(
            documents,
            replace={CODEC: through(meter, refine=refine)},
            max_tokens=max_tokens,
            progress=show,
            **arguments,
        )
    return report, meter.rate


class MeteredCodec:
    """A codec that counts the bits of what it encodes."""

    def __init__(self, codec: BitCodec) -> None:
        from bitcodec.statistics import BitStatistics

        self._codec = codec
        self._statistics = BitStatistics.empty(codec.n_bits_)
        self.n_dims_ = codec.n_dims_

    def encode(self, hidden: Any, **options: Any) -> np.ndarray:
        """Encode as the codec does, and count."""
        packed = self._codec.encode(hidden, **options)
        self._statistics.update(packed[:, : packed.shape[1] - self._codec.side_bytes_])
        return packed

    def decode(self, packed: np.ndarray) -> np.ndarray:
        """Decode as the codec does."""
        return self._codec.decode(packed)

    @property
    def rate(self) -> dict[str, float]:
        """The bytes per vector, packed and as an entropy coder with the fit's counts needs."""
        coded = self._statistics.code_bits(self._codec.statistics_) / 8 + self._codec.side_bytes_
        return {
            "bytes_per_vector": float(self._codec.row_bytes_),
            "coded_bytes_per_vector": coded,
        }


def known_origin(codec: BitCodec) -> QueryOrigin | None:
    """Return the model and layer that a codec was fitted on, None where it does not know."""
    try:
        return query_origin(codec.provenance_)
    except click.UsageError:
        return None


def chosen_layer(layer: int | None, origin: QueryOrigin | None) -> int:
    """Return the layer to splice at, with a warning where the codec is of another.

    Raises:
        click.UsageError: neither the person nor the codec tells.
    """
    if origin is None:
        if layer is None:
            raise click.UsageError("the codec does not know its layer: give --layer")
        return layer
    if layer is not None and layer != origin.layer:
        note(f"warning: the codec was fitted on layer {origin.layer}, not on layer {layer}")
        return layer
    return origin.layer


def load_model_of(
    origin: QueryOrigin | None, *, name: str | None, dtype: Any, device: str
) -> LanguageModel:
    """Load the model that is chosen, by default the one a codec was fitted on.

    Raises:
        MismatchError: nobody chose another model, but the one of that name is another now.
    """
    from bitcodec.errors import MismatchError
    from bitcodec_transformers import DEFAULT_MODEL, load_model

    known: dict[str, Any]
    known = {"name": DEFAULT_MODEL, "dtype": "bfloat16"} if origin is None else origin.model
    note(f"loading {name or known['name']}")
    model = load_model(name or known["name"], dtype=dtype or known["dtype"], device=device)
    if origin is not None and not is_model_of(origin, model):
        if name is None and dtype is None:
            raise MismatchError(
                f"the codec was fitted on another model of the name {known['name']}: choose one "
                "with --model"
            )
        note(f"warning: the codec was fitted on {known['name']} in {known['dtype']}")
    return model


def is_model_of(origin: QueryOrigin, model: LanguageModel) -> bool:
    """Tell whether a model is the one that a codec was fitted on."""
    from bitcodec_transformers.identity import model_identity

    return bool(model_identity(model)["digest"] == origin.model["digest"])


def rows_of(
    origin: QueryOrigin | None, *, model: LanguageModel, layer: int, context_length: int | None
) -> dict[str, Any]:
    """Return the choice of rows, by default a codec's harvest's, as arguments of `splice`."""
    chosen = {} if context_length is None else {"context_length": context_length}
    if origin is None:
        return chosen
    rows = dict(origin.rows)
    if rows.pop("massive_policy") == "keep":
        rows["massive"] = math.inf
    if layer != origin.layer or not is_model_of(origin, model):
        rows["median_norm"] = None
    return rows | chosen


def splice_table(report: SpliceReport, rate: dict[str, float], *, n_dims: int) -> Table:
    """Lay out a report, a run a line."""
    from rich.table import Table

    table = Table()
    for column in COLUMNS:
        table.add_column(column, justify="right" if column else "left")
    original = report.cross_entropy_original
    exact = f"{original:.3f}", "0.000", "1.000", "0.000", "1.000"
    table.add_row("original", *exact, f"{2 * n_dims} (float16)", "")
    table.add_row("zeros", *_figures(report.zeros, original), "0", "0")
    packed, coded = rate["bytes_per_vector"], rate["coded_bytes_per_vector"]
    for name, outcome in report.outcomes.items():
        table.add_row(name, *_figures(outcome, original), f"{packed:.0f}", f"{coded:.1f}")
    return table


def _figures(outcome: SpliceOutcome, original: float) -> tuple[str, ...]:
    error = outcome.cross_entropy_error
    rise = f"{outcome.cross_entropy - original:.3f}"
    return (
        f"{outcome.cross_entropy:.3f}",
        rise if error is None else f"{rise} ± {error:.3f}",
        f"{outcome.recovered:.3f}",
        f"{outcome.kl:.3f}",
        f"{outcome.top1_agreement:.3f}",
    )
