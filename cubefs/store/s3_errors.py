"""What the errors of boto3, botocore and S3 itself mean to us: one clear line of the right class for each.

Must never: send a request, or let a secret or a library's nested texts into a message.
"""

from __future__ import annotations

import errno
import http.client
import re
import ssl
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import botocore.exceptions as boto
import urllib3.exceptions
from botocore.parsers import ResponseParserError

from cubefs.errors import (
    CubefsError,
    NoStoreError,
    ObjectMissingError,
    StoreBusyError,
    StoreDeniedError,
    StoreError,
    StoreFullError,
    StoreUnavailableError,
    StoreUnsuitableError,
    UsageError,
)
from cubefs.store import answers
from cubefs.store.base import GivenUpError

HOW_TO_GIVE_CREDENTIALS = (
    "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or name a profile of ~/.aws with AWS_PROFILE or ?profile="
)
TEXT_MAX = 200  # characters of somebody else's text in a message of ours

_DENIED = {  # S3's code for a refusal -> what to do
    "AccessDenied": "these credentials have no permission for that",
    "AllAccessDisabled": "the store has locked the bucket",
    "AccountProblem": "the store has locked the account: ask its operator",
    "InvalidAccessKeyId": "the store does not know this access key: check AWS_ACCESS_KEY_ID or the profile",
    "SignatureDoesNotMatch": "the secret key is wrong for this access key, or the store does not know the access"
    " key: check both",
    "ExpiredToken": "the credentials have expired: get new ones",
    "TokenRefreshRequired": "the credentials have expired: get new ones",
    "InvalidToken": "the session token is wrong: check AWS_SESSION_TOKEN or the profile",
    "InvalidSecurity": "the credentials are not valid",
    "NotSignedUp": "the account has no S3",
}
_DAMAGED = frozenset(
    {"BadDigest", "XAmzContentSHA256Mismatch", "XAmzContentChecksumMismatch", "IncompleteBody", "ClientDisconnect"}
)
_PASSING = frozenset({"InternalError", "RequestTimeout", "RequestTimeoutException", "OperationAborted"})
_PASSING |= {"ConditionalRequestConflict"}
_BUSY = frozenset({"SlowDown", "ServiceUnavailable", "TooManyRequests", "RequestLimitExceeded"})
_FULL = frozenset({"QuotaExceeded", "XMinioStorageFull", "StorageFull", "InsufficientCapacity"})
_ELSEWHERE = frozenset(
    {"PermanentRedirect", "TemporaryRedirect", "Redirect", "AuthorizationHeaderMalformed"}
    | {"IllegalLocationConstraintException", "301", "302", "307", "308"}
)
_UNABLE = frozenset({"NotImplemented", "MethodNotAllowed"})
_UNREADABLE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM})
_NO_CERTIFICATES = frozenset({"NO_CERTIFICATE_OR_CRL_FOUND", "NO_START_LINE", "BAD_BASE64_DECODE"})
_NO_TLS = frozenset({"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE"})
_CA_BUNDLE = "cannot read the file of certificates that AWS_CA_BUNDLE or ca_bundle in ~/.aws/config names"
_REGION = re.compile(r"[a-z0-9][a-z0-9-]{0,62}", re.ASCII)


class Place(NamedTuple):
    """Where a store is, for messages; no secrets."""

    bucket: str
    endpoint: str
    url: str


class Answer(NamedTuple):
    """What an S3 answer that is no success says."""

    status: int
    code: str  # S3's own, or the status once more where the answer has none
    text: str  # S3's, one line, may be empty
    headers: Mapping[str, str]  # lower-case names
    fields: Mapping[str, Any]  # of the error's XML

    @classmethod
    def of(cls, error: boto.ClientError) -> Answer:
        """Take the error apart, whatever the store has put or not put there."""
        fields = error.response.get("Error", {})
        metadata = error.response.get("ResponseMetadata", {})
        code, text = fields.get("Code"), fields.get("Message")
        return cls(
            metadata.get("HTTPStatusCode", 0),
            _one_line(code) if isinstance(code, str) else "",
            _one_line(text) if isinstance(text, str) else "",
            metadata.get("HTTPHeaders", {}),
            fields,
        )

    @property
    def is_of_s3(self) -> bool:
        """Whether the error has a code of S3's: gateways, proxies and other servers have none."""
        return bool(self.code) and not self.code.isdigit()

    def __str__(self) -> str:
        """Return it for a message."""
        name = self.code if self.is_of_s3 else http.client.responses.get(self.status, "answer")
        text = f": {self.text}" if self.text and self.is_of_s3 else ""
        return f"{name} ({self.status}){text}"


