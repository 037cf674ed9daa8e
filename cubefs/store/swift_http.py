"""HTTP connections to a Swift cluster for swiftclient's functions, and what the failures of both mean.

Must never: retry, follow a redirection, or let a library's exception, log line or a secret out.
"""

from __future__ import annotations

import contextlib
import http.client
import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import urllib3.exceptions
from keystoneauth1 import exceptions as keystone
from swiftclient import client
from swiftclient.exceptions import ClientException

from cubefs.errors import StoreError, StoreUnavailableError, StoreUnsuitableError
from cubefs.model import MIB
from cubefs.store import answers
from cubefs.store.pace import PART_BYTES

CONNECT_TIMEOUT_S = 8.0  # also for sending one part of a body: urllib3 sends under the same limit
READ_TIMEOUT_S = 60.0  # without a byte; a proxy server waits that long for its own disks

IDLE_MAX_COUNT = 32  # connections kept: as many as ever call at once
IDLE_MAX_S = 50.0  # servers and balancers commonly close after 60 s

# Ten thousand names of a listing, 1024 bytes each and escaped, are the longest answer but for an object.
ANSWER_MAX_BYTES = 64 * MIB

RATE_LIMITED = 498  # how Swift's ratelimit middleware said 429

# Swift marks every answer with one of these, whatever it says; what stands before it does not.
MARKS = ("X-Trans-Id", "X-Openstack-Request-Id")

# What gateways may say for themselves, and mean: the other statuses speak of objects, as only Swift can.
_OF_ANYBODY = frozenset({401, 403, 407, 408, 413, 429, 498, 499})

_NONSENSE = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError)  # of an odd answer, taken apart
_NO_TLS = frozenset({"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNKNOWN_PROTOCOL", "RECORD_LAYER_FAILURE"})


def silence() -> None:
    """Keep the libraries' logs from the terminal, and secrets out of every log, whoever listens.

    swiftclient logs each request as a curl command, at INFO, with the first characters of token and key.
    """
    client.logger_settings["redact_sensitive_headers"] = True
    client.logger_settings["reveal_sensitive_prefix"] = 0
    for name in ("swiftclient", "keystoneauth", "keystoneclient", "urllib3"):
        logger = logging.getLogger(name)
        if not any(isinstance(handler, logging.NullHandler) for handler in logger.handlers):
            logger.addHandler(logging.NullHandler())


class NotSwiftError(Exception):
    """Somebody else has answered where Swift did before: a gateway, with a page of its own."""

    def __init__(self, status: int) -> None:
        """status: of the answer."""
        super().__init__(f"status {status}")
        self.status = status


class Link:
    """One connection, used by one thread at a time: what swiftclient's functions take for theirs."""

    def __init__(self, url: str, *, cacert: str | None, hear: Callable[[Any], None]) -> None:
        """Prepare a connection to the host of `url`; the first request opens it. `hear` is told every answer."""
        self._hear = hear
        self.host = urlsplit(url).netloc
        self.idle_since_s = 0.0
        _, self._connection = client.http_connection(
            url, cacert=cacert, timeout=(CONNECT_TIMEOUT_S, READ_TIMEOUT_S)
        )
        self._connection.requests_args["allow_redirects"] = False  # the token is for this host only
        for adapter in self._connection.request_session.adapters.values():
            adapter.poolmanager.connection_pool_kw["blocksize"] = PART_BYTES  # urllib3's 16 KiB cost twice the CPU

    def pair(self, url: str) -> tuple[Any, Link]:
        """Return the `http_conn` argument of swiftclient's functions, for requests below `url`."""
        return urlsplit(url), self

    def request(self, method: str, path: str, data: Any = None, headers: Any = None) -> Any:
        """Send a request, as swiftclient's connection does."""
        return self._connection.request(method, path, data, headers)

    def putrequest(self, path: str, data: Any = None, headers: Any = None) -> Any:
        """Send a PUT, as swiftclient's connection does."""
        return self._connection.request("PUT", path, data, headers)

    def getresponse(self) -> Any:
        """Return the answer; reading it without an amount is bounded by ANSWER_MAX_BYTES."""
        response = self._connection.getresponse()
        self._hear(response)
        read: Callable[[int], bytes] = response.read

        def read_bounded(amount: int | None = None) -> bytes:
            data = read(ANSWER_MAX_BYTES + 1 if amount is None else amount)
            if amount is None and len(data) > ANSWER_MAX_BYTES:
                raise ValueError(f"an answer of more than {ANSWER_MAX_BYTES} bytes")
            return data

        response.read = read_bounded
        response.headers.pop("content-encoding", None)  # we ask for none: nothing is ever unpacked
        return response

    def close(self) -> None:
        """Close the connection, with an answer that is not read."""
        if self._connection.resp is not None:  # swiftclient forgets those from 400 on, which are "false"
            self._connection.resp.close()
        self._connection.close()


