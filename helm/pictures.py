#!/usr/bin/env python3
"""Draws what the panels of the dashboards show of the scripted fleet: one PNG a dashboard (`make pictures`).

Grafana draws the same figures its own way; here they stand as bars of their present values, so that a wrong legend, unit or
order of magnitude is seen. The figures are those that the test of the dashboards asked of a real Prometheus.
"""

import json
import pathlib
import re
import sys

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402

# Names of Grafana's units, as they stand behind a figure.
UNITS = {
    "joule": "J", "watt": "W", "massg": "g", "percentunit": "", "s": "s", "bytes": "B", "short": "", "none": "",
    "dateTimeAsIso": "", "decbytes": "B", "ops": "/s", "cps": "/s", "dtdurations": "s",
}
COLUMNS = 3
# Most bars of a panel; the others are said to be there.
BARS = 12


def said(legend, labels):
    """The legend of a series as Grafana writes it."""
    if legend in (None, "", "__auto"):
        shown = {name: value for name, value in labels.items() if name not in ("__name__", "job", "instance")}
        return ", ".join(f"{name}={value}" for name, value in sorted(shown.items()))
    return re.sub(r"\{\{\s*(\w+)\s*\}\}", lambda found: labels.get(found[1], ""), legend)


def draw(axes, title, queries):
    bars = [(said(query["legend"], one["labels"]), one["value"]) for query in queries for one in query["series"]]
    unit = queries[0]["unit"]
    more = len(bars) - BARS
    bars = bars[:BARS]
    values = [value * 100 if unit == "percentunit" else value for _, value in bars]
    axes.barh(range(len(bars)), values, color="#3b7dd8")
    axes.set_yticks(range(len(bars)), [name[:44] or "value" for name, _ in bars], fontsize=7)
    axes.invert_yaxis()
    axes.tick_params(axis="x", labelsize=7)
    axes.margins(x=0.25)
    ends = "%" if unit == "percentunit" else UNITS.get(unit, unit)
    for place, value in enumerate(values):
        axes.annotate(f" {value:.4g} {ends}".rstrip(), (value, place), va="center", fontsize=7)
    axes.set_title(title + (f" (and {more} more)" if more > 0 else ""), fontsize=9, loc="left")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def main(figures, folder):
    dashboards = {}
    for query in json.loads(pathlib.Path(figures).read_text()):
        dashboards.setdefault((query["uid"], query["dashboard"]), {}).setdefault(query["panel"], []).append(query)
    for (uid, title), panels in dashboards.items():
        rows = -(-len(panels) // COLUMNS)
        figure, grid = pyplot.subplots(rows, COLUMNS, figsize=(18, 2.6 * rows), squeeze=False, layout="constrained")
        figure.suptitle(f"{title}: the scripted fleet", fontsize=12)
        places = [axes for row in grid for axes in row]
        for axes, (name, queries) in zip(places, panels.items()):
            draw(axes, name, queries)
        for axes in places[len(panels):]:
            axes.set_visible(False)
        # No date and no version in the file: the same figures give the same bytes.
        figure.savefig(pathlib.Path(folder) / f"{uid}.png", dpi=70, metadata={"Software": None})
        pyplot.close(figure)


if __name__ == "__main__":
    main(*sys.argv[1:])
