"""What DMTF's own Redfish client reads of a BMC. usage: read_redfish.py URL CA_FILE USER PASSWORD

Prints one JSON object: the watts of each chassis by the resource that shows them.
"""
import json
import sys

import redfish

url, authority, user, password = sys.argv[1:]
client = redfish.redfish_client(base_url=url, username=user, password=password, cafile=authority, default_prefix="/redfish/v1")
client.login(auth="session")
try:
    watts = {}
    for member in client.get("/redfish/v1/Chassis").dict["Members"]:
        chassis = client.get(member["@odata.id"]).dict
        if "EnvironmentMetrics" in chassis:
            uri = chassis["EnvironmentMetrics"]["@odata.id"]
            watts[uri] = client.get(uri).dict["PowerWatts"]["Reading"]
        if "Power" in chassis:
            uri = chassis["Power"]["@odata.id"]
            watts[uri] = client.get(uri).dict["PowerControl"][0]["PowerConsumedWatts"]
finally:
    client.logout()
print(json.dumps(watts))