class Links:
    """Connections for all threads: the one used last is used next, so that few stay open."""

    def __init__(self, *, cacert: str | None, clock_s: Callable[[], float] = time.monotonic) -> None:
        """Begin with none. cacert: a file or directory of certificates to trust instead of the usual ones."""
        self._cacert = cacert
        self._clock_s = clock_s
        self._lock = threading.Lock()
        self._idle: list[Link] = []
        self._knows_swift = False

    @property
    def knows_swift(self) -> bool:
        """Whether an answer has ever borne one of Swift's marks."""
        return self._knows_swift

    @contextlib.contextmanager
    def link(self, url: str) -> Iterator[Link]:
        """Lend a connection to the host of `url`.

        It is kept when the block ends well or with an HTTP status; after anything else, which may have left
        half a body on the line, it is closed.
        """
        link = self._take(urlsplit(url).netloc) or Link(url, cacert=self._cacert, hear=self._hear)
        try:
            yield link
        except ClientException as error:
            if error.http_status is None:
                link.close()
            else:
                self._keep(link)
            raise
        except BaseException:
            link.close()
            raise
        self._keep(link)

    def idle_count(self) -> int:
        """Return how many connections are kept open."""
        with self._lock:
            return len(self._idle)

    def _hear(self, response: Any) -> None:
        """Raise NotSwiftError for an answer without a mark, from where answers have borne one before."""
        if any(mark in response.headers for mark in MARKS):
            self._knows_swift = True
        elif self._knows_swift and response.status < 500 and response.status not in _OF_ANYBODY:
            raise NotSwiftError(response.status)

    def _take(self, host: str) -> Link | None:
        with self._lock:
            while self._idle:
                link = self._idle.pop()
                if link.host == host:
                    return link
                link.close()  # the storage URL has changed with a new token
        return None

    def _keep(self, link: Link) -> None:
        now_s = self._clock_s()
        link.idle_since_s = now_s
        with self._lock:
            self._idle.append(link)
            stale = [old for old in self._idle if old.idle_since_s < now_s - IDLE_MAX_S]
            fresh = self._idle[len(stale) :]  # the list is in the order of their last use
            stale += fresh[:-IDLE_MAX_COUNT]
            self._idle = fresh[-IDLE_MAX_COUNT:]
        for old in stale:
            old.close()


def explain(error: Exception, *, what: str, host: str, authenticating: bool = False) -> StoreError:
    """Return the store's error for whatever swiftclient, keystoneauth and the layers below them raise.

    what: the object and the store, for the message. host: whom we were talking to. authenticating: something
    that does not even speak HTTP is then another service, not a broken connection.
    """
    causes = list(_chain(error))
    if isinstance(error, NotSwiftError):
        text = f"what answers at the moment is no Swift: a gateway's page? ({error.status})"
        return StoreUnavailableError(f"{what}: {text} ({host})")
    status = getattr(error, "http_status", None)
    if isinstance(status, int) and status:
        return answers.error_for(
            429 if status == RATE_LIMITED else status,
            what=f"{what}: {http.client.responses.get(status, 'status')} ({status})",
            retry_after_s=_retry_after(error),
        )
    for cause in causes:
        if isinstance(cause, ssl.SSLCertVerificationError):
            why = cause.verify_message.rstrip(".")
            return StoreError(
                f"{what}: the certificate of {host} cannot be trusted ({why}): OS_CACERT may name a file with that"
                " of the authority that signed it"
            )
        if isinstance(cause, ssl.SSLError) and cause.reason in _NO_TLS:
            return StoreUnsuitableError(f"{what}: {host} does not speak TLS: is its URL http:// and not https://?")
        no_http = isinstance(cause, http.client.BadStatusLine | http.client.UnknownProtocol)
        if authenticating and no_http and not isinstance(cause, ConnectionError):
            return StoreUnsuitableError(f"{what}: {host} does not speak HTTP")
    return StoreUnavailableError(f"{what}: {_short(causes)} ({host})")


def _retry_after(error: Exception) -> float | None:
    headers = getattr(error, "http_response_headers", None)
    if headers is None:
        headers = getattr(getattr(error, "response", None), "headers", None)
    return None if headers is None else answers.parse_retry_after(headers.get("Retry-After"))


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception and all that it came from, wherever requests and urllib3 have put them."""
    seen: set[int] = set()
    rest: list[object] = [error]
    while rest:
        cause = rest.pop(0)
        if isinstance(cause, BaseException) and id(cause) not in seen:
            seen.add(id(cause))
            yield cause
            rest += [getattr(cause, "reason", None), *cause.args, cause.__cause__, cause.__context__]


def _short(causes: list[BaseException]) -> str:
    """Return a few words about a failed connection, those of the cause that says most."""

    def has(*kinds: type[BaseException]) -> bool:
        return any(isinstance(cause, kinds) for cause in causes)

    if has(socket.gaierror, urllib3.exceptions.NameResolutionError):
        return "the host is not known"
    for cause in reversed(causes):
        if isinstance(cause, ssl.SSLError):
            return f"TLS failed: {cause.reason or cause.strerror}"
        if isinstance(cause, OSError) and cause.errno and cause.strerror:
            return cause.strerror
    if has(urllib3.exceptions.ConnectTimeoutError):
        return "no connection in time"
    if has(TimeoutError, urllib3.exceptions.TimeoutError, keystone.ConnectTimeout):
        return "no answer in time"
    if has(http.client.RemoteDisconnected):
        return "connection closed without an answer"
    if has(http.client.IncompleteRead, urllib3.exceptions.IncompleteRead):
        return "connection closed in the middle of an answer"
    if has(*_NONSENSE):
        return f"an answer that cannot be understood ({type(causes[0]).__name__})"
    return f"connection failed: {type(causes[-1]).__name__}"
