"""The page of `bitcodec report`: what a model adds to a report, and the file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bitcodec_cli.harvesting import read_text
from bitcodec_cli.provenance import QueryOrigin, describe_source, query_origin
from bitcodec_cli.splicing import load_model_of
from bitcodec_cli.terminal import note

if TYPE_CHECKING:
    from bitcodec import BitCodec
    from bitcodec.report import Report
    from bitcodec_html import EncodedText, FeatureNames, TokenEffects
    from bitcodec_transformers import LanguageModel, LogitLens

N_TOKENS = 8
"""Tokens that a feature promotes, and suppresses, on the page."""
TYPED = "Typed text"
"""What a text is called that was typed on the command line."""


@dataclass(frozen=True)
class PreparedPage:
    """A page that waits for its report; what else can fail has been done."""

    output: Path
    """The HTML file."""
    overwrite: bool
    """Whether to replace an existing file."""
    title: str | None
    """Of the page; None names model, layer, features and rows."""
    origin: QueryOrigin | None
    """Model, layer and choice of rows."""
    effects: TokenEffects | None
    """What the features say of the model's next token."""
    texts: list[EncodedText]
    """Texts to show."""
    names: FeatureNames | None
    """What features are called."""

    def write(self, report: Report) -> None:
        """Write the page of a report."""
        from bitcodec_html import write_page

        write_page(
            report,
            self.output,
            title=self.title or default_title(report, self.origin),
            effects=self.effects,
            texts=self.texts,
            names=self.names,
            overwrite=self.overwrite,
        )
        note(f"wrote {self.output}")


def prepare_page(
    codec: BitCodec,
    output: Path,
    *,
    hidden: Path,
    model: str | None,
    texts: tuple[str, ...],
    names: Path | None,
    title: str | None,
    device: str,
    overwrite: bool,
) -> PreparedPage:
    """Do all of a page that does not need the report, which takes long to measure.

    Args:
        codec: the codec.
        output: the HTML file.
        hidden: the hidden states of the report, whose harvest tells model, layer and rows.
        model: name or path of the model; None takes one only for `texts`, that of the harvest.
        texts: texts, or files of texts, to encode.
        names: a file that `bitcodec name` wrote.
        title: of the page.
        device: where the model computes.
        overwrite: replace an existing file.

    Raises:
        click.UsageError: texts are to be encoded, but neither the harvest nor the codec tells the
            layer.
        FileError: `output` cannot be written, or there is no file of names.
        FormatError: the file of names is none.
        MismatchError: the names are of another codec.
        MissingExtraError: a package of the extra "report" is not installed.
    """
    from bitcodec_html import check_page

    check_page(output, overwrite=overwrite)
    called = None if names is None else names_of(names, codec)
    origin = origin_of(hidden, codec)
    effects, encoded = None, []
    if model is not None or texts:
        documents = [document for text in texts for document in documents_of(text)]
        if documents and origin is None:
            raise click.UsageError(
                "--text needs the layer: neither a harvest of HIDDEN nor the codec tells it"
            )
        loaded = load_model_of(origin, name=model, dtype=None, device=device)
        effects = token_effects(loaded, codec)
        encoded = encode_texts(documents, loaded, codec, origin)
    return PreparedPage(output, overwrite, title, origin, effects, encoded, called)


def names_of(path: Path, codec: BitCodec) -> FeatureNames:
    """Read names of a codec's features."""
    from bitcodec_html import FeatureNames
    from bitcodec_naming import Names

    names = FeatureNames.from_dict(Names.load(path).to_dict())
    names.check(fingerprint=codec.fingerprint_, n_features=codec.n_bits_)
    return names


def origin_of(hidden: Path, codec: BitCodec) -> QueryOrigin | None:
    """Return model, layer and choice of rows, as the harvest tells or else the codec."""
    for told in (describe_source(hidden), codec.provenance_):
        try:
            return query_origin(told)
        except click.UsageError:
            continue
    return None


def default_title(report: Report, origin: QueryOrigin | None) -> str | None:
    """Name what was measured; None where the page must do without the model's name."""
    if origin is None:
        return None
    found = report.evaluation
    return (
        f"{origin.model['name']}, layer {origin.layer}: {found.n_bits:,} features on "
        f"{found.n_rows:,} tokens"
    )


def token_effects(model: LanguageModel, codec: BitCodec) -> TokenEffects:
    """Read every feature's direction through the logit lens."""
    from bitcodec_transformers import logit_lens

    note("reading the features through the unembedding")
    return named(logit_lens(model, codec.feature_directions(), k=N_TOKENS), model)


def named(lens: LogitLens, model: LanguageModel) -> TokenEffects:
    """Give a lens's tokens their texts."""
    import numpy as np

    from bitcodec_html import TokenEffects

    ids, places = np.unique(np.stack([lens.promoted, lens.suppressed]), return_inverse=True)
    promoted, suppressed = places.reshape(2, *lens.promoted.shape)
    gain = " and the final norm’s gain" if lens.gain else ""
    return TokenEffects(
        tokens=[model.tokenizer.decode([number]) for number in ids.tolist()],
        promoted=promoted,
        promoted_logits=lens.promoted_logits,
        suppressed=suppressed,
        suppressed_logits=lens.suppressed_logits,
        note=(
            f"The logit lens: the feature’s decoder row times the codec’s scales{gain}, times the "
            f"unembedding of {model.name}, less the mean over the vocabulary. Divided by the root "
            "mean square of a row’s final state these are logits, as far as the layers between "
            "pass the direction on."
        ),
    )


def encode_texts(
    documents: list[Any], model: LanguageModel, codec: BitCodec, origin: QueryOrigin | None
) -> list[EncodedText]:
    """Run documents through model and codec."""
    from bitcodec_html import encoded_texts
    from bitcodec_transformers import hidden_of

    if not documents or origin is None:
        return []
    states = hidden_of(documents, model=model, layer=origin.layer, **origin.rows)
    return encoded_texts(codec, states.hidden, states.rows)


def documents_of(text: str) -> list[Any]:
    """Return the documents of a --text: those of a file, or the text itself."""
    if text == "-" or Path(text).suffix in (".txt", ".jsonl"):
        return list(read_text(text))
    return [(TYPED, text)]
