#!/usr/bin/env python3
"""Draws what the panels of the dashboards show of two generated nodes: one PNG a dashboard (`make pictures`).

Grafana draws the same figures over time and its own way; here they stand as bars of their present values, so that a wrong
legend, unit or order of magnitude is seen. The figures are those that the test of the dashboards asked of a real Prometheus.
"""

import datetime
import io
import json
import pathlib
import re
import sys

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402
from PIL import Image  # noqa: E402

# Grafana's units of the panels, as they stand behind a figure, and those that take prefixes.
UNITS = {"joule": "J", "watt": "W", "massg": "g", "bytes": "B", "s": "s", "percentunit": "%", "short": ""}
PREFIXES = [(1e9, "G"), (1e6, "M"), (1e3, "k"), (1, ""), (1e-3, "m"), (1e-6, "µ"), (1e-9, "n")]
TIME = "dateTimeAsIso"
COLUMNS = 3
# Most bars of a panel, the others are said to be there, and the least room for them.
BARS = 16
LEAST = 4


def said(legend, labels):
    """The legend of a series as Grafana writes it."""
    if legend in (None, "", "__auto"):
        shown = {name: value for name, value in labels.items() if name not in ("__name__", "job", "instance")}
        return ", ".join(f"{name}={value}" for name, value in sorted(shown.items()))
    return re.sub(r"\{\{\s*(\w+)\s*\}\}", lambda found: labels.get(found[1], ""), legend)


def figure_of(value, unit):
    """A figure with its unit; one that is not known here is a mistake to be seen."""
    if unit == TIME:
        return datetime.datetime.fromtimestamp(value / 1000, datetime.timezone.utc).strftime("%Y-%m-%d %H:%M:%S")
    if unit == "percentunit":
        return f"{value * 100:.4g} %"
    if unit == "s" and abs(value) >= 86400:
        return f"{value / 86400:.4g} days"
    size, prefix = next(((size, prefix) for size, prefix in PREFIXES if abs(value) >= size), (1, ""))
    if unit == "short" and abs(value) < 1:
        size, prefix = 1, ""
    return f"{value / size:.4g} {prefix}{UNITS[unit]}".rstrip()


def draw(axes, title, queries):
    """One panel."""
    bars = [(said(query["legend"], one["labels"]), one["value"]) for query in queries for one in query["series"]]
    unit = queries[0]["unit"]
    more = max(len(bars) - BARS, 0)
    bars = bars[:BARS]
    # A time has no length.
    lengths = [0 if unit == TIME else value for _, value in bars]
    axes.barh(range(len(bars)), lengths, height=0.7, color="#3b7dd8")
    axes.set_yticks(range(len(bars)), [name[:48] or "value" for name, _ in bars], fontsize=7)
    axes.set_ylim(max(len(bars), LEAST) - 0.4, -0.6)
    axes.set_xlim(min(0, *lengths), max(lengths) * 1.3 or 1)
    # The figures stand behind the bars.
    axes.set_xticks([])
    for place, (length, (_, value)) in enumerate(zip(lengths, bars)):
        axes.annotate(" " + figure_of(value, unit), (max(length, 0), place), va="center", fontsize=7)
    axes.set_title(title + (f" (and {more} more)" if more else ""), fontsize=9, loc="left")
    for side in ("top", "right", "bottom"):
        axes.spines[side].set_visible(False)


def save(figure, path):
    """Without date and version, and in few colours: the same figures give the same bytes, and few of them."""
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=75, metadata={"Software": None})
    Image.open(drawn).convert("RGB").quantize(32).save(path, optimize=True)


def main(figures, folder):
    dashboards = {}
    for query in json.loads(pathlib.Path(figures).read_text()):
        dashboards.setdefault((query["uid"], query["dashboard"]), {}).setdefault(query["panel"], []).append(query)
    for (uid, title), panels in dashboards.items():
        rows = -(-len(panels) // COLUMNS)
        figure, grid = pyplot.subplots(rows, COLUMNS, figsize=(17, 2.1 * rows + 0.4), squeeze=False, layout="constrained")
        figure.suptitle(f"{title}, two generated nodes, one hour", fontsize=12)
        places = [axes for row in grid for axes in row]
        for axes, (name, queries) in zip(places, panels.items()):
            draw(axes, name, queries)
        for axes in places[len(panels):]:
            axes.set_visible(False)
        save(figure, pathlib.Path(folder) / f"{uid}.png")
        pyplot.close(figure)


if __name__ == "__main__":
    main(*sys.argv[1:])
