"""Two models in one process of KServe's own server; they only use the CPU and refuse a negative amount of work.

Usage: scorer.py --http_port PORT --enable_grpc false
"""

import kserve


class Scorer(kserve.Model):
    """Works `steps` for each unit of work."""

    def __init__(self, name, steps):
        super().__init__(name)
        self.steps = steps
        self.ready = True

    async def predict(self, payload, headers=None, response_headers=None):
        """One instance: the amount of work."""
        work = payload["instances"][0]
        if work < 0:
            raise ValueError("negative work")
        total = 0
        for step in range(work * self.steps):
            total += step
        return {"predictions": [total]}


if __name__ == "__main__":
    arguments, _ = kserve.model_server.parser.parse_known_args()
    server = kserve.ModelServer(http_port=arguments.http_port, enable_grpc=False, workers=1)
    server.start([Scorer("scorer-1", 300_000), Scorer("scorer-2", 100_000)])
