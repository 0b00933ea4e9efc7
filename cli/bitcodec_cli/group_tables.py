"""The entropy of codes by group of rows, as `bitcodec report --by` prints it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from bitcodec_cli.report_tables import plain, table_of, visible

if TYPE_CHECKING:
    import numpy as np
    from rich.table import Table

    from bitcodec import BitCodec
    from bitcodec.groups import GroupStatistics
    from bitcodec.row_texts import RowTexts

Grouping = Literal["position", "token", "document"]
_COLUMNS: dict[Grouping, str] = {
    "position": "position",
    "token": "token_id",
    "document": "document",
}


def count_groups(
    codec: BitCodec, packed: np.ndarray, texts: RowTexts, by: Grouping
) -> GroupStatistics:
    """Count the features of packed rows by position, token or document."""
    from bitcodec.bits import row_bytes
    from bitcodec.groups import GroupStatistics

    codes = packed[:, : row_bytes(codec.n_bits_)]
    return GroupStatistics.empty(codec.n_bits_).update(codes, texts.column(_COLUMNS[by]))


def group_table(groups: GroupStatistics, texts: RowTexts, by: Grouping, *, n_shown: int) -> Table:
    """Lay out the groups: positions in their order, others by their rows.

    The title tells what knowing the group of a row saves, each row told by the others of its group:
    nothing where the groups are too small for that.
    """
    told, whole = groups.told_bits().sum(), groups.total.entropy_bits
    saved = f"{told:,.1f}" if told > 0 else "nothing"
    title = f"entropy by {by}: knowing it saves {saved} of {whole:,.1f} bits"
    table = table_of(title, f">{by}", ">rows", ">sum of bit entropies, Miller-Madow")
    keys = sorted(groups.groups, key=lambda key: (by != "position" and -groups.n_rows[key], key))
    for key in keys[:n_shown]:
        counted = groups.groups[key]
        entropy = counted.entropies(correction="miller-madow").sum()
        table.add_row(_name(int(str(key)), texts, by), f"{counted.n_rows:,}", f"{entropy:,.1f}")
    return table


def _name(key: int, texts: RowTexts, by: Grouping) -> str:
    if by == "position":
        return str(key)
    row = int((texts.column(_COLUMNS[by]) == key).argmax())
    if by == "document":
        return plain(texts.document_id(row)).plain
    start, end = (int(texts.column(name)[row]) for name in ("start", "end"))
    return plain(visible(texts.document_text(row)[start:end])).plain