def translate(
    error: Exception, *, what: str, place: Place, now_s: float, is_head: bool = False, spoke_before: bool = False
) -> CubefsError | GivenUpError:
    """Return the error to raise for one that a call of boto3 raised, whatever that is.

    what: the object, or what else was asked for. now_s: this machine's time. is_head: the answer to HEAD has no
    body, hence no code. spoke_before: the endpoint has spoken S3 to us before, so that an answer that is none comes
    from somebody between. What our own code below the library raised to be heard is returned as it is: an error of
    cubefs, and a limit that gives up waiting.
    """
    where = f"{what} in {place.url}"
    if isinstance(error, boto.ClientError):
        answer = Answer.of(error)
        said = _of_answer(answer, where=where, place=place, now_s=now_s, is_head=is_head)
        return _of_somebody(answer, where, place) if spoke_before and _is_doubtful(answer, said) else said
    inner = _wrapped(error)
    if isinstance(inner, (CubefsError, GivenUpError)):
        return inner
    found = (
        _of_credentials(error, where)
        or _of_encryption(error, where=where, place=place)
        or _of_network(error, where=where, place=place)
    )
    if found is None and isinstance(error, boto.BotoCoreError):
        return StoreError(f"{where}: {_one_line(str(error)) or type(error).__name__}")
    if found is None:  # an answer that the library stumbles over
        text = _one_line(f"{type(error).__name__}: {error}").rstrip(": ")
        return StoreUnavailableError(f"{where}: the answer of {place.endpoint} cannot be understood ({text})")
    if spoke_before and isinstance(found, StoreUnsuitableError):
        return StoreUnavailableError(f"{where}: what answers for {place.endpoint} at the moment does not speak S3")
    return found


def has_id(headers: Mapping[str, str]) -> bool:
    """Tell whether an answer bears one of the marks that S3 gives its answers; not every service does."""
    return "x-amz-request-id" in headers or "x-amz-id-2" in headers


def is_html(headers: Mapping[str, str]) -> bool:
    """Tell whether an answer is a page for people."""
    return headers.get("content-type", "").startswith("text/html")


def no_s3(what: str, place: Place, *, spoke_before: bool) -> StoreError:
    """Return the error for an answer that is a success, but nothing that S3 says."""
    where = f"{what} in {place.url}"
    if spoke_before:
        return StoreUnavailableError(
            f"{where}: what answers for {place.endpoint} at the moment does not speak S3: a gateway's page?"
        )
    return StoreUnsuitableError(
        f"{place.endpoint} does not speak S3: its answer about {where} is nothing of the kind; check the endpoint"
    )


def _is_doubtful(answer: Answer, found: StoreError) -> bool:
    """Tell whether an error is for good, but the answer bears no mark of S3's."""
    is_final = type(found) in (StoreError, StoreUnsuitableError)
    return is_final and not answer.is_of_s3 and not has_id(answer.headers)


def _of_somebody(answer: Answer, where: str, place: Place) -> StoreError:
    return StoreUnavailableError(f"{where}: what answers for {place.endpoint} at the moment is no S3: {answer}")


def _wrapped(error: Exception) -> Exception:
    """Return what botocore has wrapped for want of knowing it, else the error itself."""
    inner = getattr(error, "kwargs", {}).get("error") if type(error) is boto.HTTPClientError else None
    return inner if isinstance(inner, Exception) else error


def translate_opening(error: Exception, *, url: str) -> CubefsError:
    """Return the error to raise when boto3 refuses to make a client for `url`: nothing has been sent yet."""
    if isinstance(error, boto.ProfileNotFound):
        return UsageError(f"{_one_line(str(error))}; {HOW_TO_GIVE_CREDENTIALS}")
    if isinstance(error, (boto.NoCredentialsError, boto.PartialCredentialsError)):
        return UsageError(f"no complete credentials for {url}: {HOW_TO_GIVE_CREDENTIALS}")
    return _of_credentials(error, url) or UsageError(f"cannot use {url}: {_one_line(str(error))}")


