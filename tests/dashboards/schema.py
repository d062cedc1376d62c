"""Reads dashboards with the types of Grafana's own SDK, and prints what is lost on the way through them.

What its types do not know, Grafana does not heed: a key that is spelt wrong says nothing, and has no effect.
"""

import json
import sys

from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

# Grafana's editor shows it in the list of variables; the SDK leaves it out, and it has no effect on what is shown.
LEFT_OUT = {"definition"}


def lost(given, known, path):
    """Paths of what is given and not known, or known otherwise."""
    if isinstance(given, dict) and isinstance(known, dict):
        for key, value in given.items():
            if key in known:
                yield from lost(value, known[key], f"{path}.{key}")
            elif key not in LEFT_OUT:
                yield f"{path}.{key}"
    elif isinstance(given, list) and isinstance(known, list) and len(given) == len(known):
        for place, (one, other) in enumerate(zip(given, known)):
            yield from lost(one, other, f"{path}[{place}]")
    elif given != known:
        yield path


def main():
    register_default_plugins()
    for name in sys.argv[1:]:
        with open(name, encoding="utf-8") as file:
            given = json.load(file)
        known = json.loads(JSONEncoder().encode(Dashboard.from_json(given)))
        for path in lost(given, known, ""):
            print(f"{name}: {path} is not known to Grafana")


if __name__ == "__main__":
    main()
