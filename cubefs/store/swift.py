"""A store in a container of OpenStack Swift: one object per object, through swiftclient's plain functions.

Must never: retry (but for one renewal of the token), make a container, or write a large object.

What Swift says about an object is its ETag, the MD5 of the body: sent with every put, compared with every
answer. That guards the way; against a hostile store it is nothing, the formats above see to that.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit

from swiftclient import client
from swiftclient.exceptions import ClientException

from cubefs.errors import (
    CubefsError,
    NoStoreError,
    ObjectExistsError,
    ObjectMissingError,
    StoreDeniedError,
    StoreError,
    StoreUnavailableError,
    StoreUnsuitableError,
)
from cubefs.store import answers, base, swift_answers
from cubefs.store.base import GivenUpError, ObjectInfo, Pace
from cubefs.store.guard import guarded
from cubefs.store.pace import PART_BYTES, PacedBody, Unpaced, receive
from cubefs.store.swift_auth import Access, Account, find_login
from cubefs.store.swift_http import MARKS, Link, Links, NotSwiftError, explain, silence
from cubefs.store.url import ObjectUrl, parse_object_url

OPTIONS = {"region": "REGION"}

FIRST_PAGE_COUNT = 1000  # names; the pages behind it are as long as the cluster makes them (10,000 by default)
BULK_MAX_COUNT = 1000  # names deleted by one request, if the cluster does not allow fewer
DATE_STEP_NS = 10**9  # the Date of an answer counts whole seconds
CONTAINER_TRUST_S = 10.0  # how long a container that answered is taken to be there: see `_missing`

_API_VERSION = re.compile(r"/v1(\.0)?(/.*)?$")  # the end of a storage URL's path

T = TypeVar("T")
Request = Callable[[Access, Link], T]
Meanings = Mapping[int, Callable[[], StoreError]]  # what a status means that has a meaning of its own


def open_swift(url: str, *, pace: Pace | None = None, environ: Mapping[str, str] | None = None) -> SwiftStore:
    """Open `swift://container/prefix?region=...` with the credentials in `environ` (the process's own).

    Nothing is asked of the cluster yet. Raises UsageError.
    """
    parsed = parse_object_url(url, options=OPTIONS)
    variables = os.environ if environ is None else environ
    login, cacert = find_login(variables, region=parsed.options.get("region"))
    silence()
    return SwiftStore(parsed, Account(login, url=str(parsed)), Links(cacert=cacert), pace=pace)


@guarded
class SwiftStore:
    """The driver for `swift://container/prefix`. Implements `base.Store`."""

    def __init__(
        self,
        url: ObjectUrl,
        account: Account,
        links: Links,
        *,
        pace: Pace | None = None,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """Use the container of `url`, which must exist."""
        self._url = url
        self._account = account
        self._links = links
        self._pace = pace or Unpaced()
        self._clock_s = clock_s
        self._seen_s: float | None = None  # when the container was last known to be there
        self._doubtful = False  # see _put
        self._bulk_lock = threading.Lock()
        self._bulk_count: int | None = None  # names in one bulk delete, 0 without it, None before asking

    def put(self, name: str, data: bytes | memoryview) -> None:
        """PUT with the MD5, which the cluster compares before the object is there."""
        self._put(name, data, exclusively=False)

    def put_new(self, name: str, data: bytes | memoryview) -> None:
        """PUT with If-None-Match, then HEAD.

        Swift looks for the name when a put begins, so that of two which overlap both may be told 201; what
        stays is the one that began later (probed). The other finds out here.
        """
        self._put(name, data, exclusively=True)

    def get(self, name: str, *, newest: bool = False) -> bytes:
        """GET, compared with the ETag."""
        base.check_name(name)
        where = f"{name} in {self._url}"

        def fetch(access: Access, link: Link) -> tuple[bytes, str]:
            found, body = self._get_object(name, access, link, _newest(newest), {})
            size_bytes = swift_answers.size_bytes(found)
            if size_bytes > base.OBJECT_MAX_BYTES:
                raise StoreError(f"{where} is {size_bytes} bytes long: not one of ours")
            return self._read(where, body, size_bytes), swift_answers.etag(found)

        data, etag = self._call(where, fetch, {404: lambda: self._missing(name)})
        self._compare(where, data, etag)
        self._see()
        return data

    def get_range(self, name: str, *, start: int, length: int) -> bytes:
        """GET with a Range."""
        base.check_name(name)
        base.check_range(name, start=start, length=length)
        where = f"{name} in {self._url}"
        headers = {"Range": f"bytes={start}-{start + length - 1}"}

        def short() -> StoreError:
            return StoreError(f"{where} ends before byte {start + length}")

        def fetch(access: Access, link: Link) -> bytes:
            answer: dict[str, Any] = {}
            found, body = self._get_object(name, access, link, headers, answer)
            if answer["status"] != 206:
                raise StoreUnsuitableError(f"{where}: the whole object came instead of a range")
            if swift_answers.size_bytes(found) < length:
                raise short()
            if not found.get("content-range", "").startswith(f"bytes {start}-{start + length - 1}/"):
                raise StoreUnavailableError(f"{where}: another range came than was asked for")
            return self._read(where, body, length)

        data = self._call(where, fetch, {404: lambda: self._missing(name), 416: short})
        self._see()
        return data

    def head(self, name: str, *, newest: bool = False) -> ObjectInfo:
        """HEAD; the time is X-Timestamp, which has fractions of a second."""
        base.check_name(name)
        return self._head(name, newest=newest).info

    def list(self, prefix: str, *, start_after: str = "") -> Iterator[ObjectInfo]:
        """Ask for page after page, until one is empty: a container in shards may give short ones before."""
        base.check_prefix(prefix)
        start, marker = self._url.key(prefix), self._url.key(start_after) if start_after else ""
        limit: int | None = FIRST_PAGE_COUNT
        while page := self._page(prefix, marker, limit):
            for info in page:
                name = self._url.name(info.name)
                if info.name.startswith(start) and base.is_name(name) and name > start_after:
                    yield info._replace(name=name)
            marker, limit = page[-1].name, None

    def delete(self, name: str) -> None:
        """DELETE; 404 is fine."""
        base.check_name(name)

        def remove(access: Access, link: Link) -> None:
            client.delete_object(**self._target(access, link, name))

        with contextlib.suppress(ObjectMissingError):
            self._call(f"{name} in {self._url}", remove, {404: lambda: self._missing(name)})
            self._see()

    def delete_many(self, names: Iterable[str]) -> None:
        """POST lists of names where the cluster offers bulk deletes, else delete one by one."""
        rest = iter(names)
        while batch := [base.check_name(name) for name in itertools.islice(rest, BULK_MAX_COUNT)]:
            size = self._find_bulk_count() if len(batch) > 1 else 0
            if size < 2:
                for name in batch:
                    self.delete(name)
            else:
                for start in range(0, len(batch), size):
                    self._delete_batch(batch[start : start + size])

    def describe(self) -> str:
        """Return the URL."""
        return str(self._url)

    def now_ns(self) -> int:
        """Return the Date of an answer; its resolution is a second."""

        def ask(access: Access, link: Link) -> int:
            return swift_answers.date_ns(self._head_container(access, link))

        return self._ask_container(ask)

    def free_bytes(self) -> int | None:
        """Return None: quotas are not everyone's to see."""
        return None

    # -- requests ----------

    def _call(self, where: str, request: Request[T], meanings: Meanings | None = None) -> T:
        """Do a request; with a token that is refused, once more with a new one. Raises StoreError (GivenUpError).

        where: what it is about, for messages. meanings: statuses that say something about it.
        """
        access = self._account.access()
        try:
            try:
                return self._once(access, request)
            except ClientException as error:
                if error.http_status != 401:
                    raise
            access = self._account.renew(access)
            return self._once(access, request)
        except (CubefsError, GivenUpError):
            raise
        except Exception as error:
            host = urlsplit(access.storage_url).netloc
            status = getattr(error, "http_status", None)
            if meanings and isinstance(status, int) and status in meanings:
                if not self._links.knows_swift:
                    advice = f"its answer ({status}) has no {MARKS[0]}; check the storage URL"
                    raise StoreUnsuitableError(f"{where}: no Swift answers at {host}: {advice}") from error
                raise meanings[status]() from error
            if status == 401:
                advice = self._account.login.advice
                raise StoreDeniedError(f"the store refuses us: {where}: {advice} (401)") from error
            raise explain(error, what=where, host=host) from error

    def _once(self, access: Access, request: Request[T]) -> T:
        with self._links.link(access.storage_url) as link:
            return request(access, link)

    def _target(self, access: Access, link: Link, name: str | None = None) -> dict[str, Any]:
        """Return the arguments that all of swiftclient's functions take: for an object, or the container."""
        target: dict[str, Any] = {"url": access.storage_url, "token": access.token, "container": self._url.place}
        target["http_conn"] = link.pair(access.storage_url)
        return target if name is None else target | {"name": self._url.key(name)}

    def _put(self, name: str, data: bytes | memoryview, *, exclusively: bool) -> None:
        """Send an object.

        A server that refuses a token may close the connection before it has read the body, and its answer is
        lost in the reset: after a broken put the next one first asks, without a body, whether we are welcome.

        The body always goes in parts: urllib3 sends one of bytes under a single time limit, that of connecting.
        """
        base.check_name(name)
        where = f"{name} in {self._url}"
        view = memoryview(data).cast("B")
        etag = hashlib.md5(view, usedforsecurity=False).hexdigest()
        answer: dict[str, Any] = {}

        def send(access: Access, link: Link) -> tuple[str, int | None]:
            stored = client.put_object(
                **self._target(access, link, name),
                contents=PacedBody(view, self._pace),
                content_length=len(view),
                etag=etag,
                content_type="application/octet-stream",
                headers={"If-None-Match": "*"} if exclusively else {},
                response_dict=answer,
            )
            return stored, swift_answers.date_ns(answer["headers"]) if answer["status"] == 202 else None

        meanings = {404: self._no_store}
        if exclusively:
            meanings[412] = lambda: self._exists(name)
        if self._doubtful:
            self._check_welcome()
        try:
            stored, overtaken_ns = self._call(where, send, meanings)
        except StoreUnavailableError as error:
            self._doubtful = not isinstance(error.__cause__, ClientException)
            raise
        self._see()
        if overtaken_ns is None:
            self._compare(where, view, stored, known=etag)
        if exclusively or overtaken_ns is not None:
            self._look_back(name, etag, exclusively=exclusively, overtaken_ns=overtaken_ns)

    def _look_back(self, name: str, etag: str, *, exclusively: bool, overtaken_ns: int | None) -> None:
        """Find out whether what is there now may be there after a put that was answered 201 or 202.

        202 (`overtaken_ns`, its Date) says: not stored, there is something from a later time. That is fine when
        another put overtook this one, but not when the clock behind the other was ahead: such an object is from
        a time after the answer. The next put will be later than it.
        """
        try:
            there = self._head(name, newest=True)
        except ObjectMissingError as error:
            if overtaken_ns is None:
                return  # not to be seen yet: a matter for those who read back
            raise StoreUnavailableError(f"{name} in {self._url}: deleted while it was put (202)") from error
        if there.etag == etag:
            return
        if exclusively:
            raise self._exists(name)
        if overtaken_ns is not None and there.info.modified_ns > overtaken_ns + DATE_STEP_NS:
            raise StoreUnavailableError(
                f"{name} in {self._url}: not stored, the clocks of the cluster's servers are apart (202)"
            )

    def _exists(self, name: str) -> StoreError:
        return ObjectExistsError(f"{name} exists already in {self._url}")

    def _head(self, name: str, *, newest: bool) -> swift_answers.Head:
        where = f"{name} in {self._url}"

        def ask(access: Access, link: Link) -> swift_answers.Head:
            found = client.head_object(**self._target(access, link, name), headers=_newest(newest))
            _refuse_manifest(where, found)
            return swift_answers.head(name, found)

        head = self._call(where, ask, {404: lambda: self._missing(name)})
        self._see()
        return head

    def _get_object(
        self, name: str, access: Access, link: Link, headers: Mapping[str, str], answer: dict[str, Any]
    ) -> tuple[Mapping[str, str], Any]:
        """Return an object's headers and its body, not read yet."""
        found, body = client.get_object(
            **self._target(access, link, name),
            resp_chunk_size=PART_BYTES,
            headers=dict(headers),
            response_dict=answer,
        )
        _refuse_manifest(f"{name} in {self._url}", found)
        return found, body

    def _read(self, where: str, body: Any, size_bytes: int) -> bytes:
        """Read a body of known length whole, as fast as it may come."""
        data = receive(body.read, length=size_bytes, pace=self._pace)
        if len(data) != size_bytes:
            raise StoreUnavailableError(f"{where}: {len(data)} bytes of {size_bytes} came")
        return data

    def _compare(self, where: str, data: bytes | memoryview, etag: str, *, known: str | None = None) -> None:
        """Raise when an answer's ETag is not the MD5 of `data` (`known` if it is)."""
        if not etag:
            raise StoreUnsuitableError(f"{where}: an answer without an ETag: no Swift answers there")
        if etag != (known or hashlib.md5(data, usedforsecurity=False).hexdigest()):
            raise StoreUnavailableError(f"{where}: damaged on the way (the MD5 is not the ETag)")

    def _page(self, prefix: str, marker: str, limit: int | None) -> Sequence[ObjectInfo]:
        """Return a page of a listing by full names, behind `marker`."""

        def ask(access: Access, link: Link) -> Sequence[ObjectInfo]:
            _, entries = client.get_container(
                **self._target(access, link),
                marker=marker,
                limit=limit,
                prefix=self._url.key(prefix),
                headers={"Accept-Encoding": "identity"},
            )
            return swift_answers.page(entries, marker=marker)

        page = self._call(f"listing {prefix or 'all'} in {self._url}", ask, {404: self._no_store})
        self._see()
        return page

    # -- the container ----------

    def _see(self) -> None:
        """Note that the container is there."""
        self._seen_s = self._clock_s()

    def _missing(self, name: str) -> StoreError:
        """Return what an object's 404 means: Swift says the same when the whole container is not there.

        Much rests on the difference: a pack that is missing is damage. So the container is asked for, unless
        something has proved it within CONTAINER_TRUST_S: looking for the next commits, which are not there, costs
        one request each and one more for all of them. (Swift deletes no container that has objects: what passes
        away with it is an account or a project as a whole, and for long.)
        """
        if self._seen_s is None or self._clock_s() - self._seen_s > CONTAINER_TRUST_S:
            try:
                self._check_welcome()
            except StoreError as error:
                return error
            self._see()
        return ObjectMissingError(f"no object {name} in {self._url}")

    def _check_welcome(self) -> None:
        """Ask for the container after a broken put: raises what a put's answer may have been."""
        with contextlib.suppress(StoreDeniedError):  # objects may be allowed where the container is not
            self._ask_container(self._head_container)
        self._doubtful = False

    def _no_store(self) -> StoreError:
        place = self._url.place
        return NoStoreError(
            f"{self._url}: the container {place} does not exist: create it first (swift post {place})"
        )

    def _ask_container(self, request: Request[T]) -> T:
        result = self._call(f"the container of {self._url}", request, {404: self._no_store})
        self._see()
        return result

    def _head_container(self, access: Access, link: Link) -> Mapping[str, str]:
        found: Mapping[str, str] = client.head_container(**self._target(access, link))
        return found

    # -- bulk deletes ----------

    def _find_bulk_count(self) -> int:
        """Return how many names a bulk delete may have, 0 where there is none; the cluster is asked once."""
        with self._bulk_lock:
            if self._bulk_count is None:
                self._bulk_count = self._call(f"capabilities of {self._url}", _ask_bulk_count)
            return self._bulk_count

    def _delete_batch(self, names: Sequence[str]) -> None:
        lines = "\n".join(quote(f"{self._url.place}/{self._url.key(name)}") for name in names)

        def remove(access: Access, link: Link) -> swift_answers.Deleted:
            _, body = client.post_account(
                access.storage_url,
                access.token,
                {"Content-Type": "text/plain", "Accept": "application/json"},
                http_conn=link.pair(access.storage_url),
                query_string="bulk-delete",
                data=lines.encode(),
            )
            found = swift_answers.deleted(json.loads(body))
            if any(status == 401 for _, status in found.errors):
                raise ClientException("the token is refused", http_status=401)
            return found

        found = self._call(f"deleting {len(names)} objects in {self._url}", remove)
        for key, status in found.errors:
            raise answers.error_for(status, what=f"deleting {self._url.name(key)} in {self._url} ({status})")
        if found.gone_count != len(names):
            what = f"{found.gone_count} of {len(names)} objects were deleted in {self._url} ({found.status})"
            raise StoreUnavailableError(what) if found.status == 200 else answers.error_for(found.status, what=what)


def _ask_bulk_count(access: Access, link: Link) -> int:
    parts = urlsplit(access.storage_url)
    path, found = _API_VERSION.subn("/info", parts.path)
    if not found:
        return 0
    try:
        capabilities = client.get_capabilities((parts._replace(path=path), link))
    except NotSwiftError:
        return 0  # whoever stands before the cluster does not let it through
    except ClientException as error:
        if error.http_status is None or error.http_status >= 500:
            raise
        return 0  # not shown to us
    return swift_answers.bulk_max_count(capabilities, most=BULK_MAX_COUNT)


def _newest(newest: bool) -> dict[str, str]:
    return {"X-Newest": "true"} if newest else {}


def _refuse_manifest(where: str, found: swift_answers.Headers) -> None:
    if swift_answers.is_manifest(found):
        raise StoreError(f"{where} is a large-object manifest, not one of ours")
