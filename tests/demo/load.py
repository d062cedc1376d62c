"""Sends a paced load to the servers and adds up what they say they have counted."""

import contextlib
import http.client
import json
import time
from dataclasses import dataclass

from settings import ALIAS, ANSWER_TOKENS, REQUESTS_PER_ROUND, ROUND_SECONDS

QUESTION = "what does a token of yours cost when it is {number:04d} o clock"


@dataclass
class Usage:
    """Sums over the responses of one version, as the server returned them."""

    requests: int = 0
    input: int = 0
    cached: int = 0
    output: int = 0

    def add(self, usage):
        """Adds the `usage` object of one response; a server that leaves a part out is an error, not 0."""
        self.requests += 1
        self.input += usage["prompt_tokens"]
        self.cached += usage["prompt_tokens_details"]["cached_tokens"]
        self.output += usage["completion_tokens"]


def ask(port, number):
    """Sends one chat request and returns the response's `usage`."""
    body = {
        "model": ALIAS,
        "messages": [{"role": "user", "content": QUESTION.format(number=number % 10_000)}],
        "max_tokens": ANSWER_TOKENS,
        "ignore_eos": True,
    }
    # A connection for each: a server closes one that was idle for some seconds, which on a busy machine are soon over.
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
        connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        page = response.read()
    if response.status != 200:
        raise RuntimeError(f"the server answered {response.status}: {page[:300]!r}")
    return json.loads(page)["usage"]


def run(ports, seconds, each_round):
    """Sends rounds for so many seconds and returns the sums per version.

    `ports` maps versions to ports; `each_round` is called with the seconds left before every round. A round that took
    longer than its time is followed at once by the next: the load is then bounded by the machine.
    """
    sums = {version: Usage() for version in ports}
    begin = time.monotonic()
    number = 0
    while (elapsed := time.monotonic() - begin) < seconds:
        each_round(seconds - elapsed)
        for version, requests in REQUESTS_PER_ROUND.items():
            for _ in range(requests):
                sums[version].add(ask(ports[version], number))
                number += 1
        time.sleep(max(0.0, ROUND_SECONDS - (time.monotonic() - begin) % ROUND_SECONDS))
    return sums
