"""The program: an HTTP/1.1 proxy in front of one server that misbehaves on request (see control.py, rules.py).

    python -m tests.support.servers.fault_proxy --upstream 127.0.0.1:8080

prints one line of JSON, {"url": ..., "control": ...}, and runs until SIGTERM, SIGINT or end of file on its
standard input. Plain HTTP only. `hide_new` and `lose_put` look at the PUT of whole objects, not at listings.
Must never: touch a byte that no rule concerns.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import signal
import sys

from tests.support.servers.fault_proxy.control import Control
from tests.support.servers.fault_proxy.door import Door
from tests.support.servers.fault_proxy.ledger import Ledger
from tests.support.servers.fault_proxy.scenario import Scenario
from tests.support.servers.foreground import announce

HOST = "127.0.0.1"


async def serve(upstream: tuple[str, int], *, port: int, control_port: int) -> None:
    """Serve until told to end."""
    is_over = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, is_over.set)

    def listen_to_the_starter() -> None:
        if not os.read(0, 4096):
            loop.remove_reader(0)
            is_over.set()

    loop.add_reader(0, listen_to_the_starter)
    scenario, ledger = Scenario(), Ledger()
    door = Door(scenario, ledger, upstream=upstream, host=HOST, port=port)
    door.open()
    control = await asyncio.start_server(Control(scenario, ledger, door).serve, HOST, control_port)
    announce(url=door.url, control="http://{}:{}".format(*control.sockets[0].getsockname()), pid=os.getpid())
    gc.collect()
    gc.freeze()
    await is_over.wait()
    control.close()
    await door.close()


def main() -> int:
    """Parse the command line and serve; return the exit status."""
    parser = argparse.ArgumentParser(description="HTTP proxy with faults on request")
    parser.add_argument("--upstream", required=True, metavar="HOST:PORT", help="the server")
    parser.add_argument("--port", type=int, default=0, help="for clients (default: any free one)")
    parser.add_argument("--control", type=int, default=0, help="for orders (default: any free one)")
    options = parser.parse_args()
    host, _, port = options.upstream.rpartition(":")
    try:
        asyncio.run(serve((host, int(port)), port=options.port, control_port=options.control))
    except (OSError, ValueError) as error:
        print(f"fault_proxy: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
