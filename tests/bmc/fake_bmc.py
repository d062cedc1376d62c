"""A BMC over RMCP+ that knows DCMI's power reading: pyghmi's emulator with one command more.

usage: fake_bmc.py RESPONSE_HEX    Prints its port, and answers on 127.0.0.1 until its input ends.
"""
import os
import sys
import threading

from pyghmi.ipmi import bmc


class PowerMeter(bmc.Bmc):
    """Answers Get Power Reading (netfn 2C, command 02) with the given bytes, completion code first."""

    response = bytes.fromhex(sys.argv[1])

    def handle_raw_request(self, request, session):
        data = bytes(request["data"])
        if request["netfn"] == 0x2C and request["command"] == 2 and data[:2] == b"\xdc\x01":
            session.send_ipmi_response(code=self.response[0], data=list(self.response[1:]))
        else:
            super().handle_raw_request(request, session)


def end_with_input():
    sys.stdin.read()
    os._exit(0)


meter = PowerMeter({"admin": "secret"}, port=0, address="127.0.0.1")
# Sessions are found by the port that the kernel chose.
meter.port = meter.serversocket.getsockname()[1]
threading.Thread(target=end_with_input, daemon=True).start()
print(meter.port, flush=True)
meter.listen()
