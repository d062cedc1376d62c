"""The demo: grams of CO2e per token of two model versions that are really served on this machine.

Started by `make demo`. It runs the aggregator, the agent with this machine's own power sources, and two llama.cpp servers
with tiny random models under one alias; sends them a load; asks the operator's tool what each version cost; and holds
the answer's token counts against what the servers returned to the client. Beside it a second agent reads a simulated node
of eight GPUs: every row that holds its joules is marked as simulated. Nothing is left running; the data go unless KEEP=1.
Exit status: 0 if the counts agree exactly, 1 if not or if something did not run, 64 for a wrong setting.
"""

import atexit
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from datetime import datetime, timezone
from pathlib import Path

import load
import settings
import simulated
from processes import ProcessError, Processes, free_ports

HERE = Path(__file__).resolve().parent
NEIGHBOUR = "while True: sum(range(10_000))"
VERSIONS = tuple(settings.REQUESTS_PER_ROUND)


def now():
    """The time in RFC 3339, UTC."""
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def say(text=""):
    """Prints a line at once, also into a pipe."""
    print(text, flush=True)


class Demo:
    """One run in one temporary folder."""

    def __init__(self, chosen, folder, processes):
        self.chosen = chosen
        self.folder = folder
        self.processes = processes
        self.address = None

    def binary(self, name):
        """Path of one of Joulebook's programs."""
        return self.chosen.binaries / name

    def start_aggregator(self):
        """Starts the aggregator on a port of the system's choice."""
        config = self.folder / "aggregator.toml"
        config.write_text(self.chosen.aggregator(self.folder), encoding="utf-8")
        command = [self.binary("joulebook-aggregator"), "--config", config, "--insecure-loopback"]
        process = self.processes.start("aggregator", command, self.folder)
        self.address = process.wait_for(settings.AGGREGATOR_READY)["address"]
        say(f"aggregator  on {self.address}, data in {self.folder / 'aggregator'}")

    def start_agent(self, ports):
        """Starts the agent; it says for itself which power sources it reads."""
        config = self.folder / "agent.toml"
        config.write_text(self.chosen.agent(self.folder, self.address, ports.values()), encoding="utf-8")
        command = [self.binary("joulebook-agent"), "--config", config, "--insecure-loopback"]
        process = self.processes.start("agent", command, self.folder)
        process.wait_for(settings.AGENT_READY)
        say("agent       reads this machine; its sources are in its log, agent.log")
        return process

    def start_simulated(self, ports):
        """Starts the simulated node and its agent."""
        node = simulated.Node(self.processes, self.chosen.binaries, self.folder)
        node.serve(ports)
        config = self.folder / "simulated.toml"
        config.write_text(self.chosen.simulated_agent(self.folder, self.address, node, ports), encoding="utf-8")
        command = [self.binary("joulebook-agent"), "--config", config]
        process = self.processes.start("simulated-agent", command, self.folder)
        process.wait_for(settings.AGENT_READY)
        say(f"simulated   8 × H100 that are not here; {settings.SIMULATED_MODEL} 1.0 and 2.0 on four of them")
        return process

    def start_servers(self, ports):
        """Makes the two versions and serves each, under one alias."""
        engine = self.chosen.engine
        for seed, version in enumerate(VERSIONS):
            model = self.folder / f"{settings.ALIAS}-{version}.gguf"
            subprocess.run(
                [engine, HERE / "make_gguf.py", model, settings.ALIAS, version, str(seed)],
                check=True,
                stdin=subprocess.DEVNULL,
                env=settings.child_environment(),
            )
            command = [engine, HERE / "serve.py", model, ports[version], settings.ALIAS]
            server = self.processes.start(f"llama-{version}", command, self.folder)
            server.wait_for(settings.SERVER_READY)
            say(f"llama.cpp   serves {settings.ALIAS} {version} on port {ports[version]}")

    def send_load(self, ports):
        """Sends the load and returns the sums of what the servers returned."""
        say(f"load        {self.chosen.seconds} s, three times the tokens to version {VERSIONS[0]}")

        def each_round(left):
            self.processes.check()
            if sys.stdout.isatty():
                print(f"\r            {left:4.0f} s left ", end="", flush=True)

        sums = load.run(ports, self.chosen.seconds, each_round)
        if sys.stdout.isatty():
            print("\r" + " " * 24 + "\r", end="")
        return sums

    def ask(self, *words, output="table"):
        """What the operator's tool answers."""
        command = [self.binary("joulebook"), "--aggregator", f"http://{self.address}", *words, "-o", output]
        done = subprocess.run(
            [str(part) for part in command], capture_output=True, text=True, env=settings.child_environment(), check=False
        )
        if done.returncode != 0:
            raise ProcessError(f"`{' '.join(words)}` ended with status {done.returncode}: {done.stderr.strip()}")
        return done.stdout

    def show(self, window):
        """Prints the answers, as an operator would ask for them."""
        questions = [
            (
                "what a token of each version cost, and the capacity kept idle for it",
                ["sci", *window, "--per", "total-token", "--model", settings.ALIAS],
            ),
            (
                "the same of the simulated node, whose joules nobody drew",
                ["sci", *window, "--per", "total-token", "--model", settings.SIMULATED_MODEL],
            ),
            ("where the energy of the machines went: every joule has one row", ["energy", *window, "--by", "workload"]),
            ("what each GPU drew", ["energy", *window, "--by", "gpu"]),
            (
                "how the first number came about, and that nothing is missing",
                ["explain", *window, "--per", "total-token", "--model", f"{settings.ALIAS}@{VERSIONS[0]}"],
            ),
        ]
        for title, words in questions:
            say(f"\n# {title}\n$ joulebook {' '.join(words)}\n")
            say(self.ask(*words).rstrip())

    def compare(self, window, sums):
        """Holds the answer's tokens against the client's; returns the differences."""
        page = json.loads(self.ask("sci", *window, "--per", "total-token", output="json"))
        found = {}
        for answer in page["answers"]:
            if answer["subject"]["model"] == settings.ALIAS:
                found[answer["subject"]["model_version"]] = answer["tokens"]
        say("\n# tokens: what the servers returned to the client, and what the book says")
        differences = []
        for version, usage in sums.items():
            tokens = found.get(version)
            if tokens is None:
                differences.append(f"{settings.ALIAS} {version} has no answer; versions with one: {sorted(map(str, found))}")
                continue
            for kind in ("input", "cached", "output"):
                client, book = getattr(usage, kind), tokens[kind]
                equal = book is not None and int(book) == client
                say(f"  {version}  {kind:7} client {client:>9}   book {'unknown' if book is None else book:>9}"
                    f"   {'equal' if equal else 'DIFFERENT'}")
                if not equal:
                    differences.append(f"{settings.ALIAS} {version}: {kind} tokens are {book} in the book, {client} at the client")
        return differences


