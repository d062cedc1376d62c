"""EcoLogits' own figures of requests: a list of cases on standard input, their results on standard output, both JSON."""

import json
import sys

from ecologits.impacts.llm import compute_llm_impacts_dag

FIELDS = ("request_energy", "request_it_energy", "request_usage_gwp", "request_embodied_gwp", "request_usage_adpe",
          "request_usage_pe", "request_usage_wcf")

results = [compute_llm_impacts_dag(**case) for case in json.load(sys.stdin)]
json.dump([{field: result[field] for field in FIELDS} for result in results], sys.stdout)
