"""`python -m bench.delay HOST:PORT MILLISECONDS`: a TCP proxy that makes a database far away; prints its port."""

from __future__ import annotations

import asyncio
import sys
from contextlib import suppress

CHUNK = 2**16


async def serve(host: str, port: int, seconds: float) -> None:
    """Pass bytes on, `seconds` late in each direction."""

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        waiting: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

        async def write() -> None:
            while True:
                due, data = await waiting.get()
                await asyncio.sleep(max(0.0, due - loop.time()))
                if not data:
                    break
                writer.write(data)
            writer.close()

        writing = asyncio.create_task(write())
        with suppress(ConnectionError):
            while data := await reader.read(CHUNK):
                waiting.put_nowait((loop.time() + seconds, data))
        waiting.put_nowait((loop.time() + seconds, b""))
        await writing

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(host, port)
        await asyncio.gather(carry(reader, far_writer), carry(far_reader, writer))

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    target, _, number = sys.argv[1].partition(":")
    asyncio.run(serve(target, int(number), float(sys.argv[2]) / 2000))
