#!/usr/bin/env python3
"""Writes the chart's README to standard output: what stands in head.md, and a table of all values.

A value's row is the comment above it that begins with `# --`. A value without one is an error, so that none is forgotten.
Usage: readme.py > joulebook/README.md
"""
import json
import pathlib
import re
import sys

CHART = pathlib.Path(__file__).parent / "joulebook"


def rows(text):
    """Path, default and description of each documented key, in the order of the file."""
    import yaml

    values = yaml.safe_load(text)
    path, described, comment = [], [], None
    for number, line in enumerate(text.splitlines(), 1):
        if match := re.match(r"\s*# -- (.*)", line):
            comment = match[1]
        elif comment is not None and (match := re.match(r"\s*# (.*)", line)):
            comment += " " + match[1]
        elif match := re.match(r"( *)([A-Za-z]\w*):", line):
            depth = len(match[1]) // 2
            path = path[:depth] + [match[2]]
            if comment is None and described and path[: len(described)] == described:
                continue  # a part of the default of the key above
            value = values
            for key in path:
                value = value[key]
            if comment is not None:
                yield ".".join(path), value, comment
                described, comment = path, None
            elif not isinstance(value, dict):
                sys.exit(f"readme: values.yaml:{number}: {'.'.join(path)} has no comment that begins with `# --`")


def cell(text):
    return text.replace("|", "\\|")


def main():
    text = (CHART / "values.yaml").read_text()
    sys.stdout.write((CHART.parent / "head.md").read_text())
    print("\n## Values\nMade from `values.yaml` by `helm/readme.py`.\n")
    print("| key | default | what it is |\n| --- | --- | --- |")
    for path, value, comment in rows(text):
        print(f"| `{path}` | `{cell(json.dumps(value))}` | {cell(comment)} |")


main()
