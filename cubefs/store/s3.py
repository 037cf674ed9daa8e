"""A store in a bucket of S3, or of any service that speaks S3: one object of the bucket per object.

Must never: retry (botocore's own retries are off), or let an exception of boto3, urllib3 or the network out.

How a body is protected:
- Up: Content-MD5, which every S3 checks before it stores anything, and the ETag of the answer compared.
- Down, whole objects: the ETag compared, where it is the body's MD5; see `_Etags` and `S3Store.get`.
- Down, ranges: exactly as long as asked for. There is no checksum of a range; what is inside is authenticated.
"""

from __future__ import annotations

import base64
import contextlib
import datetime
import enum
import hashlib
import io
import itertools
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from botocore.exceptions import ClientError

from cubefs.errors import (
    CubefsError,
    ObjectExistsError,
    ObjectMissingError,
    StoreDeniedError,
    StoreError,
    StoreUnavailableError,
    StoreUnsuitableError,
)
from cubefs.model import MIB
from cubefs.store import answers, base, s3_errors
from cubefs.store.base import GivenUpError, ObjectInfo, Pace
from cubefs.store.guard import guarded
from cubefs.store.pace import PacedBody, Unpaced, receive
from cubefs.store.s3_client import Clients, parse_s3_url
from cubefs.store.url import ObjectUrl

DELETE_MAX = 1000  # names in one DeleteObjects, by S3's reference
EXPECT_MIN_BYTES = MIB  # bodies from this length on are sent when the store has agreed to take them
CONTENT_TYPE = "application/octet-stream"
CLOCK_NAME = "cubefs"  # the object that is asked for when only the answer's Date matters; need not exist

# what services answer that do not know DeleteObjects, or want something in it that we do not send
_NO_DELETE_OBJECTS = frozenset(
    {"NotImplemented", "MethodNotAllowed", "MalformedXML", "MissingContentMD5", "MissingSecurityHeader"}
    | {"InvalidRequest", "InvalidArgument", "InvalidDigest", "400", "405", "411", "501"}
)
_NO_CONDITIONS = frozenset({"NotImplemented", "InvalidArgument", "InvalidRequest", "400", "501"})
_MD5 = re.compile(r'"?([0-9a-fA-F]{32})"?', re.ASCII)


def open_s3(url: str, *, pace: Pace | None = None) -> S3Store:
    """Open the store at `s3://bucket/prefix?option=value&...`; nothing is asked of it yet.

    Raises UsageError for a URL we do not understand, for credentials that are missing and for settings that
    boto3 does not accept.
    """
    parsed = parse_s3_url(url)
    return S3Store(Clients(parsed), parsed, pace=pace)


class _EtagsAre(enum.Enum):
    UNKNOWN = enum.auto()
    MD5S = enum.auto()
    SOMETHING_ELSE = enum.auto()


class _Etags:
    """Whether this store's ETags are the MD5s of bodies, which S3 promises only without KMS: found out as we go.

    The first ETag that is its body's MD5 proves it, for no store hits one by chance. As long as there is no such
    proof, a body that differs from its ETag twice in the same way is taken for proof of the contrary: at worst an
    object that has rotted in the store, read before all others, ends the comparing for this instance.
    """

    def __init__(self) -> None:
        self.are = _EtagsAre.UNKNOWN

    def agree(self, answer: Mapping[str, Any], md5: Callable[[], str]) -> bool:
        """Return False when the answer has an ETag that looks like an MD5, but is not `md5()`, in hex."""
        found = _MD5.fullmatch(answer.get("ETag") or "")
        by_kms = str(answer.get("ServerSideEncryption") or "").startswith("aws:kms")
        is_other = self.are is _EtagsAre.SOMETHING_ELSE or by_kms or answer.get("SSECustomerAlgorithm")
        if found is None or is_other:
            return True
        if found[1].lower() != md5():
            return False
        self.are = _EtagsAre.MD5S
        return True

    def give_up(self) -> None:
        """Stop comparing, unless an ETag has been right before: then it is the object that is wrong."""
        if self.are is _EtagsAre.UNKNOWN:
            self.are = _EtagsAre.SOMETHING_ELSE


