"""CodeCarbon's watts of machines without sensors: a list of cases on standard input, [cpu, memory] on standard output, both JSON.

A load of null is the mode in which it knows none."""

import json
import sys
from types import SimpleNamespace

from codecarbon.external.hardware import CPU, MODE_CPU_LOAD
from codecarbon.external.ram import RAM


def watts(case):
    mode = "constant" if case["load"] is None else MODE_CPU_LOAD
    cpu = CPU(output_dir=".", mode=mode, model="any", tdp=case["tdp_watts"])
    # What the machine is doing now is not what is asked.
    cpu._cpu_load_meter = SimpleNamespace(percent=lambda: 100.0 * (case["load"] or 0.0))
    ram = RAM()
    ram.is_arm_cpu = False
    return [cpu._get_power_from_cpus().W, ram._calculate_ram_power(case["memory_gigabytes"])]


json.dump([watts(case) for case in json.load(sys.stdin)], sys.stdout)
