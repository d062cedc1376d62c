"""CodeCarbon measures the CPU of this machine for argv[1] seconds; prints what it says as one line of JSON.

Its own code does all of the measuring. Beside it, the instants are noted at which it takes its first and its last
reading, on CLOCK_MONOTONIC, so that the truth of the same time can be asked for.
"""
import json
import sys
import time

from codecarbon import OfflineEmissionsTracker
from codecarbon.core.rapl import RAPLFile

instants = {"first": None, "last": None}


def noting(method, key):
    def noted(self, *arguments):
        result = method(self, *arguments)
        instants[key] = time.monotonic_ns()
        return result

    return noted


RAPLFile.start = noting(RAPLFile.start, "first")
RAPLFile.delta = noting(RAPLFile.delta, "last")

tracker = OfflineEmissionsTracker(
    country_iso_code="DEU",
    measure_power_secs=1,
    tracking_mode="machine",
    save_to_file=False,
    allow_multiple_runs=True,
    log_level="error",
)
tracker.start()
time.sleep(float(sys.argv[1]))
tracker.stop()
said = {
    "microjoules": round(tracker.final_emissions_data.cpu_energy * 3.6e12),
    "files": sorted(file.path for hardware in tracker._hardware for file in getattr(
        getattr(hardware, "_intel_interface", None), "_rapl_files", [])),
    **instants,
}
print(json.dumps(said))
