"""Serves one GGUF file with llama.cpp's own HTTP server, as an operator would: metrics on, one thread.

Usage: serve.py PATH PORT ALIAS      prints "listening on ADDRESS" when ready and stops with its parent or on SIGTERM
"""

import ctypes
import os
import signal
import sys

import xllamacpp

PR_SET_PDEATHSIG = 1


def main(path, port, alias):
    """Starts the server and waits for a signal."""
    # The demo may be killed: a server without a parent would go on using CPU and a port.
    parent = os.getppid()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        return
    params = xllamacpp.CommonParams()
    params.model.path = path
    params.model_alias = {alias}
    params.hostnames = ["127.0.0.1"]
    params.port = port
    params.endpoint_metrics = True
    params.n_ctx = 2048
    params.n_parallel = 2
    params.warmup = False
    params.cpuparams.n_threads = 1
    server = xllamacpp.Server(params)
    print("listening on", server.listening_address, flush=True)
    while True:
        # SIGTERM ends the process at once: there is no state to save, and llama.cpp joins its threads slowly.
        signal.pause()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
