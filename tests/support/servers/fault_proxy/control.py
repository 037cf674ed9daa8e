"""Owns the second port of the proxy, where it is told what shall go wrong, in JSON.

    GET    /            settings, rules and statistics
    GET    /stats       statistics                      GET  /log     the last requests
    POST   /settings    change some settings
    POST   /rules       add a rule, or a list of rules; the answer has their numbers
    DELETE /rules       remove all rules                DELETE /rules/N  remove one
    POST   /reset       statistics, log and the counters of rules begin anew
    POST   /clear       that, and no faults any more
    POST   /shut        refuse connections              POST /open    accept them again

Must never: change anything when the order makes no sense.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any

from tests.support.servers.fault_proxy.door import Door
from tests.support.servers.fault_proxy.ledger import Ledger
from tests.support.servers.fault_proxy.rules import RuleError
from tests.support.servers.fault_proxy.scenario import Scenario


class Control:
    """Carries out orders."""

    def __init__(self, scenario: Scenario, ledger: Ledger, door: Door) -> None:
        self._scenario = scenario
        self._ledger = ledger
        self._door = door
        self._orders: dict[tuple[str, str], Callable[[Any], Awaitable[object]]] = {
            ("GET", ""): self._everything,
            ("GET", "stats"): self._statistics,
            ("GET", "log"): self._log,
            ("POST", "settings"): self._change,
            ("POST", "rules"): self._add,
            ("DELETE", "rules"): self._remove,
            ("POST", "reset"): self._reset,
            ("POST", "clear"): self._clear,
            ("POST", "shut"): self._shut,
            ("POST", "open"): self._open,
        }

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry out one order, then close the connection."""
        try:
            method, path, body = await _read_order(reader)
            status, answer = await self._carry_out(method, path.strip("/"), body)
            text = json.dumps(answer).encode()
            head = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nContent-Type: application/json\r\n"
            writer.write(f"{head}Content-Length: {len(text)}\r\nConnection: close\r\n\r\n".encode() + text)
            await writer.drain()
        except (OSError, ValueError, asyncio.IncompleteReadError):
            pass  # who does not speak HTTP, or does not wait for the answer, gets none
        finally:
            writer.close()

    async def _carry_out(self, method: str, path: str, body: bytes) -> tuple[int, object]:
        name, _, number = path.partition("/")
        order = self._orders.get((method, name))
        if order is None or (number and (method, name) != ("DELETE", "rules")):
            return 404, {"error": f"there is no {method} /{path}"}
        try:
            return 200, await order(int(number) if number else json.loads(body or b"{}"))
        except (RuleError, ValueError, TypeError, AttributeError) as error:
            return 400, {"error": str(error)}

    async def _everything(self, _: object) -> object:
        return {
            "settings": dataclasses.asdict(self._scenario.settings),
            "rules": [rule.describe() for rule in self._scenario.rules],
            "stats": self._ledger.statistics(),
        }

    async def _statistics(self, _: object) -> object:
        return self._ledger.statistics()

    async def _log(self, _: object) -> object:
        return self._ledger.log()

    async def _change(self, changes: dict[str, Any]) -> object:
        self._scenario.change(changes)
        return dataclasses.asdict(self._scenario.settings)

    async def _add(self, specs: Any) -> object:
        return {"ids": self._scenario.add(specs if isinstance(specs, list) else [specs])}

    async def _remove(self, number: object) -> object:
        self._scenario.remove(number if isinstance(number, int) else None)
        return {}

    async def _reset(self, _: object) -> object:
        self._ledger.reset()
        self._scenario.reset_counters()
        return {}

    async def _clear(self, _: object) -> object:
        self._scenario.clear()
        self._ledger.reset()
        return {}

    async def _shut(self, _: object) -> object:
        await self._door.shut()
        return {}

    async def _open(self, _: object) -> object:
        self._door.open()
        return {}


async def _read_order(reader: asyncio.StreamReader) -> tuple[str, str, bytes]:
    method, target, _ = (await reader.readline()).decode("latin1").split(" ", 2)
    length = 0
    while (line := await reader.readline()).strip():
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-length":
            length = int(value)
    return method, target.partition("?")[0], await reader.readexactly(length)
