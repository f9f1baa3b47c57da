"""Says everything back on every connection, thousands at once.

Usage: echo.py HOST PORT
"""

import asyncio
import sys


class Echo(asyncio.Protocol):
    """One connection, without buffers of its own while it is idle."""

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, octets):
        self.transport.write(octets)


async def main(host, port):
    server = await asyncio.get_running_loop().create_server(Echo, host, int(port), backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    try:
        asyncio.run(main(*sys.argv[1:]))
    except KeyboardInterrupt:
        pass
