"""What the demo runs with: every configuration key of the daemons that it uses stands in this file only."""

import os
from collections import namedtuple
from pathlib import Path

ALIAS = "tiny-chat"
# Requests in a round, by version: version 1.0 serves three times the tokens of 2.0.
REQUESTS_PER_ROUND = {"1.0": 3, "2.0": 1}
ROUND_SECONDS = 1.0
# Tokens of one answer: about a tenth of a second of one core.
ANSWER_TOKENS = 160
# Cores that are kept for each server: the base power of half a core is charged to it.
RESERVED_CORES = 0.5

# The model that the simulated node serves, and its servers: version 1.0 alone on two GPUs, 2.0 alone on one, a small replica
# of each on a fourth that they share. Four more GPUs are kept free.
SIMULATED_MODEL = "large-chat"
Replica = namedtuple("Replica", "name version gpu busy_permille held_gib requests_per_kilosecond")
REPLICAS = (
    Replica("large-1-a", "1.0", 0, 700, 70, 2500),
    Replica("large-1-b", "1.0", 1, 500, 70, 1800),
    Replica("large-2-a", "2.0", 2, 600, 70, 3000),
    Replica("large-1-c", "1.0", 3, 150, 24, 500),
    Replica("large-2-b", "2.0", 3, 50, 12, 250),
)

# What the daemons say when they are ready.
# (At the end of the line: an error about the same address goes on behind it.)
AGGREGATOR_READY = r"listening on (?P<address>[0-9.:\[\]a-f]+:\d+)$"
AGENT_READY = r"sampling every"
SERVER_READY = r"listening on (?P<address>\S+)"
SIMULATOR_READY = r"^\{.*\}$"

AGGREGATOR = """\
listen = "127.0.0.1:0"
data_dir = "{folder}/aggregator"
"""

SITE = """
[site.default]
{key} = "{place}"
"""

AGENT = """\
node = "this-machine"
# A sensor that only root may read does not stop the demo: what it would tell is estimated, and said so.
allow_no_sources = true
aggregator = "http://{aggregator}"
insecure_loopback = true

[spool]
dir = "{folder}/spool"

[sampling]
tick = "1s"
batch_rows = 5
"""

SIMULATED_AGENT = """\
node = "sim-dgx-h100"
aggregator = "http://{aggregator}"
insecure_loopback = true

[spool]
dir = "{folder}/simulated-spool"

[sampling]
tick = "1s"
batch_rows = 5

[roots]
sysfs = "{root}/sys"
procfs = "{root}/proc"
cgroup = "{root}/sys/fs/cgroup"

[placement]
# Every row that holds its joules is marked.
simulated = true

[nvml]
library = "{library}"
"""

SIMULATED_TARGET = """
[[target]]
url = "http://127.0.0.1:{port}/metrics"
preset = "vllm"
version = "{version}"
interval = "2s"
"""

TARGET = """
[[target]]
url = "http://127.0.0.1:{port}/metrics"
preset = "llamacpp"
reserved_cores = {cores}
interval = "2s"
"""


class SettingsError(Exception):
    """A setting of the caller that cannot be used."""


class Settings:
    """The caller's settings, from the environment that `make demo` passes on."""

    def __init__(self, environment):
        self.seconds = seconds(environment.get("DEMO_SECONDS") or "60")
        self.keep = switch(environment, "KEEP")
        self.neighbour = switch(environment, "DEMO_NEIGHBOUR")
        self.region = environment.get("DEMO_REGION", "")
        self.zone = environment.get("DEMO_ZONE", "")
        if self.region and self.zone:
            raise SettingsError("set DEMO_REGION (for example aws/eu-west-3) or DEMO_ZONE (for example FRA), not both")
        for name, value in (("DEMO_REGION", self.region), ("DEMO_ZONE", self.zone)):
            if any(not (letter.isalnum() or letter in "/-_.") for letter in value):
                raise SettingsError(f"{name}={value!r} is not the name of a region or zone")
        try:
            self.binaries = Path(environment["JOULEBOOK_BIN_DIR"])
            self.engine = Path(environment["JOULEBOOK_ENGINE"])
        except KeyError as missing:
            raise SettingsError(f"{missing.args[0]} is not set: start the demo with `make demo`") from missing

    def aggregator(self, folder):
        """The aggregator's configuration."""
        config = AGGREGATOR.format(folder=folder)
        for key, place in (("region", self.region), ("zone", self.zone)):
            if place:
                config += SITE.format(key=key, place=place)
        return config

    def agent(self, folder, aggregator, ports):
        """The agent's configuration: one target a port."""
        targets = "".join(TARGET.format(port=port, cores=RESERVED_CORES) for port in ports)
        return AGENT.format(folder=folder, aggregator=aggregator) + targets

    def simulated_agent(self, folder, aggregator, node, ports):
        """The configuration of the simulated node's agent: one target a replica."""
        targets = "".join(
            SIMULATED_TARGET.format(port=port, version=replica.version) for replica, port in zip(REPLICAS, ports)
        )
        own = SIMULATED_AGENT.format(folder=folder, aggregator=aggregator, root=node.root, library=node.library)
        return own + targets


def seconds(text):
    """Length of the load: below ten seconds nothing is worth showing."""
    if not text.isdecimal() or not 10 <= int(text) <= 86_400:
        raise SettingsError(f"DEMO_SECONDS={text!r} is not a number of seconds from 10 to 86400")
    return int(text)


def switch(environment, name):
    """A setting that is 1 or not there."""
    value = environment.get(name, "")
    if value not in ("", "0", "1"):
        raise SettingsError(f"{name}={value!r} is neither 1 nor 0")
    return value == "1"


def child_environment():
    """Environment of every process of the demo: no colours in what is read back, no proxy on the loopback."""
    environment = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}
    environment["NO_COLOR"] = "1"
    return environment