def run(chosen, folder, processes):
    """The whole demo; returns the exit status."""
    demo = Demo(chosen, folder, processes)
    found = free_ports(len(VERSIONS) + len(settings.REPLICAS))
    ports = dict(zip(VERSIONS, found))
    begin = now()
    demo.start_aggregator()
    agents = [demo.start_agent(ports), demo.start_simulated(found[len(VERSIONS) :])]
    demo.start_servers(ports)
    if chosen.neighbour:
        processes.start("neighbour", [sys.executable, "-c", NEIGHBOUR], folder)
        say("neighbour   an unrelated busy process beside the servers")
    sums = demo.send_load(ports)
    # An agent scrapes once more when it is asked to end, and hands over all it has before it does.
    for agent in agents:
        status = processes.stop(agent)
        if status != 0:
            raise ProcessError(f"the agent ended with status {status}; see {agent.log}")
    window = ["--from", begin, "--to", now()]
    demo.show(window)
    differences = demo.compare(window, sums)
    for difference in differences:
        print(f"demo: {difference}", file=sys.stderr)
    say("\n# where to look next")
    say("  joulebook --help               every question that can be asked")
    say("  KEEP=1 make demo               keeps the data, the logs and the configuration of the daemons")
    say("  DEMO_REGION=aws/eu-west-3      or DEMO_ZONE=FRA: the carbon intensity of a place instead of the world's")
    say("  DEMO_NEIGHBOUR=1               adds an unrelated busy process: it gets a row of its own")
    return 1 if differences else 0


def main():
    """Sets up, runs, and cleans up however it ends."""
    try:
        chosen = settings.Settings(os.environ)
    except settings.SettingsError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 64
    processes = Processes()
    folder = Path(tempfile.mkdtemp(prefix="joulebook-demo-"))

    def clean():
        processes.stop_all()
        if chosen.keep:
            say(f"\nkept: {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)

    atexit.register(clean)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda received, _frame: sys.exit(128 + received))
    try:
        return run(chosen, folder, processes)
    except KeyboardInterrupt:
        return 130
    except (ProcessError, OSError, RuntimeError, KeyError, ValueError, subprocess.CalledProcessError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