@guarded
class S3Store:
    """The driver for `s3://bucket/prefix`. Implements `base.Store`."""

    def __init__(self, clients: Clients, url: ObjectUrl, *, pace: Pace | None = None) -> None:
        """clients: ours alone; all threads use one at once, as botocore allows."""
        self._clients = clients
        self._url = url
        self._pace = pace or Unpaced()
        # from a variable it may have a password
        endpoint = re.sub(r"//[^/@]*@", "//", clients.current.meta.endpoint_url)
        self._place = s3_errors.Place(url.place, endpoint, str(url))
        self._etags = _Etags()
        self._deletes_many = True
        self._spoke = False  # whether S3 has ever answered: then an answer that is none is somebody else's
        self._gives_ids = False  # whether an answer has ever borne one of S3's marks
        clients.prepare(self._attach)

    def put(self, name: str, data: bytes | memoryview) -> None:
        """PUT the object."""
        self._put(name, data)

    def put_new(self, name: str, data: bytes | memoryview) -> None:
        """PUT the object with `If-None-Match: *`."""
        try:
            self._put(name, data, IfNoneMatch="*")
        except StoreError as error:
            code = _code(error)
            if code in ("PreconditionFailed", "412"):
                raise ObjectExistsError(f"{name} exists already in {self.describe()}") from error
            if code in _NO_CONDITIONS and not self._is_of_somebody(error):
                raise StoreUnsuitableError(
                    f"{self.describe()} cannot create an object only if its name is free (PUT with"
                    f" If-None-Match), without which two machines could write at once: {code}"
                ) from error
            raise

    def get(self, name: str, *, newest: bool = False) -> bytes:
        """GET the whole object; once more when it does not fit its ETag.

        A body that comes twice alike is what the store holds, whatever its ETag is: it is returned, and the
        layers above, which authenticate everything, judge it. Otherwise StoreUnavailableError.
        """
        base.check_name(name)
        body, agrees = self._get(name)
        if agrees:
            return body
        again, agrees = self._get(name)
        if agrees:
            return again
        if again != body:
            raise StoreUnavailableError(f"{name} in {self.describe()} was damaged on the way, twice")
        self._etags.give_up()
        return again

    def get_range(self, name: str, *, start: int, length: int) -> bytes:
        """GET with a Range. A store that sends the whole object instead is refused: StoreUnsuitableError."""
        base.check_name(name)
        base.check_range(name, start=start, length=length)
        stop = start + length
        try:
            answer = self._ask("get_object", name, Range=f"bytes={start}-{stop - 1}")
        except StoreError as error:
            if _code(error) in ("InvalidRange", "416"):
                raise StoreError(f"{name} in {self.describe()} ends before byte {stop}") from error
            raise
        with contextlib.closing(answer["Body"]):
            sent_bytes = answer.get("ContentLength", length)
            if answer["ResponseMetadata"]["HTTPStatusCode"] != 206:
                self._check_object(name, answer)
                if start > 0 or sent_bytes > length:
                    raise StoreUnsuitableError(
                        f"{self.describe()} sends the whole of {name} when asked for a part: cubefs needs ranges"
                    )
            elif not answer.get("ContentRange", f"bytes {start}-").startswith(f"bytes {start}-"):
                raise StoreUnavailableError(f"{name} in {self.describe()}: another range than asked for was sent")
            if sent_bytes < length:
                raise StoreError(f"{name} in {self.describe()} ends before byte {stop}")
            body = self._receive(name, answer, most_bytes=length)
        if len(body) != length:
            raise StoreUnavailableError(f"{name} in {self.describe()}: the answer is not as long as the range")
        return body

    def head(self, name: str, *, newest: bool = False) -> ObjectInfo:
        """HEAD the object. HEAD cannot say that it is the bucket that is missing: ObjectMissingError then too."""
        base.check_name(name)
        answer = self._ask("head_object", name)
        return self._info(name, answer.get("ContentLength"), answer.get("LastModified"))

    def list(self, prefix: str, *, start_after: str = "") -> Iterator[ObjectInfo]:
        """List page by page: a request for each 1000 objects, or what the store thinks a page is."""
        base.check_prefix(prefix)
        last_key = self._url.key(start_after) if start_after else ""
        where = {"StartAfter": last_key} if last_key else {}
        while True:
            page = self._call("list_objects_v2", f"listing {prefix}*", Prefix=self._url.key(prefix), **where)
            if "IsTruncated" not in page:
                raise self._no_s3(f"listing {prefix}*")
            self._spoke = True
            for entry in page.get("Contents") or ():
                key = entry.get("Key") or ""
                if key <= last_key:
                    raise StoreUnsuitableError(
                        f"{self.describe()} lists its objects out of order, {key!r} behind {last_key!r}: cubefs"
                        " needs the order"
                    )
                last_key = key
                name = self._url.name(key)
                if base.is_name(name):
                    yield self._info(name, entry.get("Size"), entry.get("LastModified"))
            if not page.get("IsTruncated"):
                return
            token = page.get("NextContinuationToken")
            where = {"ContinuationToken": token} if token else {"StartAfter": last_key}

    def delete(self, name: str) -> None:
        """DELETE the object."""
        base.check_name(name)
        with contextlib.suppress(ObjectMissingError):
            self._ask("delete_object", name)

    def delete_many(self, names: Iterable[str]) -> None:
        """Delete up to 1000 objects with a request; one by one where the store knows only that."""
        rest = iter(names)
        while some := [base.check_name(name) for name in itertools.islice(rest, DELETE_MAX)]:
            if self._deletes_many:
                self._delete_some(some)
            if not self._deletes_many:  # known for a while, or since a moment ago
                for name in some:
                    self.delete(name)

    def describe(self) -> str:
        """Return the URL."""
        return self._place.url

    def now_ns(self) -> int:
        """Return the Date of an answer, which has whole seconds. One HEAD, of an object that need not exist."""
        try:
            answer = self._ask("head_object", CLOCK_NAME)
        except ObjectMissingError as error:
            answer = error.__cause__.response if isinstance(error.__cause__, ClientError) else {}
        date = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date")
        now_s = answers.parse_date(date)
        if now_s is None:
            raise StoreUnsuitableError(f"{self.describe()} does not tell its time: no Date in its answers")
        return int(now_s) * 10**9

    def free_bytes(self) -> int | None:
        """Return None: S3 knows no limit that one could ask for."""
        return None

    def _put(self, name: str, data: bytes | memoryview, **conditions: str) -> None:
        base.check_name(name)
        body = data if isinstance(data, bytes) else bytes(data)
        md5 = hashlib.md5(body, usedforsecurity=False)
        answer = self._ask(
            "put_object",
            name,
            Body=body,
            ContentMD5=base64.b64encode(md5.digest()).decode(),
            ContentType=CONTENT_TYPE,
            **conditions,
        )
        if not self._etags.agree(answer, md5.hexdigest) and self._etags.are is _EtagsAre.MD5S:
            raise StoreUnavailableError(f"{name} in {self.describe()}: the store has received something else")

    def _get(self, name: str) -> tuple[bytes, bool]:
        """GET a whole object; return it and whether it fits its ETag."""
        answer = self._ask("get_object", name)
        with contextlib.closing(answer["Body"]):
            self._check_object(name, answer)
            sent_bytes = answer.get("ContentLength", 0)
            if sent_bytes > base.OBJECT_MAX_BYTES:
                raise StoreError(f"{name} in {self.describe()} is {sent_bytes} bytes long: not one of ours")
            body = self._receive(name, answer, most_bytes=base.OBJECT_MAX_BYTES)
        if len(body) > base.OBJECT_MAX_BYTES:  # of an answer that did not say how long it is
            raise StoreError(f"{name} in {self.describe()} is too long: not one of ours")
        return body, self._etags.agree(answer, lambda: hashlib.md5(body, usedforsecurity=False).hexdigest())

    def _receive(self, name: str, answer: Mapping[str, Any], *, most_bytes: int) -> bytes:
        """Read a body, at most a little more than `most_bytes` of it; one that is cut off raises."""
        length = answer.get("ContentLength")

        def read(size: int) -> bytes:
            try:
                data: bytes = answer["Body"].read(size)
            except Exception as error:
                raise self._translated(error, name) from error
            return data

        return receive(read, length=most_bytes if length is None else length, pace=self._pace)

    def _delete_some(self, names: Sequence[str]) -> None:
        """Delete with one request; raises the first error that the answer names."""
        objects = [{"Key": self._url.key(name)} for name in names]
        try:
            answer = self._call(
                "delete_objects", f"{len(names)} objects", Delete={"Objects": objects, "Quiet": True}
            )
        except StoreError as error:
            if _code(error) == "AccessDenied":  # Ceph wants a right to the bucket for that
                self.delete(names[0])  # raises where it is the deleting that is refused
            elif _code(error) not in _NO_DELETE_OBJECTS or self._is_of_somebody(error):
                raise
            self._deletes_many = False
            return
        for failed in answer.get("Errors") or ():
            code = failed.get("Code") or ""
            if code != "NoSuchKey":
                told = ClientError({"Error": failed, "ResponseMetadata": {"HTTPStatusCode": 200}}, "DeleteObjects")
                raise self._translated(told, self._url.name(failed.get("Key") or "")) from told

    def _ask(self, operation: str, name: str, **arguments: Any) -> Any:
        """Call an operation upon one object."""
        try:
            return self._call(operation, name, Key=self._url.key(name), **arguments)
        except ObjectMissingError as error:
            if operation == "head_object" and not s3_errors.has_id(_answer(error).headers):
                self._check_missing(name)
            raise
        except StoreDeniedError as error:
            if operation not in ("get_object", "head_object") or _code(error) not in ("AccessDenied", "403"):
                raise
            self._raise_if_missing(name, error, is_head=operation == "head_object")
        # it is there: refused for another reason, or put by another machine in this moment
        return self._call(operation, name, Key=self._url.key(name), **arguments)

    def _raise_if_missing(self, name: str, denied: StoreDeniedError, *, is_head: bool) -> None:
        """Raise ObjectMissingError when it is only for want of the object that the store refuses it.

        S3 answers 403 instead of 404 to those who may not list the whole bucket, as credentials for one prefix
        may not. A listing of the one name, which they may, tells. Returns when the object is there; raises
        `denied` where the listing is refused as well.
        """
        key = self._url.key(name)
        try:
            page = self._call("list_objects_v2", name, Prefix=key, MaxKeys=1)
        except StoreError as error:
            if is_head or error.retryable:  # the answer to HEAD has no body: this one says more
                raise
            raise denied from denied.__cause__
        if not any(entry.get("Key") == key for entry in page.get("Contents") or ()):
            raise ObjectMissingError(f"no object {name} in {self.describe()}") from denied.__cause__

    def _check_missing(self, name: str) -> None:
        """Raise what a GET says when HEAD was answered 404 without a mark of S3's: that may be a gateway's.

        The answer to HEAD has no body, hence no code; that to GET has.
        """
        try:
            answer = self._call("get_object", name, Key=self._url.key(name), Range="bytes=0-0")
        except StoreError as error:
            if _code(error) not in ("InvalidRange", "416"):  # of an empty object
                raise
        else:
            answer["Body"].close()
        raise StoreUnavailableError(f"{name} in {self.describe()}: missing for HEAD, but there for GET")

    def _call(self, operation: str, what: str, **arguments: Any) -> Any:
        """Call an operation of S3 upon our bucket; once more when the store refuses credentials that have changed.

        Raises StoreError (or GivenUpError) only, its cause being the library's error.
        """
        client = self._clients.current
        while True:
            try:
                return getattr(client, operation)(Bucket=self._url.place, **arguments)
            except Exception as error:
                found = self._translated(error, what, is_head=operation == "head_object")
                newer = self._clients.find_newer(client) if isinstance(found, StoreDeniedError) else None
                if newer is None:
                    raise found from (error if error is not found else error.__cause__)
                client = newer

    def _translated(self, error: Exception, what: str, *, is_head: bool = False) -> CubefsError | GivenUpError:
        if isinstance(error, ClientError) and s3_errors.Answer.of(error).is_of_s3:
            self._spoke = True
        return s3_errors.translate(
            error, what=what, place=self._place, now_s=time.time(), is_head=is_head, spoke_before=self._spoke
        )

    def _check_object(self, name: str, answer: Mapping[str, Any]) -> None:
        """Raise for an answer that is no object of S3's."""
        if "ETag" not in answer or answer.get("ContentType", "").startswith("text/html"):
            raise self._no_s3(name)
        self._spoke = True

    def _no_s3(self, what: str) -> StoreError:
        return s3_errors.no_s3(what, self._place, spoke_before=self._spoke)

    def _is_of_somebody(self, error: StoreError) -> bool:
        """Tell whether an error comes from somebody between us and a store that marks its answers."""
        return error.retryable and self._gives_ids

    def _info(self, name: str, size_bytes: int | None, modified: datetime.datetime | None) -> ObjectInfo:
        """Return what an answer says; a size that it leaves out is not 0, a time is."""
        if size_bytes is None:
            raise StoreUnavailableError(f"{name} in {self.describe()}: an answer that does not say how long it is")
        modified_us = round(modified.timestamp() * 10**6) if modified is not None else 0
        return ObjectInfo(name, int(size_bytes), modified_us * 1000)

    # -- called by botocore, in the thread of the call ----------

    def _attach(self, client: Any) -> None:
        # after the signing, which reads the whole body
        client.meta.events.register("before-send.s3.PutObject", self._shape_body)
        client.meta.events.register("before-parse.s3", self._hear)

    def _hear(self, response_dict: Mapping[str, Any], **_: Any) -> None:
        """Note whether answers bear S3's marks; a page without them is no success of a store that gives them.

        botocore would take such a page for a put or a deletion that went well.
        """
        headers = response_dict["headers"]
        if s3_errors.has_id(headers):
            self._spoke = self._gives_ids = True
            return
        is_read = isinstance(response_dict["body"], bytes)  # the others are looked at and closed by `_get`
        is_success = 200 <= response_dict["status_code"] < 300
        if self._gives_ids and is_read and is_success and s3_errors.is_html(headers):
            raise self._no_s3("an answer")

    def _shape_body(self, request: Any, **_: Any) -> None:
        """Decide how a body goes out.

        Always in parts: urllib3 sends one of bytes under a single time limit, that of connecting, which a pack on
        a slow line exceeds. And botocore has asked for "100 Continue", which costs a round trip. That is worth
        while for large ones: a busy store says so before they are sent, and its answer is not lost with the
        connection.
        """
        body = request.body.getvalue() if isinstance(request.body, io.BytesIO) else request.body or b""
        if len(body) < EXPECT_MIN_BYTES:
            request.headers.pop("Expect", None)
        request.body = PacedBody(body, self._pace) if body else body


def _code(error: StoreError) -> str:
    """Return S3's code of the answer behind an error of ours, "" when it is none."""
    return _answer(error).code


def _answer(error: StoreError) -> s3_errors.Answer:
    """Return the answer behind an error of ours, an empty one when it is none."""
    cause = error.__cause__
    return s3_errors.Answer.of(cause if isinstance(cause, ClientError) else ClientError({}, ""))
