"""A runtime for MLServer that counts, which is work for the CPU: `parameters.extra.steps` of the model's settings."""

from mlserver import MLModel
from mlserver.errors import InferenceError
from mlserver.types import InferenceResponse, ResponseOutput


class Scorer(MLModel):
    """One version of the model."""

    async def load(self):
        """Nothing is to be loaded."""
        return True

    async def predict(self, payload):
        """Answers a request; one for a negative amount of work fails."""
        if payload.inputs[0].data[0] < 0:
            raise InferenceError("negative work")
        total = 0
        for step in range(self.settings.parameters.extra["steps"]):
            total += step & 3
        output = ResponseOutput(name="sum", shape=[1], datatype="INT64", data=[total])
        return InferenceResponse(model_name=self.name, model_version=self.version, outputs=[output])
