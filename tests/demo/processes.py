"""Starts the demo's processes and makes sure that none outlives it."""

import os
import re
import signal
import socket
import subprocess
import threading
import time

from settings import child_environment

START_SECONDS = 60
STOP_SECONDS = 20


class ProcessError(Exception):
    """A process that did not start, or ended by itself."""


class Process:
    """One process in its own group, whose output goes to a file and is watched for a line."""

    def __init__(self, name, command, log):
        self.name = name
        self.log = log
        self.lines = []
        self.ready = threading.Condition()
        self.ended = False
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=child_environment(),
            start_new_session=True,
        )
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        with open(self.log, "w", encoding="utf-8") as log:
            for line in self.process.stdout:
                log.write(line)
                log.flush()
                with self.ready:
                    self.lines.append(line.rstrip())
                    self.ready.notify_all()
        with self.ready:
            self.ended = True
            self.ready.notify_all()

    def wait_for(self, pattern):
        """The first line that matches, as a match; an error if the process ends or stays silent."""
        expression = re.compile(pattern)
        until = time.monotonic() + START_SECONDS
        with self.ready:
            while True:
                for line in self.lines:
                    if match := expression.search(line):
                        return match
                left = until - time.monotonic()
                if self.ended or left <= 0:
                    why = "ended" if self.ended else f"said nothing of the kind in {START_SECONDS} s"
                    last = "\n  ".join(self.lines[-10:]) or "(no output)"
                    raise ProcessError(f"{self.name} {why} before {pattern!r}; its last lines:\n  {last}")
                self.ready.wait(left)

    def check(self):
        """An error if the process has ended by itself."""
        if self.process.poll() is not None:
            last = "\n  ".join(self.lines[-10:]) or "(no output)"
            raise ProcessError(f"{self.name} ended with status {self.process.returncode}; its last lines:\n  {last}")

    def stop(self):
        """Asks the whole group to end, insists after a while, and returns the exit status."""
        self._signal(signal.SIGTERM)
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._signal(signal.SIGKILL)
            self.process.wait()
            return None
        # A child of the process may have stayed behind.
        self._signal(signal.SIGKILL)
        return self.process.returncode

    def _signal(self, number):
        try:
            os.killpg(self.process.pid, number)
        except ProcessLookupError:
            pass


class Processes:
    """All processes of the demo, stopped in reverse order."""

    def __init__(self):
        self.running = []

    def start(self, name, command, folder):
        """Starts a process; its output goes to `NAME.log` in the folder."""
        process = Process(name, [str(part) for part in command], folder / f"{name}.log")
        self.running.append(process)
        return process

    def check(self):
        """An error if any process has ended by itself."""
        for process in self.running:
            process.check()

    def stop(self, process):
        """Stops one process; see `Process.stop`."""
        self.running.remove(process)
        return process.stop()

    def stop_all(self):
        """Stops what still runs; called however the demo ends."""
        while self.running:
            self.running.pop().stop()


def free_ports(count):
    """Ports that are free now: held together while they are chosen, so that they differ."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for held in sockets:
            held.bind(("127.0.0.1", 0))
        return [held.getsockname()[1] for held in sockets]
    finally:
        for held in sockets:
            held.close()
