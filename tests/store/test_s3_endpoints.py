"""The S3 driver against endpoints that are none, are not what they should be, or have oddities of their own.

What no real server at hand does is done by a small one that answers as it is told.
"""

from __future__ import annotations

import datetime
import hashlib
import ipaddress
import itertools
import os
import ssl
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from xml.sax.saxutils import escape

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from cubefs.errors import (
    ObjectMissingError,
    StoreBusyError,
    StoreDeniedError,
    StoreError,
    StoreUnavailableError,
    StoreUnsuitableError,
)
from cubefs.store import base
from cubefs.store.base import Store
from cubefs.store.s3 import open_s3
from tests.support.endpoint import Answer, Endpoint, Request


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, os.devnull)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = Endpoint()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def url_of(endpoint: Endpoint, scheme: str = "http") -> str:
    return f"s3://bucket/prefix?endpoint_url={scheme}://127.0.0.1:{endpoint.server_port}"


@pytest.fixture
def store(endpoint: Endpoint) -> Store:
    return open_s3(url_of(endpoint))


def xml(text: str) -> bytes:
    return f'<?xml version="1.0" encoding="UTF-8"?>{text}'.encode()


def failure(status: int, code: str, **fields: str) -> Answer:
    inner = "".join(f"<{name}>{escape(value)}</{name}>" for name, value in fields.items())
    return status, {"Content-Type": "application/xml"}, xml(f"<Error><Code>{code}</Code>{inner}</Error>")


def an_object(body: bytes, *, etag: str | None = None, **headers: str) -> Answer:
    md5 = hashlib.md5(body, usedforsecurity=False).hexdigest()
    more = {name.replace("_", "-"): value for name, value in headers.items()}
    return 200, {"ETag": f'"{md5 if etag is None else etag}"', **more}, body


def stored(body: bytes, *, etag: str | None = None, **headers: str) -> Answer:
    """Answer to a put of `body`."""
    status, more, _ = an_object(body, etag=etag, **headers)
    return status, more, b""


def listing(*names: str, more: str = "") -> Answer:
    entries = "".join(f"<Contents><Key>prefix/{escape(name)}</Key><Size>1</Size></Contents>" for name in names)
    truncated = f"<IsTruncated>{'true' if more else 'false'}</IsTruncated>{more}"
    return 200, {}, xml(f"<ListBucketResult>{entries}{truncated}</ListBucketResult>")


def calls_upon(store: Store) -> dict[str, Callable[[], object]]:
    return {
        "put": lambda: store.put("a", b"1"),
        "get": lambda: store.get("a"),
        "get_range": lambda: store.get_range("a", start=0, length=1),
        "list": lambda: list(store.list("")),
        "delete_many": lambda: store.delete_many(["a", "b"]),
    }


# -- no S3 ----------------------------------------------------------------------------------------------------

HTML = {"Content-Type": "text/html"}
PAGE = b"<!DOCTYPE html><html><body><p>Welcome<br></body></html>"
XHTML = b"<html xmlns='http://www.w3.org/1999/xhtml'><body><p>Welcome</p></body></html>"


def test_an_endpoint_that_speaks_no_s3(endpoint: Endpoint, store: Store) -> None:
    says = f"http://127.0.0.1:{endpoint.server_port} does not speak S3.*check the endpoint"
    for status, page in itertools.product([400, 404, 405], [PAGE, XHTML, b"", b"Welcome"]):
        endpoint.answer = lambda request, answer=(status, HTML, page): answer
        for call in calls_upon(store).values():
            with pytest.raises(StoreUnsuitableError, match=says) as caught:
                call()
            assert "\n" not in str(caught.value)


def test_an_endpoint_that_finds_everything_good(endpoint: Endpoint, store: Store) -> None:
    """What it says of a put or a deletion may look well; what is read does not."""
    for page in [PAGE, XHTML, b"", b"Welcome"]:
        endpoint.answer = lambda request, page=page: (200, HTML, page)
        with pytest.raises(StoreUnsuitableError, match=r"does not speak S3.*check the endpoint"):
            store.get("a")
        with pytest.raises(StoreError, match=r"speaks? S3"):
            list(store.list(""))


def test_a_gateway_in_trouble_is_not_taken_for_that(endpoint: Endpoint, store: Store) -> None:
    endpoint.answer = lambda request: (502, HTML, PAGE)
    for call in calls_upon(store).values():
        with pytest.raises(StoreUnavailableError, match=r"Bad Gateway \(502\)"):
            call()
    endpoint.answer = lambda request: (503, {**HTML, "Retry-After": "9"}, PAGE)
    for call in calls_upon(store).values():
        with pytest.raises(StoreBusyError) as caught:
            call()
        assert caught.value.retry_after_s == 9


