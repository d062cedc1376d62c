#!/usr/bin/env python3
"""Tells the Joulebook agent what a server has counted, for servers that have no metric page.

Cumulative counts: a report that is lost on the way is healed by the next one. Only Python's own library is used.

    reporter = Reporter("/run/joulebook/push.sock", model="scorer", version="2")
    reporter.add(requests=1, input_tokens=120, output_tokens=40)   # after each request
    reporter.send()                                                # every few seconds
"""

import json
import socket
import sys


class Reporter:
    """Counts of one model version in this process. One reporter for each; `send` raises OSError if the agent is not there."""

    _connections = {}  # path -> [file, last sequence number]: the number rises for the process, not for a reporter

    def __init__(self, path, model, version=None):
        self.path = path
        self.head = {"cumulative": True, "model": model, "model_version": version}
        self.counts = {}

    def add(self, **counts):
        """Adds to the counts: requests, failed, aborted, items, input_tokens, cached_tokens, output_tokens, reasoning_tokens,
        busy_seconds."""
        for name, count in counts.items():
            self.counts[name] = self.counts.get(name, 0) + count

    def send(self):
        """Sends the sums and returns the agent's answer. After an error the next call connects anew."""
        connection = self._connections.setdefault(self.path, [None, 0])
        try:
            if connection[0] is None:
                stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                stream.settimeout(5)
                stream.connect(self.path)
                connection[0] = stream.makefile("rw", encoding="utf-8", newline="\n")
            connection[1] += 1
            connection[0].write(json.dumps({"seq": connection[1], **self.head, **self.counts}) + "\n")
            connection[0].flush()
            answer = connection[0].readline()
            if not answer:
                raise ConnectionError("the agent closed the connection")
            return json.loads(answer)
        except OSError:
            connection[0] = None
            raise


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: report_inference.py SOCKET")
    reporter = Reporter(sys.argv[1], model="scorer", version="2")
    for _ in range(3):
        reporter.add(requests=1, input_tokens=120, cached_tokens=20, output_tokens=40, busy_seconds=0.25)
        print(reporter.send())
