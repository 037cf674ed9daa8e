"""How boto3 is set up for us: what may stand in the URL, timeouts, connections, checksums, no retries.

Must never: send a request for an object, or know what is done with the client.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.metadata
import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import IncompleteReadError

from cubefs.errors import UsageError
from cubefs.store import s3_errors
from cubefs.store.url import ObjectUrl, parse_endpoint, parse_object_url

OPTIONS = {  # of the URL: name -> an example
    "endpoint_url": "https://s3.example.com",
    "region": "eu-central-1",
    "profile": "backup",
    "addressing_style": "path",
}
ADDRESSING_STYLES = ("auto", "path", "virtual")  # auto is botocore's rule: virtual at AWS, path elsewhere

CONNECT_TIMEOUT_S = 8.0  # a packet that is lost three times while connecting costs 7 s
READ_TIMEOUT_S = 60.0  # of silence; on a bad day services take some seconds to answer a put
RENEWAL_INTERVAL_S = 60.0  # between two looks at credentials after refusals: some refuse what is merely missing
CONNECTIONS_MAX = 64  # kept open between requests: more than we ever have under way


def parse_s3_url(url: str) -> ObjectUrl:
    """Understand `s3://bucket/prefix?option=value&...` and return it in its one spelling; raises UsageError."""
    parsed = parse_object_url(url, options=OPTIONS)
    options = dict(parsed.options)
    style = options.get("addressing_style", ADDRESSING_STYLES[0])
    if style not in ADDRESSING_STYLES:
        raise UsageError(f"unknown addressing_style {style!r}: there are {', '.join(ADDRESSING_STYLES)}")
    if style == ADDRESSING_STYLES[0]:
        options.pop("addressing_style", None)
    if "endpoint_url" in options:
        options["endpoint_url"] = parse_endpoint(options["endpoint_url"], option="endpoint_url")
    return parsed._replace(options=options)


class Clients:
    """The client of boto3 that is used now, and the next one where its credentials have changed.

    boto3 reads keys that stand in a file once. So when a client is refused, the credentials are read again, at most
    once in RENEWAL_INTERVAL_S, and if they are others a new client takes over; calls under way keep the old one.
    """

    def __init__(self, url: ObjectUrl, *, clock_s: Callable[[], float] = time.monotonic) -> None:
        """Make the first client by boto3's own chain of settings and credentials, before which the URL's come.

        Nothing is sent to the store (to give credentials, boto3 may ask the cloud that this machine runs in).
        Raises UsageError when credentials are missing or a setting makes no sense to boto3, StoreError when
        credentials should be there but cannot be had.
        """
        self._url = url
        self._clock_s = clock_s
        self._lock = threading.Lock()
        self._looked_s: float | None = None  # when the credentials were last read again
        self._prepare: Callable[[Any], None] = lambda client: None
        try:
            self._session = _Session(url)
            self._client = self._session.client()
        except UsageError:
            raise
        except Exception as error:
            raise s3_errors.translate_opening(error, url=str(url)) from error

    @property
    def current(self) -> Any:
        """The client for new calls; may be used by all threads at once."""
        return self._client

    def prepare(self, hook: Callable[[Any], None]) -> None:
        """Call `hook` with the client there is and with every later one, before it is used."""
        self._prepare = hook
        hook(self._client)

    def find_newer(self, refused: Any) -> Any | None:
        """Return another client than the one that the store refuses, None when the credentials are the same.

        Any thread; those that come meanwhile wait. Whatever goes wrong while reading credentials (a file that is
        just being written) counts as no change: the refusal stands, and a minute later they are read again.
        """
        with self._lock:
            if self._client is not refused:
                return self._client
            now_s = self._clock_s()
            if self._looked_s is not None and now_s - self._looked_s < RENEWAL_INTERVAL_S:
                return None
            self._looked_s = now_s
            try:
                session = _Session(self._url)
                if session.keys() == self._session.keys():
                    return None
                client = session.client()
            except Exception:
                return None
            self._prepare(client)
            self._session, self._client = session, client
            return client


class _Session:
    """A session of boto3 with the credentials that it has found."""

    def __init__(self, url: ObjectUrl) -> None:
        self._url = url
        self._session = boto3.session.Session(profile_name=url.options.get("profile"))
        self._credentials = self._session.get_credentials()
        if self._credentials is None:
            raise UsageError(f"no credentials for {url}: {s3_errors.HOW_TO_GIVE_CREDENTIALS}")

    def keys(self) -> Any:
        """Return the credentials as they are now, to be compared; asks for them where they are short-lived."""
        return self._credentials.get_frozen_credentials()

    def client(self) -> Any:
        options = self._url.options
        client = self._session.client(
            "s3",
            endpoint_url=options.get("endpoint_url"),
            region_name=options.get("region"),
            config=_configuration(options.get("addressing_style")),
        )
        client.meta.events.register("before-sign.s3.DeleteObjects", _use_md5)
        client.meta.events.register("before-parse.s3", _refuse_cut_answer)
        client.meta.events.register("before-call.s3.HeadBucket", _find_no_region)
        return client


def _configuration(addressing_style: str | None) -> Config:
    """Return our settings. What is not set here stays as the user's files and variables say."""
    return Config(
        connect_timeout=CONNECT_TIMEOUT_S,
        read_timeout=READ_TIMEOUT_S,
        max_pool_connections=CONNECTIONS_MAX,
        tcp_keepalive=True,
        retries={"mode": "standard", "total_max_attempts": 1},  # retry.py is the only policy
        # x-amz-checksum-*: several services reject, ignore or garble them, and all know Content-MD5
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        user_agent_extra=f"cubefs/{_version()}",
        s3={"addressing_style": addressing_style} if addressing_style else None,
    )


def _use_md5(request: Any, **_: Any) -> None:
    """Protect a request with Content-MD5, which all services know, instead of botocore's choice, a CRC32."""
    for header in [name for name in request.headers if name.lower().startswith(("x-amz-checksum-", "x-amz-sdk-"))]:
        del request.headers[header]
    md5 = hashlib.md5(request.body or b"", usedforsecurity=False)
    request.headers["Content-MD5"] = base64.b64encode(md5.digest()).decode()


def _refuse_cut_answer(operation_model: Any, response_dict: Any, **_: Any) -> None:
    """Raise for an answer that is shorter than announced: botocore looks at that only in the bodies of objects.

    Without this a listing whose answer was cut before its first byte would be the listing of an empty bucket.
    """
    body, length = response_dict["body"], response_dict["headers"].get("content-length")
    has_body = isinstance(body, bytes) and operation_model.http.get("method") != "HEAD"
    if has_body and length is not None and length.isdecimal() and int(length) != len(body):
        raise IncompleteReadError(actual_bytes=len(body), expected_bytes=int(length))


def _find_no_region(**_: Any) -> tuple[Any, dict[str, Any]]:
    """Answer botocore, which asks for the bucket's region when a request is sent elsewhere: not known.

    AWS has said it before, with the refusal. Another server that sends everybody elsewhere, to a page for logging
    in for example, would send the question elsewhere too, and botocore would ask again until the stack is full.
    """
    return SimpleNamespace(status_code=200), {"ResponseMetadata": {"HTTPHeaders": {}}}


def _version() -> str:
    try:
        return importlib.metadata.version("cubefs-backup")
    except importlib.metadata.PackageNotFoundError:  # from a checkout that is not installed
        return "0"
