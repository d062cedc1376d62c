"""A handler for TorchServe that counts, which is work for the CPU, and refuses a negative amount of work."""


def handle(data, context):
    """Answers a request; without data it is the worker's start, and nothing is to be loaded."""
    if data is None:
        return None
    return [str(count(int(request.get("body") or request.get("data")))) for request in data]


def count(work):
    """Uses the CPU, 50,000 steps for each unit of work."""
    if work < 0:
        raise ValueError("negative work")
    total = 0
    for step in range(work * 50_000):
        total += step
    return total