def test_an_endpoint_that_sends_us_elsewhere(endpoint: Endpoint, store: Store) -> None:
    endpoint.answer = lambda request: (302, {"Location": "https://example.com/login"}, b"")
    with pytest.raises(StoreError, match=r"sends us elsewhere \(Found \(302\)\): check endpoint and region"):
        store.get("a")
    assert len(endpoint.requests) == 1


def test_a_bucket_in_another_region(endpoint: Endpoint, store: Store) -> None:
    wrong = failure(400, "AuthorizationHeaderMalformed", Message="the region is wrong", Region="eu-south-9")
    endpoint.answer = lambda request: wrong
    with pytest.raises(
        StoreError, match=r"the bucket bucket is in another region: open it with \?region=eu-south-9"
    ):
        store.get("a")


# -- TLS ------------------------------------------------------------------------------------------------------


@pytest.fixture
def tls(endpoint: Endpoint, tmp_path: Path) -> Path:
    """Make the endpoint speak TLS with a certificate signed by nobody; return the certificate."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), True)
        .sign(key, hashes.SHA256())
    )
    path, key_path = tmp_path / "certificate.pem", tmp_path / "key.pem"
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    key_path.write_bytes(key.private_bytes(encoding, form, serialization.NoEncryption()))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path, key_path)
    endpoint.socket = context.wrap_socket(endpoint.socket, server_side=True, do_handshake_on_connect=False)
    return path


def test_a_certificate_that_nobody_vouches_for(
    endpoint: Endpoint, tls: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for call in calls_upon(open_s3(url_of(endpoint, "https"))).values():
        says = r"cannot trust the certificate of https://127\.0\.0\.1:\d+: self.signed certificate; .*AWS_CA_BUNDLE"
        with pytest.raises(StoreError, match=says) as caught:
            call()
        assert not caught.value.retryable
        assert "\n" not in str(caught.value)
    monkeypatch.setenv("AWS_CA_BUNDLE", str(tls))
    endpoint.answer = lambda request: an_object(b"1")
    assert open_s3(url_of(endpoint, "https")).get("a") == b"1"


@pytest.mark.parametrize(("content", "says"), [(None, "No such file"), ("no certificate", "no certificate in it")])
def test_authorities_that_cannot_be_read(
    endpoint: Endpoint, tls: Path, tmp_path: Path, content: str | None, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = tmp_path / "bundle.pem"
    if content is not None:
        bundle.write_text(content)
    monkeypatch.setenv("AWS_CA_BUNDLE", str(bundle))
    with pytest.raises(
        StoreError, match=f"cannot read the file of certificates that AWS_CA_BUNDLE .*{says}"
    ) as caught:
        open_s3(url_of(endpoint, "https")).get("a")
    assert not caught.value.retryable


def test_an_endpoint_without_tls(endpoint: Endpoint) -> None:
    with pytest.raises(StoreUnsuitableError, match=r"https://127\.0\.0\.1:\d+ does not speak TLS: write .*http://"):
        open_s3(url_of(endpoint, "https")).get("a")


def test_an_endpoint_with_tls_only(endpoint: Endpoint, tls: Path) -> None:
    with pytest.raises(StoreUnavailableError, match=r"the connection to http://127\.0\.0\.1:\d+ failed"):
        open_s3(url_of(endpoint)).get("a")


# -- what is sent ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("body", [b"", b"some bytes", bytes(2 << 20)])
def test_a_put_carries_its_md5_and_no_newer_checksum(endpoint: Endpoint, store: Store, body: bytes) -> None:
    endpoint.answer = lambda request: stored(request.body)
    store.put("a", body)
    (request,) = endpoint.requests
    assert request.body == body
    assert request.headers["content-md5"]
    assert request.headers["content-length"] == str(len(body))
    assert ("expect" in request.headers) == (len(body) > 1 << 20)
    assert request.headers["user-agent"].split()[-1].startswith("cubefs/")
    assert not [name for name in request.headers if name.startswith(("x-amz-checksum", "x-amz-sdk"))]


def test_many_names_go_by_the_thousand(endpoint: Endpoint, store: Store) -> None:
    endpoint.answer = lambda request: (200, {}, xml("<DeleteResult></DeleteResult>"))
    store.delete_many(f"packs/{number}" for number in range(2001))
    assert [request.body.count(b"<Key>prefix/packs/") for request in endpoint.requests] == [1000, 1000, 1]
    for request in endpoint.requests:
        assert request.headers["content-md5"]
        assert not [name for name in request.headers if name.startswith(("x-amz-checksum", "x-amz-sdk"))]


def test_what_could_not_be_deleted_is_told(endpoint: Endpoint, store: Store) -> None:
    kinds = {"AccessDenied": StoreDeniedError, "InternalError": StoreUnavailableError, "SlowDown": StoreBusyError}
    for code, kind in {**kinds, "Strange": StoreError}.items():
        fine = "<Error><Key>prefix/c</Key><Code>NoSuchKey</Code></Error>"
        bad = f"<Error><Key>prefix/b</Key><Code>{code}</Code><Message>No.</Message></Error>"
        answer = 200, {}, xml(f"<DeleteResult>{fine}{bad}</DeleteResult>")
        endpoint.answer = lambda request, answer=answer: answer
        with pytest.raises(kind, match=r"b in s3://bucket/prefix") as caught:
            store.delete_many(["a", "b", "c"])
        assert type(caught.value) is kind


# -- ETags ----------------------------------------------------------------------------------------------------

OTHER_MD5 = "0123456789abcdef0123456789abcdef"


def test_etags_that_are_no_md5s_are_found_out_once(endpoint: Endpoint, store: Store) -> None:
    endpoint.answer = lambda request: stored(request.body, etag=OTHER_MD5)
    store.put("a", b"some bytes")
    endpoint.answer = lambda request: an_object(b"some bytes", etag=OTHER_MD5)
    for _ in range(3):
        assert store.get("a") == b"some bytes"
    assert len(endpoint.requests) == 1 + 2 + 1 + 1


def test_an_object_that_is_wrong_in_the_store_does_not_end_the_comparing(endpoint: Endpoint, store: Store) -> None:
    """It comes twice alike and is returned: the layers above say what is wrong with it."""
    rotten = an_object(b"rotten bytes", etag=OTHER_MD5)
    damaged = iter([an_object(b"1", etag=OTHER_MD5), an_object(b"2", etag=OTHER_MD5)])
    answers = {"good": lambda: an_object(b"good"), "rotten": lambda: rotten, "damaged": lambda: next(damaged)}
    endpoint.answer = lambda request: answers[request.target.rpartition("/")[2]]()
    assert store.get("good") == b"good"
    for _ in range(2):
        assert store.get("rotten") == b"rotten bytes"
    with pytest.raises(StoreUnavailableError, match="damaged on the way, twice"):
        store.get("damaged")
    assert len(endpoint.requests) == 1 + 2 + 2 + 2


def test_etags_that_are_something_else(endpoint: Endpoint, store: Store) -> None:
    encrypted = "x_amz_server_side_encryption"
    for headers in (
        {"etag": OTHER_MD5 + "-2"},  # of an upload in parts
        {"etag": OTHER_MD5, encrypted: "aws:kms"},
        {"etag": OTHER_MD5, encrypted: "aws:kms:dsse"},
        {"etag": OTHER_MD5, f"{encrypted}_customer_algorithm": "AES256"},
        {"etag": "short"},
    ):
        endpoint.requests.clear()
        endpoint.answer = lambda request, headers=headers: stored(b"bytes", **headers)
        store.put("a", b"bytes")
        endpoint.answer = lambda request, headers=headers: an_object(b"bytes", **headers)
        assert store.get("a") == b"bytes"
        assert len(endpoint.requests) == 2


def test_the_answer_to_a_put_tells_what_was_received(endpoint: Endpoint, store: Store) -> None:
    endpoint.answer = lambda request: stored(b"one")
    store.put("a", b"two")  # nothing is known yet of what an ETag is here: reading back decides
    store.put("a", b"one")
    with pytest.raises(
        StoreUnavailableError, match=r"a in s3://bucket/prefix.*: the store has received something else"
    ):
        store.put("a", b"two")
    endpoint.answer = lambda request: stored(b"", etag=hashlib.md5(b"one").hexdigest().upper())
    store.put("a", b"one")


# -- bodies and ranges ----------------------------------------------------------------------------------------


def test_a_body_is_bounded_before_it_is_read(
    endpoint: Endpoint, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "OBJECT_MAX_BYTES", 1000)
    endpoint.answer = lambda request: an_object(b"", Content_Length="1001")
    with pytest.raises(StoreError, match="is 1001 bytes long: not one of ours"):
        store.get("a")
    endless = b"7d0\r\n" + b"x" * 2000 + b"\r\n0\r\n\r\n"
    endpoint.answer = lambda request: (200, {"ETag": '"x"', "Transfer-Encoding": "chunked"}, endless)
    with pytest.raises(StoreError, match="is too long: not one of ours"):
        store.get("a")
    short = b"5\r\nbytes\r\n0\r\n\r\n"
    endpoint.answer = lambda request: (200, {"ETag": '"x"', "Transfer-Encoding": "chunked"}, short)
    assert store.get("a") == b"bytes"


def test_a_store_that_knows_no_ranges(endpoint: Endpoint, store: Store) -> None:
    endpoint.answer = lambda request: an_object(b"0123456789")
    with pytest.raises(
        StoreUnsuitableError, match="sends the whole of a when asked for a part: cubefs needs ranges"
    ):
        store.get_range("a", start=0, length=5)
    with pytest.raises(StoreUnsuitableError):
        store.get_range("a", start=2, length=8)
    assert store.get_range("a", start=0, length=10) == b"0123456789"  # the whole was asked for


def test_another_range_than_asked_for(endpoint: Endpoint, store: Store) -> None:
    headers = {"ETag": '"x"', "Content-Range": "bytes 3-4/10"}
    endpoint.answer = lambda request: (206, headers, b"34")
    assert store.get_range("a", start=3, length=2) == b"34"
    with pytest.raises(StoreUnavailableError, match="another range than asked for"):
        store.get_range("a", start=2, length=2)
    with pytest.raises(StoreError, match="ends before byte 6") as caught:
        store.get_range("a", start=3, length=3)
    assert not caught.value.retryable
    with pytest.raises(StoreUnavailableError, match="not as long as the range"):
        store.get_range("a", start=3, length=1)


# -- listings -------------------------------------------------------------------------------------------------


def test_a_listing_goes_on_by_token_or_by_name(endpoint: Endpoint, store: Store) -> None:
    pages = iter(
        [
            listing("a", "b", more="<NextContinuationToken>to/ken</NextContinuationToken>"),
            listing(more="<NextContinuationToken>second</NextContinuationToken>"),
            listing("c", more="<x/>"),  # some services forget the token
            listing("d"),
        ]
    )
    endpoint.answer = lambda request: next(pages)
    assert [info.name for info in store.list("")] == ["a", "b", "c", "d"]
    targets = [request.target for request in endpoint.requests]
    assert "continuation-token=to%2Fken" in targets[1]
    assert "continuation-token=second" in targets[2]
    assert "start-after=prefix%2Fc" in targets[3]
    assert all("prefix=prefix%2F" in target for target in targets)


def test_what_is_not_ours_is_passed_over(endpoint: Endpoint, store: Store) -> None:
    endpoint.answer = lambda request: listing("", ".hidden", "a", "a b", "a//b", "dir/", "é", "é/b")
    assert [info.name for info in store.list("")] == ["a"]


def test_a_listing_out_of_order_is_refused(endpoint: Endpoint, store: Store) -> None:
    for names in [["b", "a"], ["a", "a"], ["a", "B"]]:
        endpoint.answer = lambda request, names=names: listing(*names)
        with pytest.raises(StoreUnsuitableError, match="lists its objects out of order"):
            list(store.list(""))


def test_a_listing_that_goes_round_in_circles_ends(endpoint: Endpoint, store: Store) -> None:
    endpoint.answer = lambda request: listing("a", "b", more="<x/>")
    with pytest.raises(StoreUnsuitableError, match="out of order"):
        list(store.list(""))
    with pytest.raises(StoreUnsuitableError, match="out of order"):
        list(store.list("", start_after="c"))


# -- credentials that reach one prefix only -------------------------------------------------------------------


def test_who_may_not_list_the_bucket_is_refused_what_is_not_there(endpoint: Endpoint, store: Store) -> None:
    """S3 answers 403 then; the listing of the one name, which is allowed, tells."""

    def answer(request: Request) -> Answer:
        if "list-type=2" in request.target:
            return listing("locked") if "locked" in request.target else listing("missing-too")
        return failure(403, "AccessDenied") if request.method != "HEAD" else (403, {}, b"")

    endpoint.answer = answer
    for name, kind in [("missing", ObjectMissingError), ("locked", StoreDeniedError)]:
        with pytest.raises(kind, match=name):
            store.get(name)
        with pytest.raises(kind, match=name):
            store.head(name)
        with pytest.raises(kind, match=name):
            store.get_range(name, start=0, length=1)
    assert "max-keys=1" in endpoint.requests[1].target
    assert "prefix=prefix%2Fmissing" in endpoint.requests[1].target
    assert store.now_ns() > 0
    endpoint.answer = lambda request: failure(403, "AccessDenied")
    with pytest.raises(StoreDeniedError):
        store.get("missing")
    endpoint.requests.clear()
    for call in (lambda: store.put("missing", b""), lambda: store.delete("missing")):
        with pytest.raises(StoreDeniedError):
            call()
    assert len(endpoint.requests) == 2


def test_a_store_without_a_clock(endpoint: Endpoint, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BaseHTTPRequestHandler, "date_time_string", lambda self: "some day")
    with pytest.raises(StoreUnsuitableError, match="does not tell its time: no Date"):
        store.now_ns()
