#!/usr/bin/env python3
"""A TCP proxy on 127.0.0.1 that delays what it carries, each piece by up to MAX_DELAY_MS. `Lobbyd` starts it in front of a server.

    tests/clients/delaying_proxy.py PORT MAX_DELAY_MS

Order within a connection stays; between connections it changes all the time. A check that reads one client right after something that
another one did passes on a quiet machine and fails behind this proxy. Prints its own port. Ends at the end of its input.
Standard library only.
"""

import asyncio
import os
import random
import resource
import socket
import struct
import subprocess
import sys

PIECE = 16 * 1024


def reset(writer):
    sock = writer.get_extra_info("socket")
    if not writer.is_closing():
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def carry(reader, writer, max_delay):
    while piece := await reader.read(PIECE):
        await asyncio.sleep(random.random() * max_delay)
        writer.write(piece)
        await writer.drain()
    await asyncio.sleep(random.random() * max_delay)
    writer.write_eof()


async def join(client, client_writer, port, max_delay):
    """Carries one connection until both sides have ended it, or one has reset it."""
    writers = [client_writer]
    try:
        server, server_writer = await asyncio.open_connection("127.0.0.1", port, limit=PIECE)
        writers.append(server_writer)
        for writer in writers:
            # Little is stored on the way: a client that does not read is noticed as without the proxy, if somewhat later.
            writer.transport.set_write_buffer_limits(0)
        async with asyncio.TaskGroup() as both:
            both.create_task(carry(client, server_writer, max_delay))
            both.create_task(carry(server, client_writer, max_delay))
    except* OSError:
        # A reset takes its time too, or others would never be seen before it.
        await asyncio.sleep(random.random() * max_delay)
        for writer in writers:
            reset(writer)
    finally:
        for writer in writers:
            writer.close()


async def main(port, max_delay):
    # Otherwise nothing but a weak reference may be left of a task that waits for both sides, and it is deleted with its connection.
    connections = set()

    async def accept(reader, writer):
        task = asyncio.current_task()
        connections.add(task)
        try:
            await join(reader, writer, port, max_delay)
        finally:
            connections.discard(task)

    server = await asyncio.start_server(accept, "127.0.0.1", 0, limit=PIECE, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.read)
    os._exit(0)


class DelayingProxy:
    """The process, in front of a port."""

    def __init__(self, port, max_delay_ms):
        self._process = subprocess.Popen([sys.executable, "-B", os.path.abspath(__file__), str(port), str(max_delay_ms)],
                                         stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.port = int(self._process.stdout.readline())

    def close(self):
        self._process.communicate()


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    asyncio.run(main(int(sys.argv[1]), float(sys.argv[2]) / 1000))
