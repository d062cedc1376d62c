"""Reads the fake NVML library with NVIDIA's own Python client, which knows nothing of the simulator; prints JSON."""

import json

import pynvml


def reading(index):
    try:
        device = pynvml.nvmlDeviceGetHandleByIndex(index)
        return {
            "uuid": pynvml.nvmlDeviceGetUUID(device),
            "name": pynvml.nvmlDeviceGetName(device),
            "bus_id": pynvml.nvmlDeviceGetPciInfo(device).busId,
            "millijoules": pynvml.nvmlDeviceGetTotalEnergyConsumption(device),
            "milliwatts": pynvml.nvmlDeviceGetPowerUsage(device),
        }
    except pynvml.NVMLError as error:
        return {"error": error.value}


pynvml.nvmlInit()
count = pynvml.nvmlDeviceGetCount()
print(json.dumps({"driver": pynvml.nvmlSystemGetDriverVersion(), "gpus": [reading(index) for index in range(count)]}))
pynvml.nvmlShutdown()
