"""A BentoML service that only uses the CPU and refuses a negative amount of work."""

import bentoml


@bentoml.service(name="scorer", workers=1)
class Scorer:
    """One version of it: which one says the built bento."""

    @bentoml.api
    def predict(self, work: int) -> int:
        """Counts, 50,000 steps for each unit of work."""
        if work < 0:
            raise ValueError("negative work")
        total = 0
        for step in range(work * 50_000):
            total += step
        return total
