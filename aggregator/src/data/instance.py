#!/usr/bin/env python3
"""Turns the embodied carbon of Amazon EC2 instances in the npm package @cloud-carbon-footprint/aws 0.15.0 into instance.csv.

    npm pack @cloud-carbon-footprint/aws@0.15.0
    python3 instance.py cloud-carbon-footprint-aws-0.15.0.tgz

Deterministic: the same package gives the same bytes. The package gives the vCPUs of each size and the total of its host in
tonnes; an instance has the part of its vCPUs in those of the largest size of its family, as the package itself computes it.
"""
import json
import pathlib
import re
import sys
import tarfile

VERSION = "0.15.0"
TYPES = "package/dist/lib/AWSInstanceTypes.js"
# Service nodes of databases, which no cluster has as nodes of its own.
OTHER = {"ra3", "dc1", "dc2", "ds2"}


def families(text):
    """The vCPUs and the host's tonnes of every size of every family."""
    begin = text.index("exports.EC2_INSTANCE_TYPES = {")
    body = text[begin : text.index("\n};", begin)]
    found, family = {}, None
    for line in body.splitlines()[1:]:
        if match := re.match(r"^    '?([\w-]+)'?: \{$", line):
            family = found.setdefault(match[1], {})
        elif match := re.match(r"^        '?([\w-]+)'?: \[([\d.]+), ([\d.]+), ([\d.]+)\],?$", line):
            family[match[1]] = (float(match[2]), float(match[4]))
    return found


def main(package):
    with tarfile.open(package) as tar:
        assert json.load(tar.extractfile("package/package.json"))["version"] == VERSION
        found = families(tar.extractfile(TYPES).read().decode())
    rows = []
    for family, sizes in found.items():
        largest = max(vcpus for vcpus, _ in sizes.values())
        for size, (vcpus, tonnes) in sizes.items():
            if tonnes > 0 and vcpus > 0 and family not in OTHER:
                rows.append(f"{family}.{size},{vcpus:g},{tonnes * 1000 * vcpus / largest:.3f}\n")
    target = pathlib.Path(__file__).with_name("instance.csv")
    target.write_text("instance,vcpus,embodied_kg\n" + "".join(sorted(rows)))


main(sys.argv[1])
