#!/usr/bin/env bash
# Tells the Joulebook agent what a batch script has counted. Needs socat. Usage: report_inference.sh SOCKET
#
# socat only carries the lines: "parents": 1 says that the counts belong to the process above it, which is this script.
set -euo pipefail
socket=${1:?usage: report_inference.sh SOCKET}

coproc PUSH { exec socat STDIO "UNIX-CONNECT:$socket"; }

seq=0 items=0
for _ in 1 2 3; do
  items=$((items + 8)) # Here the work is done: a batch of 8.
  seq=$((seq + 1))
  printf '{"seq":%d,"cumulative":true,"model":"nightly","model_version":"7","parents":1,"items":%d}\n' \
    "$seq" "$items" >&"${PUSH[1]}"
  read -r answer <&"${PUSH[0]}"
  echo "$answer"
done
