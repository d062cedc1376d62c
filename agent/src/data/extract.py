#!/usr/bin/env python3
"""Writes cpu_power.csv from the package `codecarbon` of PyPI: pass its wheel, or install the package first.

    pip download --no-deps codecarbon==3.3.2 && python3 extract.py codecarbon-3.3.2-*.whl > cpu_power.csv
"""
import csv
import io
import sys
import zipfile

VERSION = "3.3.2"
INSIDE = "codecarbon/data/hardware/cpu_power.csv"


def text(arguments):
    """Text of the table, from the wheel named on the command line or from the installed package."""
    if arguments:
        with zipfile.ZipFile(arguments[0]) as wheel:
            return wheel.read(INSIDE).decode()
    from importlib import metadata, resources

    if metadata.version("codecarbon") != VERSION:
        sys.exit(f"codecarbon {VERSION} is needed: pip install codecarbon=={VERSION}")
    return (resources.files("codecarbon") / INSIDE.split("/", 1)[1]).read_text()


def main():
    rows = list(csv.DictReader(io.StringIO(text(sys.argv[1:]))))
    out = csv.writer(sys.stdout, lineterminator="\n")
    print(f"# Thermal design power of CPUs in watts. Source: CodeCarbon {VERSION} (PyPI), data/hardware/cpu_power.csv.")
    print("# Copyright (c) 2019 Mila, BCG Gamma, CometML, Haverford College; (c) 2023 Code Carbon NGO. MIT licence. Written by extract.py; do not edit.")
    out.writerow(["name", "tdp_watts"])
    for row in rows:
        name = row["Name"].strip()
        try:
            tdp = float(row["TDP"])
        except ValueError:
            print(f"left out: {name}, whose TDP is {row['TDP']!r}", file=sys.stderr)
            continue
        if name and tdp > 0:
            out.writerow([name, f"{tdp:g}"])


main()
