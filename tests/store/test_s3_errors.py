"""What S3's codes and boto3's exceptions become: the class decides what is tried again, the line helps a person."""

from __future__ import annotations

import socket
import ssl

import botocore.exceptions as boto
import pytest
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
from cubefs.store.base import GivenUpError
from cubefs.store.s3_errors import TEXT_MAX, Place, translate, translate_opening

FINAL = (StoreError, StoreUnsuitableError)  # nobody tries again
NOON_S = 1_732_104_000.0  # Wed, 20 Nov 2024 12:00:00 GMT
PLACE = Place("bucket", "https://s3.example.com", "s3://bucket/prefix")
KEY = "AKIAIOSFODNN7EXAMPLE"


def answer(status: int, code: str | None, *, headers: dict[str, str] | None = None, **fields: object) -> Exception:
    metadata = {"HTTPStatusCode": status, "HTTPHeaders": headers or {}}
    return boto.ClientError({"Error": {"Code": code, **fields}, "ResponseMetadata": metadata}, "GetObject")


def line(error: Exception, kind: type[Exception], *, is_head: bool = False, spoke_before: bool = False) -> str:
    found = translate(error, what="meta/1", place=PLACE, now_s=NOON_S, is_head=is_head, spoke_before=spoke_before)
    assert type(found) is kind
    assert "\n" not in str(found)
    return str(found)


@pytest.mark.parametrize(
    ("status", "code", "kind", "says"),
    [
        (404, "NoSuchKey", ObjectMissingError, "no object meta/1 in s3://bucket/prefix"),
        (
            404,
            "NoSuchBucket",
            NoStoreError,
            "bucket bucket does not exist at https://s3.example.com: create it first",
        ),
        (400, "InvalidBucketName", NoStoreError, "can be called 'bucket'"),
        (403, "AccessDenied", StoreDeniedError, "no permission"),
        (403, "InvalidAccessKeyId", StoreDeniedError, "does not know this access key"),
        (403, "SignatureDoesNotMatch", StoreDeniedError, "secret key is wrong"),
        (400, "ExpiredToken", StoreDeniedError, "have expired: get new ones"),
        (400, "InvalidToken", StoreDeniedError, "AWS_SESSION_TOKEN"),
        (403, "SomethingElse", StoreDeniedError, "SomethingElse (403)"),
        (403, "InvalidObjectState", StoreUnsuitableError, "in an archive"),
        (403, "QuotaExceeded", StoreFullError, "no room"),
        (413, "EntityTooLarge", StoreFullError, "no room"),
        (507, "XMinioStorageFull", StoreFullError, "no room"),
        (400, "BadDigest", StoreUnavailableError, "damaged on the way"),
        (400, "XAmzContentSHA256Mismatch", StoreUnavailableError, "damaged on the way"),
        (400, "IncompleteBody", StoreUnavailableError, "damaged on the way"),
        (400, "RequestTimeout", StoreUnavailableError, "trouble"),
        (409, "ConditionalRequestConflict", StoreUnavailableError, "trouble"),
        (409, "OperationAborted", StoreUnavailableError, "trouble"),
        (500, "InternalError", StoreUnavailableError, "trouble"),
        (200, "InternalError", StoreUnavailableError, "trouble"),  # one of many deletions
        (503, "SlowDown", StoreBusyError, "busy"),
        (503, "ServiceUnavailable", StoreBusyError, "busy"),
        (429, "TooManyRequests", StoreBusyError, "busy"),
        (400, "KMS.ThrottlingException", StoreBusyError, "busy"),
        (501, "NotImplemented", StoreUnsuitableError, "cannot do what cubefs needs"),
        (405, "MethodNotAllowed", StoreUnsuitableError, "cannot do what cubefs needs"),
        (301, "PermanentRedirect", StoreError, "another region"),
        (400, "Strange", StoreError, "Strange (400)"),
        (400, "400", StoreUnsuitableError, "does not speak S3: it answers Bad Request (400)"),
        (404, "", StoreUnsuitableError, "does not speak S3: it answers Not Found (404)"),
        (404, None, StoreUnsuitableError, "does not speak S3"),
        (401, "401", StoreDeniedError, "Unauthorized (401)"),
        (502, "502", StoreUnavailableError, "Bad Gateway (502)"),
        (799, "799", StoreUnsuitableError, "answer (799)"),
    ],
)
def test_answers(status: int, code: str | None, kind: type[StoreError], says: str) -> None:
    assert says in line(answer(status, code), kind)


