"""A model for Triton's Python backend, the same file in both versions: it counts, which is work for the CPU.

Version 1 counts three times as far as version 2. Version 2 waits as long as the rest would take, as for a disk: the two
are busy for equal times, and only the CPU time of their processes tells how unequal their work is.
"""

import time

import numpy
import triton_python_backend_utils as triton

STEPS = 500_000


def count(steps):
    """Uses the CPU."""
    total = 0
    for step in range(steps):
        total += step & 3
    return total


class TritonPythonModel:
    """One instance, in a process of its own."""

    def initialize(self, arguments):
        """Learns which version it is."""
        self.steps = STEPS * (3 if arguments["model_version"] == "1" else 1)

    def execute(self, requests):
        """Answers each request; one for a negative amount of work with an error, which Triton counts as success."""
        return [self.answer(triton.get_input_tensor_by_name(request, "work").as_numpy()[0]) for request in requests]

    def answer(self, work):
        """Counts, and waits for what this version does not count."""
        if work < 0:
            return triton.InferenceResponse(output_tensors=[], error=triton.TritonError("negative work"))
        begin = time.monotonic()
        total = count(self.steps)
        time.sleep((time.monotonic() - begin) * (3 * STEPS - self.steps) / self.steps)
        return triton.InferenceResponse([triton.Tensor("sum", numpy.array([total], dtype=numpy.int64))])
