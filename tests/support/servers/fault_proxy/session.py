"""Owns one client connection: reads its requests, lets the rules decide, has them passed on or answers itself.

Must never: let one misbehaving client harm another's requests.
"""

from __future__ import annotations

import asyncio
import hashlib
import socket
from collections.abc import Callable

from tests.support.servers.fault_proxy.ledger import Exchange, Ledger
from tests.support.servers.fault_proxy.messages import (
    BadMessageError,
    ChunkedBody,
    FixedBody,
    TruncatedError,
)
from tests.support.servers.fault_proxy.peer import Peer
from tests.support.servers.fault_proxy.relay import NoServerError, Relay
from tests.support.servers.fault_proxy.replies import compose, error_body
from tests.support.servers.fault_proxy.rules import Corrupt, CutRequest, Error, Latency, LosePut, Rule, Stall
from tests.support.servers.fault_proxy.scenario import Scenario
from tests.support.servers.fault_proxy.stream import CutError, take


class Session:
    """One client connection, with a connection to the server of its own."""

    def __init__(
        self, scenario: Scenario, ledger: Ledger, upstream: tuple[str, int], connection: socket.socket
    ) -> None:
        self._scenario = scenario
        self._ledger = ledger
        self._client = Peer(asyncio.get_running_loop(), connection, "client")
        lanes = scenario.lanes()
        self._up = lanes[0]
        self._relay = Relay(scenario, self._client, upstream, lanes)
        self._exchange: Exchange | None = None
        self._ending = "fin"
        self._task = asyncio.create_task(self._run())

    @property
    def task(self) -> asyncio.Task[None]:
        """The task of this session."""
        return self._task

    def end_if_abandoned(self) -> None:
        """End a request whose client has hung up: while it is with the server, nobody reads from the client."""
        exchange = self._exchange
        if exchange is not None and not exchange.is_answered and self._client.has_hung_up():
            exchange.mishap = exchange.mishap or "client-gone"
            self._task.cancel()

    def cut(self) -> None:
        """Cut the connection with a reset, whatever is going on."""
        if self._exchange is not None:
            self._exchange.mishap = self._exchange.mishap or "shut"
        self._ending = "rst"
        self._task.cancel()

    async def _run(self) -> None:
        self._ledger.connected()
        try:
            while await self._serve_one():
                pass
        except (TruncatedError, OSError):
            pass  # the end of a connection between two requests
        finally:
            self._ledger.open_connections -= 1
            self._client.close(self._ending)
            self._relay.close()

    async def _serve_one(self) -> bool:
        """Serve a request; return whether the connection can be used again."""
        try:
            head = await self._client.read_head()
            if head is None:
                return False
            if len(head.start) != 3:
                raise BadMessageError("bad request line")
            exchange = Exchange(head, head.announced_body() or FixedBody(0))
        except BadMessageError as error:
            await self._client.send(compose(400, {}, str(error).encode(), bodiless=False, close=True))
            return False
        self._exchange = exchange
        self._ledger.begin()
        try:
            return await self._serve(exchange)
        except CutError as cut:
            self._client.close(cut.how)
            exchange.mishap = "cut"
        except TruncatedError as error:
            exchange.mishap = f"{error.side}-gone"
        except OSError:
            exchange.mishap = "client-gone"
        except BadMessageError:
            exchange.mishap = "malformed"
        except asyncio.CancelledError:
            exchange.mishap = exchange.mishap or "shut"
            raise
        finally:
            self._exchange = None
            self._ledger.end(exchange)
        return False

    async def _serve(self, exchange: Exchange) -> bool:
        scenario = self._scenario
        method, target, size = exchange.method, exchange.target, exchange.body.length
        rules = scenario.rules_for(answers=False)
        wait_s = scenario.latency_s(rules, method=method, target=target, size=size)
        rule = next(
            (
                rule
                for rule in rules
                if _concerns(rule, exchange) and rule.strikes(scenario.rng, method=method, target=target, size=size)
            ),
            None,
        )
        if wait_s > 0:
            await asyncio.sleep(wait_s)
        if method in ("GET", "HEAD") and scenario.is_hidden(exchange.path):
            exchange.fault = "hide_new"
            return await self._answer_error(exchange, 404)
        try:
            if rule is None:
                return await self._relay.pass_on(exchange)
            exchange.fault = rule.name
            return await self._strike(exchange, rule)
        except NoServerError as error:
            await self._swallow(exchange)
            return await self._answer_error(exchange, 502, message=str(error))

    async def _strike(self, exchange: Exchange, rule: Rule) -> bool:
        match rule.action:
            case Error() as error:
                if error.forward:
                    await self._relay.pass_on(exchange, discard_answer=True)
                elif error.when == "after":
                    await self._swallow(exchange)
                return await self._answer_error(
                    exchange, error.status, code=error.code, message=error.message, retry_after=error.retry_after
                )
            case LosePut():
                return await self._lose(exchange)
            case CutRequest() | Corrupt() | Stall() as action:
                tamper = self._scenario.tamper(action, exchange.body.length)
                return await self._relay.pass_on(exchange, tamper)
        raise AssertionError(f"{rule.name} is no matter of requests")

    async def _swallow(
        self, exchange: Exchange, sink: Callable[[bytes | memoryview], object] | None = None
    ) -> None:
        """Read the request's body, and pass it on to nobody but `sink`."""
        if not exchange.body.is_done and exchange.awaits_continue:
            await self._client.send(b"HTTP/1.1 100 Continue\r\n\r\n")
            exchange.awaits_continue = False
        while not exchange.body.is_done:
            data, spans = await take(self._client, exchange.body, self._up, exchange.up)
            if sink is not None:
                for start, stop in spans:
                    sink(data[start:stop])

    async def _lose(self, exchange: Exchange) -> bool:
        """Pretend to have stored an object."""
        digest = hashlib.md5()
        inner = ChunkedBody()

        def unwrap(data: bytes | memoryview) -> None:
            if not inner.is_done:
                for start, stop in inner.feed(data)[1]:
                    digest.update(data[start:stop])

        is_wrapped = exchange.head.fields.get(b"x-amz-content-sha256", b"").startswith(b"STREAMING-")
        await self._swallow(exchange, unwrap if is_wrapped else digest.update)
        etag = digest.hexdigest()
        if exchange.speaks_swift:
            return await self._answer(exchange, 201, {"Etag": etag}, b"")
        return await self._answer(exchange, 200, {"ETag": f'"{etag}"'}, b"")

    async def _answer_error(
        self,
        exchange: Exchange,
        status: int,
        *,
        code: str | None = None,
        message: str | None = None,
        retry_after: float | str | None = None,
    ) -> bool:
        kind, body = error_body(status, swift=exchange.speaks_swift, code=code, message=message)
        fields = {"Content-Type": kind}
        if retry_after is not None:
            fields["Retry-After"] = str(retry_after)
        return await self._answer(exchange, status, fields, body)

    async def _answer(self, exchange: Exchange, status: int, fields: dict[str, str], body: bytes) -> bool:
        # a client that waits to be told to go on will not send its body any more
        is_read = exchange.body.is_done or (exchange.awaits_continue and not self._client.is_stale())
        close = not is_read or exchange.wants_close
        exchange.status = status
        exchange.down.bytes += len(body)
        await self._client.send(compose(status, fields, body, bodiless=exchange.method == "HEAD", close=close))
        if not is_read:
            exchange.is_answered = True
            await self._client.say_goodbye()
        return not close


def _concerns(rule: Rule, exchange: Exchange) -> bool:
    match rule.action:
        case Latency():
            return False
        case CutRequest() | Corrupt() | Stall():
            return not exchange.body.is_done
        case LosePut():
            return exchange.is_object and b"x-amz-copy-source" not in exchange.head.fields
    return True
