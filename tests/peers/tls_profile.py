"""Has SSLyze (PyPI `sslyze`) look at the TLS of the peers' door.

Usage: tls_profile.py DOOR LEAF KEY

Prints JSON: the accepted suites of each version, whether sessions are resumed, and whether early data is taken.
"""

import json
import pathlib
import sys

from sslyze import (
    ClientAuthenticationCredentials,
    ScanCommand,
    Scanner,
    ServerNetworkConfiguration,
    ServerNetworkLocation,
    ServerScanRequest,
)

# SSL 2.0 is left out: what SSLyze speaks it with cannot load a P-256 key.
VERSIONS = ["ssl_3_0", "tls_1_0", "tls_1_1", "tls_1_2", "tls_1_3"]
COMMANDS = {getattr(ScanCommand, f"{v.upper()}_CIPHER_SUITES") for v in VERSIONS} | {
    ScanCommand.SESSION_RESUMPTION,
    ScanCommand.TLS_1_3_EARLY_DATA,
    ScanCommand.TLS_COMPRESSION,
}


def main(door, leaf, key):
    host, port = door.rsplit(":", 1)
    credentials = ClientAuthenticationCredentials(pathlib.Path(leaf), pathlib.Path(key))
    request = ServerScanRequest(
        ServerNetworkLocation(hostname=host, ip_address=host, port=int(port)),
        ServerNetworkConfiguration(tls_server_name_indication=host, tls_client_auth_credentials=credentials),
        scan_commands=COMMANDS,
    )
    scanner = Scanner()
    scanner.queue_scans([request])
    scanned = next(iter(scanner.get_results()))
    found = scanned.scan_result
    assert found is not None, f"no connection: {scanned.connectivity_error_trace}"

    def result(name):
        attempt = getattr(found, name)
        assert attempt.result is not None, f"{name}: {attempt.error_reason} {attempt.error_trace}"
        return attempt.result

    said = {
        version: [a.cipher_suite.name for a in result(f"{version}_cipher_suites").accepted_cipher_suites]
        for version in VERSIONS
    }
    resumption = result("session_resumption")
    said["resumed"] = {
        "id": resumption.session_id_resumption_result.name,
        "ticket": resumption.tls_ticket_resumption_result.name,
    }
    said["early_data"] = result("tls_1_3_early_data").supports_early_data
    print(json.dumps(said))


if __name__ == "__main__":
    main(*sys.argv[1:])