def _of_answer(answer: Answer, *, where: str, place: Place, now_s: float, is_head: bool) -> StoreError:
    code, line = answer.code, f"{where}: {answer}"
    # botocore says 500 for 200 as well, when it is no XML
    if answer.status == 500 and is_html(answer.headers) and not answer.is_of_s3:
        line += ", in HTML: unless this passes, check that the endpoint speaks S3"
    if code == "NoSuchKey" or (is_head and answer.status == 404):
        return ObjectMissingError(f"no object {where}")
    if code == "NoSuchBucket":
        return NoStoreError(f"the bucket {place.bucket} does not exist at {place.endpoint}: create it first")
    if code == "InvalidBucketName":
        return NoStoreError(f"no bucket at {place.endpoint} can be called {place.bucket!r}")
    if code == "RequestTimeTooSkewed":
        return StoreDeniedError(_skew(answer, place, now_s))
    if code in _DENIED:
        return StoreDeniedError(f"the store refuses us: {where}: {_DENIED[code]} ({code})")
    if code == "InvalidObjectState":
        return StoreUnsuitableError(f"{where} is in an archive and cannot be read at once: restore it there first")
    if code in _ELSEWHERE:
        return StoreError(_elsewhere(answer, where, place))
    if code in _UNABLE:
        return StoreUnsuitableError(f"the store cannot do what cubefs needs: {line}")
    wait_s = answers.parse_retry_after(answer.headers.get("retry-after"), now_s=lambda: now_s)
    if code in _FULL:
        return StoreFullError(f"no room: {line}")
    if code in _DAMAGED:
        return StoreUnavailableError(f"damaged on the way: {line}")
    if code in _PASSING:
        return StoreUnavailableError(f"the store has trouble: {line}", retry_after_s=wait_s)
    if code in _BUSY or "Throttl" in code:
        return StoreBusyError(f"the store is busy: {line}", retry_after_s=wait_s)
    found = answers.error_for(answer.status, what=line, retry_after_s=wait_s)
    if type(found) is StoreError and not answer.is_of_s3 and not is_head:
        return StoreUnsuitableError(
            f"{place.endpoint} does not speak S3: it answers {answer} without one of S3's error codes; check the"
            " endpoint"
        )
    return found


def _skew(answer: Answer, place: Place, now_s: float) -> str:
    """Say how far this machine's clock is off, where the store tells its own time."""
    beginning = "this machine's clock and the store's differ"
    theirs_s = answers.parse_date(answer.headers.get("date"))
    if theirs_s is None:
        return f"{beginning} too much for {place.endpoint}: set ours right (by NTP, say)"
    seconds = round(now_s - theirs_s)
    side = "ahead of" if seconds > 0 else "behind"
    return f"{beginning}: ours is {abs(seconds)} s {side} that of {place.endpoint}; set it right (by NTP, say)"


def _elsewhere(answer: Answer, where: str, place: Place) -> str:
    region = answer.headers.get("x-amz-bucket-region") or answer.fields.get("Region")
    if isinstance(region, str) and _REGION.fullmatch(region):
        return f"{where}: the bucket {place.bucket} is in another region: open it with ?region={region}"
    if answer.is_of_s3:
        return f"{where}: the bucket {place.bucket} is in another region: name it with ?region= ({answer})"
    return f"{where}: {place.endpoint} sends us elsewhere ({answer}): check endpoint and region"


def _of_credentials(error: Exception, where: str) -> StoreError | None:
    """Translate the failure to get credentials at the time when a request is signed."""
    if isinstance(error, (boto.NoCredentialsError, boto.PartialCredentialsError)):
        return StoreDeniedError(f"no complete credentials for {where}: {HOW_TO_GIVE_CREDENTIALS}")
    if isinstance(error, (boto.MetadataRetrievalError, boto.CredentialRetrievalError)):
        # a machine's role or a program that gives them: it may work the next time
        return StoreUnavailableError(f"no credentials for {where} at the moment: {_one_line(str(error))}")
    login = (boto.SSOError, boto.LoginError, boto.TokenRetrievalError, boto.NoAuthTokenError)
    # the last resort of botocore's refreshing is a bare RuntimeError
    if isinstance(error, login) or (isinstance(error, RuntimeError) and "redentials" in str(error)):
        return StoreDeniedError(f"no credentials for {where}: log in again ({_one_line(str(error))})")
    return None