def test_the_answer_to_head_has_a_status_only() -> None:
    line(answer(404, "404"), ObjectMissingError, is_head=True)
    line(answer(403, "403"), StoreDeniedError, is_head=True)
    line(answer(400, "400"), StoreError, is_head=True)


@pytest.mark.parametrize(("status", "code"), [(404, ""), (400, "400"), (405, None), (302, "302"), (501, "501")])
def test_who_has_spoken_s3_before_has_somebody_before_it_now(status: int, code: str | None) -> None:
    assert "at the moment is no S3" in line(answer(status, code), StoreUnavailableError, spoke_before=True)
    with_id = answer(status, code, headers={"x-amz-request-id": "1"})
    assert type(translate(with_id, what="a", place=PLACE, now_s=NOON_S, spoke_before=True)) in FINAL
    assert "at the moment" in line(ResponseParserError("no XML"), StoreUnavailableError, spoke_before=True)


def test_what_s3_says_for_good_stays_so_whoever_spoke_before() -> None:
    line(answer(400, "Strange"), StoreError, spoke_before=True)
    line(answer(404, "NoSuchKey"), ObjectMissingError, spoke_before=True)
    line(answer(403, "403"), StoreDeniedError, spoke_before=True)


def test_the_stores_own_words_are_kept_short_and_on_one_line() -> None:
    said = line(
        answer(403, "AccessDenied2", Message="User: arn:aws:iam::1\n  is not\tauthorized. "), StoreDeniedError
    )
    assert said.endswith("AccessDenied2 (403): User: arn:aws:iam::1 is not authorized")
    long = line(answer(400, "Strange", Message="x" * 5000), StoreError)
    assert "x" * (TEXT_MAX - 1) + "…" in long
    assert len(long) < TEXT_MAX + 120
    line(answer(400, "Strange", Message={"Nested": "x"}), StoreError)


def test_how_long_to_wait() -> None:
    for status, code in [(503, "SlowDown"), (503, "503"), (500, "InternalError"), (500, "Odd"), (429, "Odd")]:
        error = answer(status, code, headers={"retry-after": "Wed, 20 Nov 2024 12:00:30 GMT"})
        found = translate(error, what="a", place=PLACE, now_s=NOON_S)
        assert isinstance(found, StoreUnavailableError)
        assert found.retry_after_s == 30


def test_a_clock_that_is_off_is_told_by_how_much() -> None:
    for date, says in [
        ("Wed, 20 Nov 2024 11:00:00 GMT", "ours is 3600 s ahead of that of https://s3.example.com; set it right"),
        ("Wed, 20 Nov 2024 12:20:00 GMT", "ours is 1200 s behind that of"),
        ("never", "differ too much"),
    ]:
        assert says in line(answer(403, "RequestTimeTooSkewed", headers={"date": date}), StoreDeniedError)
    assert "differ too much" in line(answer(403, "RequestTimeTooSkewed"), StoreDeniedError)


def test_the_right_region_is_named_where_it_is_known() -> None:
    says = "open it with ?region=eu-west-1"
    assert says in line(answer(301, "301", headers={"x-amz-bucket-region": "eu-west-1"}), StoreError)
    assert says in line(answer(400, "AuthorizationHeaderMalformed", Region="eu-west-1"), StoreError)
    assert "name it with ?region=" in line(answer(400, "AuthorizationHeaderMalformed", Region="e\nu"), StoreError)
    assert "check endpoint and region" in line(answer(302, "302"), StoreError)


def test_credentials_that_cannot_be_had() -> None:
    assert "AWS_ACCESS_KEY_ID" in line(boto.NoCredentialsError(), StoreDeniedError)
    role = boto.CredentialRetrievalError(provider="iam-role", error_msg="timed out")
    assert "at the moment" in line(role, StoreUnavailableError)
    assert "log in again" in line(boto.UnauthorizedSSOTokenError(), StoreDeniedError)
    stale = RuntimeError("Credentials were refreshed, but the refreshed credentials are still expired.")
    assert "log in again" in line(stale, StoreDeniedError)


