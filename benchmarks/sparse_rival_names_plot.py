"""A picture of named features and tables for Markdown, made from their JSON alone.

Left: mean score by how often features are on. Right: what our codec's features score above those of
a rival that are on as often, by judge and by which rows count as contexts.

    python -m benchmarks.sparse_rival_names_plot
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

from benchmarks.results_file import RESULTS
from benchmarks.sparse_rival_names import MATCHED_RUNS, NAME, REFERENCE
from benchmarks.sparse_rivals_plot import COLOURS, LINES, asked_results, family_of

LEAST = 10
"""Features that an octave must have to be drawn."""
SHOWN = f"bitcodec {REFERENCE}"
"""Our codec in the right panel."""
MARKS = ("o", "s", "^", "v")
THRESHOLDS = ("0.6", "0.7", "0.8")

Results = dict[str, Any]


def main() -> int:
    """Write benchmarks/results/sparse_rival_names.png and print the tables."""
    results = asked_results(NAME, description=__doc__)
    draw(results, RESULTS / f"{NAME}.png")
    print("\n".join(table_of_sets(results["sets"])), end="\n\n")
    for ours, compared in results["matched"].items():
        print(ours, *table_of_pairs(compared), sep="\n", end="\n\n")
    return 0


def table_of_sets(sets: Results, run: str = "lexical") -> list[str]:
    """Return the lines of a table in Markdown: every set as it is."""
    lines = [
        "| features | score | under another's name | .6 or more | .7 | .8 | of all features .7 |",
        "|---|" + "---:|" * 6,
    ]
    for name, runs in sets.items():
        found = runs[run]
        shares = {str(count["threshold"]): count["share"] for count in found["counts"]}
        middle, low, high = found["in_the_whole_set"]["0.7"]
        cells = (
            name,
            _interval(found["score"]),
            f"{found['control'][0]:.3f}",
            *(f"{100 * shares[threshold]:.0f}%" for threshold in THRESHOLDS),
            f"{middle:.0f} ({low:.0f} to {high:.0f})",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def table_of_pairs(compared: Results) -> list[str]:
    """Return the lines of a table in Markdown: one of our codecs and every rival, by run."""
    lines = [
        f"| rival | pairs | {' | '.join(MATCHED_RUNS)} | .7 or more, ours and theirs |",
        "|---|" + "---:|" * (2 + len(MATCHED_RUNS)),
    ]
    for rival, runs in rivals_of(compared).items():
        first = runs[MATCHED_RUNS[0]]
        if any(not runs[run]["pairs"] for run in MATCHED_RUNS):
            continue
        shares = first["shares"]["0.7"]
        cells = (
            rival,
            f"{first['pairs']}",
            *(_gain(runs[run]["score"]) for run in MATCHED_RUNS),
            f"{100 * shares['left']:.0f}%, {100 * shares['right']:.0f}%",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def rivals_of(compared: Results) -> Results:
    """Return the figures by rival, without the name of their run."""
    return {rival: runs for rival, runs in compared.items() if rival != "run"}


def _interval(ends: list[float]) -> str:
    return "{:.3f} ({:.3f} to {:.3f})".format(*ends)


def _gain(score: Results) -> str:
    gained = score["left"] - score["right"]
    return f"{gained:+.3f} ({score['low']:+.3f} to {score['high']:+.3f})"


def draw(results: Results, path: Path) -> None:
    """Write a PNG.

    Args:
        results: as the benchmark stores them.
        path: of the picture.
    """
    matplotlib: Any = importlib.import_module("matplotlib")
    matplotlib.use("agg")
    pyplot: Any = importlib.import_module("matplotlib.pyplot")
    figure, (scores, gains) = pyplot.subplots(1, 2, figsize=(13, 5.2), layout="constrained")
    draw_scores(scores, results["sets"])
    draw_gains(gains, results["matched"].get(SHOWN, {}))
    figure.savefig(path, dpi=90, metadata={"Software": None})
    pyplot.close(figure)


def draw_scores(panel: Any, sets: Results) -> None:
    """Draw mean scores by activity, a line a set, each point in the middle of its octave."""
    for name, runs in sorted(sets.items()):
        kin = sorted(other for other in sets if family_of(other) == family_of(name))
        octaves = {
            int(octave): found
            for octave, found in runs["lexical"]["by_octave"].items()
            if found[0] >= LEAST
        }
        middles = [2 ** (octave + 0.5) for octave in sorted(octaves)]
        means = [octaves[octave][1] for octave in sorted(octaves)]
        style = {"color": COLOURS[family_of(name)], "linestyle": LINES[kin.index(name) % 4]}
        panel.plot(middles, means, **style, marker=MARKS[kin.index(name) // 4], label=name)
    panel.axhline(0.5, color="grey", linewidth=0.8)
    panel.set(
        xscale="log",
        xlabel="share of tokens at which a feature is on",
        ylabel="mean score, lexical judge; 0.5 is chance",
    )
    panel.grid(alpha=0.3)
    panel.legend(frameon=False, fontsize="small")


def draw_gains(panel: Any, compared: Results) -> None:
    """Draw differences of mean scores at equal activity with their intervals."""
    kept = rivals_of(compared)
    rivals = [name for name, runs in kept.items() if runs[MATCHED_RUNS[0]]["pairs"]]
    for at, run in enumerate(MATCHED_RUNS):
        for row, rival in enumerate(rivals):
            if not kept[rival][run]["pairs"]:
                continue
            score = kept[rival][run]["score"]
            height, gain = -row - 0.15 * (at - 1.5), score["left"] - score["right"]
            panel.plot([score["low"], score["high"]], [height, height], color=f"C{at}")
            panel.plot(gain, height, MARKS[at], color=f"C{at}", label=None if row else run)
    panel.axvline(0, color="grey", linewidth=0.8)
    panel.set_yticks([-row for row in range(len(rivals))], rivals)
    panel.set(xlabel=f"score of {SHOWN} above the rival's, features on as often")
    panel.grid(alpha=0.3)
    panel.legend(frameon=False, fontsize="small")


if __name__ == "__main__":
    sys.exit(main())