def _of_encryption(error: Exception, *, where: str, place: Place) -> StoreError | None:
    causes, host = list(_causes(error)), place.endpoint
    # the attributes are there only where OpenSSL itself has made the error
    reasons = [getattr(cause, "reason", None) or "" for cause in causes if isinstance(cause, ssl.SSLError)]
    for cause in causes:
        if isinstance(cause, ssl.SSLCertVerificationError):
            why = _one_line(getattr(cause, "verify_message", "") or str(cause))
            return StoreError(
                f"cannot trust the certificate of {host}: {why}; if it is right, name the authority that signed it"
                " with AWS_CA_BUNDLE"
            )
        # the errno of an ssl.SSLError is OpenSSL's
        is_of_system = isinstance(error, boto.SSLError) and not isinstance(cause, ssl.SSLError)
        if is_of_system and isinstance(cause, OSError) and cause.errno in _UNREADABLE:
            return StoreError(f"{_CA_BUNDLE}: {cause.strerror}")
    if _NO_CERTIFICATES.intersection(reasons):
        return StoreError(f"{_CA_BUNDLE}: there is no certificate in it")
    if _NO_TLS.intersection(reasons):
        return StoreUnsuitableError(f"{host} does not speak TLS: write http://, or the port that does")
    if isinstance(error, boto.SSLError):
        reason = next(filter(None, reasons), "no reason given")
        return StoreUnavailableError(f"{where}: the encrypted connection to {host} failed: {reason}")
    return None


def _of_network(error: Exception, *, where: str, place: Place) -> StoreError | None:
    host = place.endpoint
    if isinstance(error, (boto.ConnectTimeoutError, urllib3.exceptions.ConnectTimeoutError)):
        return StoreUnavailableError(f"{where}: {host} does not answer at all")
    if isinstance(error, (boto.ReadTimeoutError, urllib3.exceptions.ReadTimeoutError)):
        return StoreUnavailableError(f"{where}: {host} was silent for too long")
    if isinstance(error, (boto.IncompleteReadError, boto.ResponseStreamingError)):
        return StoreUnavailableError(f"{where}: the answer of {host} was cut off")
    if isinstance(error, ResponseParserError):
        return StoreUnsuitableError(f"{host} does not speak S3: its answer about {where} cannot be understood")
    network = (boto.ConnectionError, boto.HTTPClientError, urllib3.exceptions.HTTPError, OSError)
    if not isinstance(error, (*network, http.client.HTTPException)):
        return None
    inner = _wrapped(error)
    if inner is not error and not isinstance(inner, (*network, http.client.HTTPException)):
        text = "no proper HTTP" if isinstance(inner, ValueError) else f"unexpected {type(inner).__name__}"
        return StoreUnavailableError(f"{where}: the talk with {host} failed: {text}")
    reason = next((c.strerror for c in _causes(error) if isinstance(c, OSError) and c.strerror), "")
    if not reason:
        reason = "the connection was closed" if isinstance(error, boto.ConnectionClosedError) else "no reason given"
    via = " through the proxy" if isinstance(error, boto.ProxyConnectionError) else ""
    return StoreUnavailableError(f"{where}: the connection to {host}{via} failed: {_one_line(reason)}")


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield the error and all that it wraps: the libraries keep the inner ones in four different ways."""
    seen: set[int] = set()
    waiting: list[Any] = [error]
    while waiting:
        cause = waiting.pop(0)
        if isinstance(cause, BaseException) and id(cause) not in seen:
            seen.add(id(cause))
            yield cause
            wrapped = getattr(cause, "kwargs", {}).get("error")
            waiting += [wrapped, getattr(cause, "reason", None), *cause.args, cause.__cause__, cause.__context__]


def _one_line(text: str) -> str:
    """Return somebody else's text, made to fit into a line of ours."""
    line = " ".join(text.split()).rstrip(".")
    return line if len(line) <= TEXT_MAX else line[: TEXT_MAX - 1] + "…"