def wrapped(kind: type[Exception], inner: Exception) -> Exception:
    """An error as botocore makes them: around one of urllib3, around one of the system."""
    outer = urllib3.exceptions.ProtocolError("Connection broken", inner)
    outer.__cause__ = inner
    return kind(endpoint_url="https://s3.example.com/bucket/key?secret", error=outer)


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (wrapped(boto.EndpointConnectionError, ConnectionRefusedError(111, "Connection refused")), "refused"),
        (wrapped(boto.EndpointConnectionError, socket.gaierror(-2, "Name or service not known")), "not known"),
        (wrapped(boto.ConnectionClosedError, BrokenPipeError(32, "Broken pipe")), "failed: Broken pipe"),
        (wrapped(boto.ConnectionClosedError, ValueError("x")), "failed: the connection was closed"),
        (boto.ConnectTimeoutError(endpoint_url="u", error="e"), "does not answer at all"),
        (boto.ReadTimeoutError(endpoint_url="u", error="e"), "silent for too long"),
        (boto.IncompleteReadError(actual_bytes=1, expected_bytes=2), "cut off"),
        (boto.ResponseStreamingError(error="e"), "cut off"),
        (boto.ProxyConnectionError(proxy_url="http://me:secret@proxy", error="e"), "through the proxy failed"),
        (wrapped(boto.SSLError, ssl.SSLError(1, "[SSL] odd")), "the encrypted connection to"),
        (wrapped(boto.HTTPClientError, OSError(24, "Too many open files")), "Too many open files"),
        (boto.HTTPClientError(error=UnicodeDecodeError("ascii", b"x", 0, 1, "odd")), "failed: no proper HTTP"),
        (boto.HTTPClientError(error=TypeError("x")), "failed: unexpected TypeError"),
        (OSError(101, "Network is unreachable"), "Network is unreachable"),
    ],
)
def test_trouble_on_the_line_may_pass(error: Exception, says: str) -> None:
    told = line(error, StoreUnavailableError)
    assert says in told
    assert told.startswith("meta/1 in s3://bucket/prefix: ")
    assert "secret" not in told
    assert "Error(" not in told


def test_trust_and_language() -> None:
    untrusted = ssl.SSLCertVerificationError(1, "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed")
    assert "cannot trust the certificate of https://s3.example.com" in line(
        wrapped(boto.SSLError, untrusted), StoreError
    )
    assert "does not speak S3" in line(ResponseParserError("not XML"), StoreUnsuitableError)


def test_what_is_ours_goes_through() -> None:
    """A limit that gives up waiting, in the middle of a body that botocore sends, is no error of the store."""

    for own in (GivenUpError("stopping"), StoreFullError("full")):
        assert translate(boto.HTTPClientError(error=own), what="a", place=PLACE, now_s=NOON_S) is own
    assert translate(own, what="a", place=PLACE, now_s=NOON_S) is own


def test_whatever_else_the_library_raises_is_a_store_error() -> None:
    assert "Invalid timestamp" in line(ValueError('Invalid timestamp "x"'), StoreUnavailableError)
    assert "cannot be understood (KeyError)" in line(KeyError(), StoreUnavailableError)
    assert "Parameter validation failed" in line(boto.ParamValidationError(report="a\nb"), StoreError)


@pytest.mark.parametrize(
    ("error", "kind", "says"),
    [
        (boto.ProfileNotFound(profile="x"), UsageError, r"profile \(x\) could not be found; set AWS_ACCESS_KEY_ID"),
        (
            boto.PartialCredentialsError(provider="env", cred_var="b"),
            UsageError,
            "no complete credentials for s3://b",
        ),
        (boto.InvalidRegionError(region_name="x y"), UsageError, "cannot use s3://b: .*'x y'"),
        (ValueError("Invalid endpoint: x"), UsageError, "cannot use s3://b: Invalid endpoint: x"),
        (boto.CredentialRetrievalError(provider="p", error_msg="e"), StoreUnavailableError, "at the moment"),
    ],
)
def test_what_prevents_opening(error: Exception, kind: type[CubefsError], says: str) -> None:
    found = translate_opening(error, url="s3://b")
    assert type(found) is kind
    with pytest.raises(kind, match=says):
        raise found
