"""A simulated node of eight GPUs beside the real machine, with two versions of a large model on some of them.

No such machine is here: its hardware is hwsim's, its watts those of the profile, its joules nobody's. The agent that reads
it is the real one, told that its node is simulated.
"""

import json
import socket
from pathlib import Path

import settings

PROFILE = Path(__file__).resolve().parent.parent / "fixtures/profiles/dgx-h100.json"
# Time between two updates of its files in ms: its energy counters move by themselves, its clock is the machine's.
TICK_MS = 20
GIB = 1 << 30


class Node:
    """The simulator as a process, and its control socket."""

    def __init__(self, processes, binaries, folder):
        root = folder / "simulated"
        root.mkdir()
        command = [binaries / "hwsim", "--profile", PROFILE, "--root", root, "--tick-ms", TICK_MS]
        process = processes.start("hwsim", command, folder)
        ready = json.loads(process.wait_for(settings.SIMULATOR_READY)[0])
        self.root = root
        self.library = ready["nvml"]
        self.control = ready["ctl"]
        if self.library is None:
            raise RuntimeError("the simulator has no NVML library; build the package joulebook-hwsim-nvml")

    def serve(self, ports):
        """Starts the servers, each a process on one GPU with a metric page at its port."""
        for number, (replica, port) in enumerate(zip(settings.REPLICAS, ports)):
            self._ask(
                {
                    "op": "workload",
                    "add": {
                        "name": replica.name,
                        "pid": 1000 + number,
                        "cgroup": f"/system.slice/{replica.name}.service",
                        "cpu_millicores": 3000,
                        "memory_bytes": 32 * GIB,
                        "gpu": replica.gpu,
                        "sm_permille": replica.busy_permille,
                        "gpu_memory_bytes": replica.held_gib * GIB,
                        "model": settings.SIMULATED_MODEL,
                        "requests_per_kilosecond": replica.requests_per_kilosecond,
                        "prompt_tokens": 600,
                        "generated_tokens": 250,
                        "port": port,
                    },
                }
            )

    def _ask(self, request):
        with socket.socket(socket.AF_UNIX) as stream:
            stream.connect(self.control)
            stream.sendall(json.dumps(request).encode() + b"\n")
            answer = json.loads(stream.makefile().readline())
        if "error" in answer:
            raise RuntimeError(f"the simulator refuses {request}: {answer['error']}")
        return answer
