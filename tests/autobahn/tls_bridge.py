#!/usr/bin/env python3
"""Passes on plain connections to a server with TLS, both on 127.0.0.1, for tools that do not speak TLS. Standard library only.

    tls_bridge.py CA-FILE PORT      prints "listening on 127.0.0.1:N", and runs until it is ended
"""

import asyncio
import ssl
import sys


async def copy(reader, writer):
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except (OSError, ssl.SSLError):
        pass
    finally:
        # A connection with TLS cannot be shut down in one direction here: it ends, and with it the other direction.
        writer.close()


async def bridge(reader, writer, port, context):
    try:
        inner_reader, inner_writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=context, server_hostname="localhost", limit=1 << 20)
    except OSError as error:
        print(f"the server cannot be reached: {error}", file=sys.stderr, flush=True)
        writer.close()
        return
    await asyncio.gather(copy(reader, inner_writer), copy(inner_reader, writer))


async def main(authority, port):
    context = ssl.create_default_context(cafile=authority)
    server = await asyncio.start_server(
        lambda reader, writer: bridge(reader, writer, port, context), "127.0.0.1", 0, limit=1 << 20)
    print(f"listening on 127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


asyncio.run(main(sys.argv[1], int(sys.argv[2])))
