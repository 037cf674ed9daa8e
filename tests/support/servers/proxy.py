"""Owns the tests' side of the fault proxy: start it in front of a server, tell it what shall go wrong.

The program is the package fault_proxy beside this file; its rules.py lists actions and selectors.
Must never: run the proxy in the process of the tests, whose threads would disturb it.
"""

from __future__ import annotations

import http.client
import json
import sys
import time
from typing import Any
from urllib.parse import urlsplit

from tests.support.servers.process import ServerProcess

ORDER_LIMIT_S = 30.0
SETTLE_LIMIT_S = 10.0


class FaultProxy:
    """A proxy in front of `upstream`, the URL of a server. Give clients `url` instead of the server's own.

    with FaultProxy(server.url) as proxy:
        proxy.settings(latency_ms=50, total_up=1_000_000)
        rule = proxy.rule("error", status=503, fraction=0.1, retry_after=1)
        proxy.rule("cut_response", at=0.5, how="rst", methods="GET", path="^/bucket/", first=3)
        proxy.stats()["requests"]  # {"GET 200": 17, "GET 200 cut": 3, "PUT 503": 2}
    """

    def __init__(self, upstream: str) -> None:
        address = urlsplit(upstream).netloc
        program = "tests.support.servers.fault_proxy"
        self._process = ServerProcess("the proxy", [sys.executable, "-m", program, "--upstream", address])
        self._is_running = False
        self._url = self._control = ""

    @property
    def url(self) -> str:
        """The address for clients; it stays the same over stop() and start()."""
        return self._url

    def start(self) -> FaultProxy:
        """Start the proxy; after stop() let clients in again."""
        if self._is_running:
            self._order("POST", "/open")
        else:
            facts = self._process.start()
            self._url, self._control = facts["url"], urlsplit(facts["control"]).netloc
            self._is_running = True
        return self

    def stop(self) -> None:
        """Let the store be gone: connections are cut, new ones refused; rules and statistics stay."""
        self._order("POST", "/shut")

    def close(self) -> None:
        """End the proxy. Raises ServerError where it had ended by itself."""
        self._is_running = False
        self._process.stop()

    def __enter__(self) -> FaultProxy:
        return self.start()

    def __exit__(self, *exc: object) -> None:
        self.close()

    def settings(self, **changes: float | None) -> dict[str, Any]:
        """Change latency_ms, jitter_ms, conn_up, conn_down, total_up, total_down (bytes per second) or seed.

        Raises ValueError for what makes no sense.
        """
        return dict(self._order("POST", "/settings", changes))

    def rule(self, action: str, **spec: Any) -> int:
        """Add a rule, return its number. Raises ValueError for one that makes no sense."""
        return int(self._order("POST", "/rules", {"action": action, **spec})["ids"][0])

    def remove(self, number: int) -> None:
        """Remove a rule. Raises ValueError where there is none of that number."""
        self._order("DELETE", f"/rules/{number}")

    def rules(self) -> list[dict[str, Any]]:
        """Return the rules, with the counters `seen` and `hits`."""
        return list(self._order("GET", "/")["rules"])

    def clear(self) -> None:
        """No faults any more; statistics and log begin anew."""
        self._order("POST", "/clear")

    def reset(self) -> None:
        """Let statistics, log and the counters of rules begin anew."""
        self._order("POST", "/reset")

    def stats(self) -> dict[str, Any]:
        """Return the sums: `requests` by method and outcome, `faults`, `total`, connections, bytes.

        A request counts when it is over on the proxy's side, which may be a moment after the client's.
        """
        return dict(self._order("GET", "/stats"))

    def settled_stats(self, total: int = 0) -> dict[str, Any]:
        """Return the sums when no request is under way and `total` have been; AssertionError if that never is."""
        deadline = time.monotonic() + SETTLE_LIMIT_S
        while (stats := self.stats())["active"] or stats["total"] < total:
            assert time.monotonic() < deadline, f"requests do not end: {stats}"
            time.sleep(0.01)
        return stats

    def log(self) -> list[dict[str, Any]]:
        """Return the last requests: time, seconds, method, target, status, up, down (bytes), fault."""
        return list(self._order("GET", "/log"))

    def _order(self, method: str, path: str, argument: object = None) -> Any:
        connection = http.client.HTTPConnection(self._control, timeout=ORDER_LIMIT_S)
        try:
            connection.request(method, path, body=None if argument is None else json.dumps(argument))
            answer = connection.getresponse()
            content = json.loads(answer.read())
        finally:
            connection.close()
        if answer.status != 200:
            raise ValueError(content["error"])
        return content
