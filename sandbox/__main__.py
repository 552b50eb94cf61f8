"""`python -m sandbox`: start the vendors' APIs on one local port."""

from __future__ import annotations

import argparse
import json
import socket
from collections.abc import Sequence

import uvicorn

from sandbox import faults, nivoda_market
from sandbox.app import build
from sandbox.clock import Clock, parse_instant
from sandbox.service import HangupProtocol
from sandbox.state import State

BACKLOG = 2048
KEEP_ALIVE_SECONDS = 75
DEFAULT_SEED = 7


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line. Exits with 2 when it is wrong."""
    parser = argparse.ArgumentParser(prog="python -m sandbox", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0: any free one, which is printed (default)")
    parser.add_argument("--now", type=parse_instant, help="the time it is to be, ISO 8601; it moves on from there")
    parser.add_argument("--seed", type=int, default=DEFAULT_SEED)
    parser.add_argument(
        "--faults", type=faults.load, default="demo", help="demo (default), none, a JSON list of rules, or its file"
    )
    parser.add_argument("--latency-ms", type=float, default=0.0, help="wait before every answer")
    parser.add_argument("--bench-events", type=int, default=0, help="add a Klaviyo account with that many events")
    parser.add_argument("--nivoda-natural", type=int, help="that many generated natural stones, not the real 53,940")
    parser.add_argument("--nivoda-lab", type=int, help="that many generated lab-grown stones")
    parser.add_argument("--log-level", default="warning", choices=("debug", "info", "warning", "error"))
    return parser.parse_args(arguments)


def nivoda_sizes(natural: int | None, lab: int | None) -> dict[str, int]:
    """The switches of Nivoda's market that the command line sets."""
    return {name: size for name, size in (("natural", natural), ("labgrown", lab)) if size is not None}


def create_server(state: State, log_level: str = "warning") -> uvicorn.Server:
    """A server for the state, not started; run it with an open socket."""
    config = uvicorn.Config(
        build(state),
        http=HangupProtocol,
        lifespan="off",
        log_level=log_level,
        access_log=log_level in ("debug", "info"),
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=1,
        server_header=False,
    )
    return uvicorn.Server(config)


def listen(host: str, port: int) -> socket.socket:
    """An open listening socket. Raises OSError when the port is taken."""
    return socket.create_server((host, port), backlog=BACKLOG)


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until interrupted."""
    options = parse_arguments(arguments)
    state = State.create(
        seed=options.seed,
        clock=Clock(options.now),
        faults=faults.Faults(options.faults, options.seed),
        latency=options.latency_ms / 1000,
        bench_events=options.bench_events,
        nivoda=nivoda_sizes(options.nivoda_natural, options.nivoda_lab),
    )
    if state.nivoda:
        nivoda_market.market_of(state)  # a large stock takes a second or two, which no first caller should wait
    listener = listen(options.host, options.port)
    host, port = listener.getsockname()[:2]
    print(json.dumps({"sandbox": f"http://{host}:{port}", "port": port, "seed": options.seed}), flush=True)
    create_server(state, options.log_level).run(sockets=[listener])


if __name__ == "__main__":
    main()
