"""Ray Serve with two versions of a model, each an application of its own; they only use the CPU and refuse negative work.

Usage: serve_two.py HTTP_PORT METRICS_PORT FOLDER
"""

import signal
import sys

import ray
from ray import serve
from starlette.requests import Request


@serve.deployment(name="scorer", num_replicas=1, ray_actor_options={"num_cpus": 0})
class Scorer:
    """Works `steps` for each unit of work."""

    def __init__(self, steps):
        self.steps = steps

    async def __call__(self, request: Request):
        """One request: `?work=` is the amount of work."""
        work = int(request.query_params["work"])
        if work < 0:
            raise ValueError("negative work")
        total = 0
        for step in range(work * self.steps):
            total += step
        return {"total": total}


if __name__ == "__main__":
    http_port, metrics_port, folder = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    ray.init(
        num_cpus=1,
        include_dashboard=False,
        logging_level="warning",
        object_store_memory=80 << 20,
        _metrics_export_port=metrics_port,
        _temp_dir=folder,
    )
    serve.start(http_options={"host": "127.0.0.1", "port": http_port})
    for version, steps in (("v1", 150_000), ("v2", 50_000)):
        serve.run(Scorer.bind(steps), name=version, route_prefix=f"/{version}")
    print("both versions are served", flush=True)
    # Ray ends with this process, and this process with a signal.
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
