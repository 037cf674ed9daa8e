"""Owns the connection to the server that belongs to one client: passes requests on, and their answers back.

Bytes go through as they come, the Host field too (signatures cover it), except for what a rule changes.
Must never: answer by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
from email.utils import formatdate, parsedate_to_datetime

from tests.support.servers.fault_proxy.ledger import Exchange
from tests.support.servers.fault_proxy.messages import (
    BadMessageError,
    Body,
    FixedBody,
    Head,
    OpenBody,
    TruncatedError,
)
from tests.support.servers.fault_proxy.peer import Peer, connect
from tests.support.servers.fault_proxy.rules import Corrupt, CutResponse, HideNew, Rule, SkewDate, Stall
from tests.support.servers.fault_proxy.scenario import Scenario
from tests.support.servers.fault_proxy.stream import CutError, Lane, Tamper, discard, take, transfer

SMALL_BODY_BYTES = 128 << 10  # collected and sent along with the head
AFTERMATH_S = 0.2  # for the rest of a request that is answered already


class NoServerError(Exception):
    """The server cannot be reached, or closed the connection instead of answering."""


class Pump:
    """Sends a large request while its answer is waited for: servers may answer early."""

    def __init__(self, client: Peer, server: Peer, exchange: Exchange, lane: Lane, tamper: Tamper | None) -> None:
        self.cut: str | None = None
        self.error: Exception | None = None
        self.client_is_gone = False
        self._server = server
        self._task = asyncio.create_task(self._run(client, exchange, lane, tamper))

    async def _run(self, client: Peer, exchange: Exchange, lane: Lane, tamper: Tamper | None) -> None:
        try:
            await self._server.send(exchange.head.raw)
            await transfer(client, self._server, exchange.body, lane=lane, flow=exchange.up, tamper=tamper)
        except CutError as cut:
            self.cut = cut.how
            self._server.wake()  # and with it the one who waits for the answer
        except (TruncatedError, BadMessageError) as error:
            self.error = error
            self.client_is_gone = True
            self._server.wake()
        except OSError as error:
            self.error = error  # the server wants no more of it, there may be an answer

    @property
    def is_done(self) -> bool:
        """Whether everything is sent, or nothing more will be."""
        return self._task.done()

    async def wait(self, limit_s: float | None = None) -> None:
        """Wait until it is done."""
        await asyncio.wait([self._task], timeout=limit_s)

    async def stop(self) -> None:
        """End it: no socket may be closed while the pump waits for it."""
        if not self.is_done:
            self.error = self.error or TimeoutError()
            self._task.cancel()
            await self.wait()


class Relay:
    """The server's side of one client connection."""

    def __init__(
        self, scenario: Scenario, client: Peer, address: tuple[str, int], lanes: tuple[Lane, Lane]
    ) -> None:
        self._scenario = scenario
        self._client = client
        self._address = address
        self._up, self._down = lanes
        self._server: Peer | None = None
        self._is_spent = False  # the connection to the server cannot be used again

    def close(self) -> None:
        """Drop the connection to the server, if there is one."""
        if self._server is not None:
            self._server.close()
            self._server = None

    async def _connect(self) -> Peer:
        try:
            self._server = await connect(asyncio.get_running_loop(), self._address)
        except OSError as error:
            raise NoServerError(str(error)) from None
        return self._server

    async def pass_on(
        self, exchange: Exchange, tamper: Tamper | None = None, *, discard_answer: bool = False
    ) -> bool:
        """Pass a request on, and its answer back unless that is discarded.

        Returns whether the client's connection can be used again. Raises NoServerError where there is no
        answer, CutError where a rule wants that, TruncatedError where somebody hung up.
        """
        server, is_reused = self._server, True
        if server is None or server.is_stale():
            self.close()
            server, is_reused = await self._connect(), False
        self._is_spent = False
        pump: Pump | None = None
        try:
            small = await self._find_small_request(exchange, tamper)
            if small is not None:
                answer = await self._ask(server, small, may_be_stale=is_reused)
            else:
                pump = Pump(self._client, server, exchange, self._up, tamper)
                answer = await _find_head(server)
            return await self._pass_back(exchange, answer, pump, discard_answer=discard_answer)
        finally:
            if pump is not None:
                await pump.stop()
            if self._is_spent:
                self.close()

    async def _find_small_request(self, exchange: Exchange, tamper: Tamper | None) -> bytes | None:
        body = exchange.body
        if body.is_done:
            return exchange.head.raw
        if tamper or exchange.awaits_continue or body.length is None or body.length > SMALL_BODY_BYTES:
            return None
        parts = [exchange.head.raw]
        while not body.is_done:
            data, _ = await take(self._client, body, self._up, exchange.up)
            parts.append(bytes(data))
        return b"".join(parts)

    async def _ask(self, server: Peer, request: bytes, *, may_be_stale: bool) -> Head | None:
        answer = await _send_and_find_head(server, request)
        if answer is None and may_be_stale:  # an idle connection may end just when it is used again
            self.close()
            answer = await _send_and_find_head(await self._connect(), request)
        return answer

    async def _pass_back(
        self, exchange: Exchange, answer: Head | None, pump: Pump | None, *, discard_answer: bool
    ) -> bool:
        server = self._server
        assert server is not None
        answer = await self._final_answer(exchange, answer, pump, server)
        status = answer.status()
        body: Body = FixedBody(0)
        if exchange.method != "HEAD" and status not in (204, 304):
            body = answer.announced_body() or OpenBody()
        is_last = body.ends_with_connection or answer.wants_close(answer.start[0])
        self._is_spent = is_last
        if discard_answer:
            await discard(server, body, lane=self._down, flow=exchange.down)
            if pump is not None:
                await pump.wait()
            return True
        answer, tamper = self._struck(exchange, answer, body)
        exchange.status = status
        await self._send_answer(exchange, server, answer, body, tamper)
        can_go_on = not is_last and not exchange.wants_close
        if pump is not None and not pump.is_done:
            if exchange.awaits_continue and not exchange.up.bytes:
                self._is_spent = True  # the client was told not to send its body, the server waits for it
                return can_go_on
            await pump.wait(AFTERMATH_S)
            await pump.stop()
        if pump is not None and pump.error is not None:
            self._is_spent = True
            exchange.is_answered = True
            await self._client.say_goodbye()
            return False
        return can_go_on

    async def _final_answer(self, exchange: Exchange, answer: Head | None, pump: Pump | None, server: Peer) -> Head:
        """Pass interim answers on, and return the final one."""
        while answer is not None and answer.status() < 200:
            if answer.status() == 100:
                exchange.awaits_continue = False
            await self._client.send(answer.raw)
            answer = await _find_head(server)
        if pump is not None and pump.cut:
            raise CutError(pump.cut)
        if answer is None:
            self._is_spent = True
            if pump is None:
                raise NoServerError("the server closed the connection")
            raise TruncatedError("client" if pump.client_is_gone else "server")
        return answer

    def _struck(self, exchange: Exchange, answer: Head, body: Body) -> tuple[Head, Tamper | None]:
        """Apply the rules for answers: return the head to send, and what to do to the body."""
        scenario = self._scenario
        is_success = 200 <= answer.status() < 300
        for rule in scenario.rules_for(answers=True):
            if not _concerns(rule, exchange, body, is_success=is_success) or not rule.strikes(
                scenario.rng, method=exchange.method, target=exchange.target, size=body.length
            ):
                continue
            match rule.action:
                case HideNew(seconds=seconds):
                    scenario.hide(exchange.path, seconds)
                    continue
                case SkewDate(seconds=seconds):
                    exchange.fault = exchange.fault or rule.name
                    answer = _skewed(answer, seconds)
                    continue
                case CutResponse(at="start", how=how):
                    exchange.fault = rule.name
                    raise CutError(how)
                case CutResponse() | Corrupt() | Stall() as action:
                    exchange.fault = rule.name
                    return answer, scenario.tamper(action, body.length)
        return answer, None

    async def _send_answer(
        self, exchange: Exchange, server: Peer, answer: Head, body: Body, tamper: Tamper | None
    ) -> None:
        head = answer.raw
        if tamper is None and isinstance(body, FixedBody) and len(server.rest) >= (body.length or 0):
            # all of it is here already: one packet
            while not body.is_done:
                data, _ = await take(server, body, self._down, exchange.down)
                head += data
        await self._client.send(head)
        await transfer(server, self._client, body, lane=self._down, flow=exchange.down, tamper=tamper)


async def _find_head(server: Peer) -> Head | None:
    try:
        return await server.read_head()
    except (OSError, TruncatedError):
        return None


async def _send_and_find_head(server: Peer, request: bytes) -> Head | None:
    with contextlib.suppress(OSError):
        await server.send(request)
    return await _find_head(server)


def _concerns(rule: Rule, exchange: Exchange, body: Body, *, is_success: bool) -> bool:
    match rule.action:
        case HideNew():
            return is_success and exchange.is_object
        case SkewDate() | CutResponse(at="start"):
            return True
    return is_success and not body.is_done


def _skewed(answer: Head, seconds: float) -> Head:
    date = answer.fields.get(b"date")
    if date is None:
        return answer
    then_s = parsedate_to_datetime(date.decode("latin1")).timestamp()
    return answer.with_field(b"Date", formatdate(then_s + seconds, usegmt=True).encode())
