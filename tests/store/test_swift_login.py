"""How the Swift driver finds out who it is: variables, servers that are no Swift, TLS, secrets in logs."""

from __future__ import annotations

import json
import logging
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cubefs.errors import (
    StoreDeniedError,
    StoreError,
    StoreUnavailableError,
    StoreUnsuitableError,
    UsageError,
)
from cubefs.store.swift import open_swift
from cubefs.store.swift_auth import Given, Keystone, Version1, find_login
from tests.support.servers.access import DIRECT
from tests.support.servers.swift import SwiftServer
from tests.support.swift_stores import make_place
from tests.support.tls_front import TlsFront, write_certificate

KEYSTONE = {
    "OS_AUTH_URL": "https://keystone.example:5000",
    "OS_USERNAME": "ada",
    "OS_PASSWORD": "secret",
    "OS_PROJECT_NAME": "engines",
}
APPLICATION = {
    "OS_AUTH_TYPE": "v3applicationcredential",
    "OS_AUTH_URL": "https://keystone.example/identity/v3/",
    "OS_APPLICATION_CREDENTIAL_ID": "1234",
    "OS_APPLICATION_CREDENTIAL_SECRET": "secret",
}
VERSION_1 = {"ST_AUTH": "http://swift.example/auth/v1.0", "ST_USER": "test:tester", "ST_KEY": "testing"}
GIVEN = {"OS_STORAGE_URL": "http://swift.example/v1/AUTH_x/", "OS_AUTH_TOKEN": "token"}
DOMAINS = {"user_domain_id": "default", "project_domain_id": "default"}


@pytest.fixture(autouse=True)
def no_proxy_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in DIRECT.items():
        monkeypatch.setenv(name, value)


# -- variables ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        (VERSION_1, Version1("http://swift.example/auth/v1.0", "test:tester", "testing")),
        ({**VERSION_1, **KEYSTONE}, Version1("http://swift.example/auth/v1.0", "test:tester", "testing")),
        (
            {**KEYSTONE, "ST_AUTH_VERSION": "1.0"},
            Version1("https://keystone.example:5000", "ada", "secret"),
        ),
        (
            {**VERSION_1, "OS_STORAGE_URL": "http://10.0.0.1/v1/AUTH_x/"},
            Version1("http://swift.example/auth/v1.0", "test:tester", "testing", "http://10.0.0.1/v1/AUTH_x"),
        ),
        (GIVEN, Given("http://swift.example/v1/AUTH_x", "token")),
        ({**GIVEN, "OS_AUTH_URL": "http://x"}, Given("http://swift.example/v1/AUTH_x", "token")),
        ({**GIVEN, "ST_AUTH": "http://x"}, Given("http://swift.example/v1/AUTH_x", "token")),
    ],
)
def test_logins_without_keystone(environ: Mapping[str, str], expected: Any) -> None:
    assert find_login(environ) == (expected, None)


@pytest.mark.parametrize(
    ("environ", "credential"),
    [
        (KEYSTONE, {"username": "ada", "password": "secret", "project_name": "engines", **DOMAINS}),
        (
            {**KEYSTONE, **{name: "" for name in VERSION_1}, "OS_IDENTITY_API_VERSION": "3"},
            {"username": "ada", "password": "secret", "project_name": "engines", **DOMAINS},
        ),
        (
            {**KEYSTONE, **VERSION_1, "OS_AUTH_TYPE": "password"},
            {"username": "ada", "password": "secret", "project_name": "engines", **DOMAINS},
        ),
        (
            {**KEYSTONE, "OS_USER_DOMAIN_NAME": "Users", "OS_PROJECT_DOMAIN_ID": "77"},
            {
                "username": "ada",
                "password": "secret",
                "project_name": "engines",
                "user_domain_name": "Users",
                "project_domain_id": "77",
            },
        ),
        (
            {
                "OS_AUTH_URL": "https://keystone.example:5000/",
                "OS_USER_ID": "1",
                "OS_PASSWORD": "secret",
                "OS_PROJECT_ID": "2",
            },
            {"user_id": "1", "password": "secret", "project_id": "2"},
        ),
        (
            {
                "OS_AUTH_URL": "https://keystone.example:5000",
                "OS_USER_ID": "1",
                "OS_PASSWORD": "secret",
                "OS_TENANT_NAME": "old",
                "OS_DEFAULT_DOMAIN": "dom",
            },
            {"user_id": "1", "password": "secret", "project_name": "old", "project_domain_id": "dom"},
        ),
    ],
)
def test_keystone_by_password(environ: Mapping[str, str], credential: Mapping[str, str]) -> None:
    login, _ = find_login(environ)
    assert isinstance(login, Keystone)
    assert (login.auth_url, login.credential) == ("https://keystone.example:5000/v3", credential)
    assert (login.by_password, login.region, login.interface, login.service_type, login.storage_url) == (
        True,
        None,
        "public",
        "object-store",
        None,
    )


def test_keystone_by_application_credential() -> None:
    login, _ = find_login({**KEYSTONE, **APPLICATION})
    assert isinstance(login, Keystone)
    assert (login.auth_url, login.by_password) == ("https://keystone.example/identity/v3", False)
    assert login.credential == {"application_credential_id": "1234", "application_credential_secret": "secret"}
    by_name = {**APPLICATION, "OS_APPLICATION_CREDENTIAL_ID": "", "OS_APPLICATION_CREDENTIAL_NAME": "backup"}
    login, _ = find_login({**by_name, "OS_USERNAME": "ada", "OS_AUTH_TYPE": ""})
    assert isinstance(login, Keystone)
    assert login.credential == {
        "application_credential_name": "backup",
        "application_credential_secret": "secret",
        "username": "ada",
        "user_domain_id": "default",
    }


def test_where_in_the_catalogue() -> None:
    more = {
        "OS_REGION_NAME": "north",
        "OS_ENDPOINT_TYPE": "internalURL",
        "OS_SERVICE_TYPE": "object-store-2",
        "OS_STORAGE_URL": "http://s/v1/AUTH_x",
    }
    login, _ = find_login({**KEYSTONE, **more})
    assert isinstance(login, Keystone)
    assert (login.region, login.interface, login.service_type, login.storage_url) == (
        "north",
        "internal",
        "object-store-2",
        "http://s/v1/AUTH_x",
    )
    login, _ = find_login({**KEYSTONE, **more, "OS_INTERFACE": "admin"}, region="south")
    assert isinstance(login, Keystone)
    assert (login.region, login.interface) == ("south", "admin")


@pytest.mark.parametrize(
    ("environ", "says"),
    [
        ({}, "ST_AUTH, ST_USER and ST_KEY.*OS_AUTH_URL.*OS_STORAGE_URL"),
        ({"ST_AUTH": "http://x"}, "ST_USER or OS_USERNAME, ST_KEY or OS_PASSWORD"),
        ({"ST_KEY": "x", "ST_USER": "y"}, "ST_AUTH"),
        ({**KEYSTONE, "OS_PASSWORD": ""}, "Keystone needs OS_PASSWORD"),
        ({**KEYSTONE, "OS_PROJECT_NAME": ""}, "OS_PROJECT_NAME or OS_PROJECT_ID or OS_TENANT_NAME"),
        ({**KEYSTONE, "OS_USERNAME": ""}, "OS_USERNAME or OS_USER_ID"),
        ({**APPLICATION, "OS_APPLICATION_CREDENTIAL_SECRET": ""}, "credential needs OS_APPLICATION_CREDENTIAL_S"),
        ({**APPLICATION, "OS_AUTH_URL": ""}, "OS_AUTH_URL"),
        ({**KEYSTONE, "OS_AUTH_TYPE": "v3totp"}, "v3totp is not supported"),
        ({**KEYSTONE, "OS_AUTH_VERSION": "2.0"}, "OS_AUTH_VERSION=2.0 is not supported"),
        ({**KEYSTONE, "OS_AUTH_URL": "https://keystone.example/v2.0/"}, "Keystone v2"),
        ({**KEYSTONE, "OS_AUTH_URL": "keystone.example:5000"}, "OS_AUTH_URL=keystone.*http"),
        ({**VERSION_1, "ST_AUTH": "http://:80/"}, "names a host"),
        ({**VERSION_1, "ST_AUTH": "http://[::1/"}, "not a URL"),
        ({**VERSION_1, "ST_AUTH": "http://ada:secret@x/"}, "ST_AUTH must not contain credentials"),
        ({**GIVEN, "OS_STORAGE_URL": "ftp://x"}, "OS_STORAGE_URL"),
        ({"OS_STORAGE_URL": "http://x/v1/a"}, "no credentials"),
        ({**VERSION_1, "OS_CACERT": "/does/not/exist"}, "OS_CACERT=/does/not/exist.*No such file"),
    ],
)
def test_what_is_missing_or_wrong_is_named_in_one_line(environ: Mapping[str, str], says: str) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        open_swift("swift://place/a", environ=environ)
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


def test_certificates_must_be_some(tmp_path: Path) -> None:
    certificate, _ = write_certificate(tmp_path)
    assert find_login({**VERSION_1, "OS_CACERT": str(certificate)})[1] == str(certificate)
    assert find_login({**VERSION_1, "OS_CACERT": str(tmp_path)})[1] == str(tmp_path)
    (tmp_path / "x.pem").write_text("no certificate")
    with pytest.raises(UsageError, match=r"OS_CACERT=.*x\.pem cannot be used: it holds no certificates"):
        find_login({**VERSION_1, "OS_CACERT": str(tmp_path / "x.pem")})


@pytest.mark.parametrize("environ", [VERSION_1, KEYSTONE, APPLICATION, GIVEN])
def test_values_do_not_show_their_secrets(environ: Mapping[str, str]) -> None:
    login, _ = find_login(environ)
    assert not any(secret in repr(login) for secret in ("'testing'", "'secret'", "'token'"))


# -- authentication servers -----------------------------------------------------------------------------------


def test_a_given_token_is_used_and_not_renewed(swift_server: SwiftServer) -> None:
    place = make_place(swift_server)
    with swift_server.swift.connection() as connection:
        storage_url, token = connection.get_auth()
    store = open_swift(f"swift://{place}/a", environ={"OS_STORAGE_URL": storage_url, "OS_AUTH_TOKEN": token})
    store.put("x", b"1")
    assert store.get("x") == b"1"
    swift_server.forget_tokens()
    with pytest.raises(StoreDeniedError, match=r"x in swift://.*OS_AUTH_TOKEN may have expired") as caught:
        store.get("x")
    assert token not in str(caught.value)


@contextmanager
def speaker(answer: bytes) -> Iterator[str]:
    """A server that says `answer` to whoever connects and hangs up; yield its address."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    client, _ = listener.accept()
                except OSError:
                    return
                with client:
                    client.settimeout(5)
                    client.recv(65536)
                    client.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield f"127.0.0.1:{listener.getsockname()[1]}"
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def http_answer(status: str, body: str, *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers, "", body]
    return "\r\n".join(lines).encode()


V1: Callable[[str], Mapping[str, str]] = lambda host: {**VERSION_1, "ST_AUTH": f"http://{host}/auth/v1.0"}  # noqa: E731
V3: Callable[[str], Mapping[str, str]] = lambda host: {**KEYSTONE, "OS_AUTH_URL": f"http://{host}"}  # noqa: E731


@pytest.mark.parametrize("environ", [V1, V3], ids=["v1", "v3"])
@pytest.mark.parametrize(
    ("answer", "error", "says"),
    [
        (http_answer("200 OK", "<html>Welcome</html>"), StoreUnsuitableError, "no Swift answers there"),
        (http_answer("404 Not Found", "<html>no</html>"), StoreUnsuitableError, r"no Swift answers there.*\(404\)"),
        (http_answer("405 Method Not Allowed", ""), StoreUnsuitableError, "no Swift answers there"),
        (http_answer("403 Forbidden", "<Error/>"), StoreDeniedError, "refused: check"),
        (http_answer("503 Busy", "", "Retry-After: 4"), StoreUnavailableError, r"busy.*\(503\)"),
        (b"SSH-2.0-OpenSSH_9.9\r\n", StoreUnsuitableError, "does not speak HTTP"),
        (b"", StoreUnavailableError, "closed without an answer|reset"),
    ],
)
def test_something_else_answers(
    environ: Callable[[str], Mapping[str, str]], answer: bytes, error: type[StoreError], says: str
) -> None:
    with speaker(answer) as host:
        store = open_swift("swift://place/a", environ=environ(host))
        with pytest.raises(error, match=says) as caught:
            store.get("x")
    line = str(caught.value)
    assert line.startswith(("swift://place/a: authentication at", "the store is busy: swift://place/a: authent"))
    assert "\n" not in line
    assert "secret" not in line


def test_what_keystone_says_against_a_request_is_passed_on() -> None:
    body = json.dumps(
        {"error": {"code": 400, "title": "Bad Request", "message": "Expecting a \n domain." + "x" * 999}}
    )
    answer = http_answer("400 Bad Request", body, "Content-Type: application/json")
    with (
        speaker(answer) as host,
        pytest.raises(StoreDeniedError, match=r"refused: Expecting a \\n dom") as caught,
    ):
        open_swift("swift://place/a", environ=V3(host)).get("x")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("headers", [(), ("X-Storage-Url: file:///etc",)])
def test_an_answer_without_a_storage_url(headers: tuple[str, ...]) -> None:
    answer = http_answer("204 No Content", "", "X-Auth-Token: x", *headers)
    with speaker(answer) as host, pytest.raises(StoreUnsuitableError, match="no Swift answers there"):
        open_swift("swift://place/a", environ=V1(host)).get("x")


@pytest.mark.parametrize("environ", [V1, V3], ids=["v1", "v3"])
@pytest.mark.parametrize(
    ("host", "says"), [("127.0.0.1:1", "Connection refused"), ("no.invalid", "the host is not known")]
)
def test_nobody_answers(environ: Callable[[str], Mapping[str, str]], host: str, says: str) -> None:
    with pytest.raises(StoreUnavailableError, match=says):
        open_swift("swift://place/a", environ=environ(host)).get("x")


def test_a_storage_url_that_answers_nonsense() -> None:
    page = http_answer("200 OK", "<html>Welcome</html>", "ETag: x")
    with speaker(page) as host:
        environ = {"OS_STORAGE_URL": f"http://{host}/v1/AUTH_x", "OS_AUTH_TOKEN": "t"}
        store = open_swift("swift://place/a", environ=environ)
        calls: list[Callable[[], Any]] = [
            lambda: store.get("x"),
            lambda: store.get_range("x", start=0, length=3),
            lambda: store.head("x"),
            lambda: list(store.list("")),
            lambda: store.put("x", b"1"),
            lambda: store.put_new("x", b"1"),
            lambda: store.now_ns(),
            lambda: store.delete_many(["x", "y"]),
        ]
        for call in calls:
            with pytest.raises((StoreUnavailableError, StoreUnsuitableError)) as caught:
                call()
            assert "\n" not in str(caught.value)


def test_redirections_do_not_get_the_token() -> None:
    with speaker(http_answer("302 Found", "", "Location: http://127.0.0.1:1/")) as host:
        environ = {"OS_STORAGE_URL": f"http://{host}/v1/AUTH_x", "OS_AUTH_TOKEN": "t"}
        with pytest.raises(StoreError, match=r"unexpected answer.*\(302\)"):
            open_swift("swift://place/a", environ=environ).get("x")


# -- TLS ------------------------------------------------------------------------------------------------------


def test_a_certificate_is_verified(swift_server: SwiftServer, tmp_path: Path) -> None:
    certificate, key = write_certificate(tmp_path)
    place = make_place(swift_server)
    with TlsFront(swift_server.url, certificate=certificate, key=key) as front:
        environ = swift_server.swift_environment(via=front.url)
        environ["OS_STORAGE_URL"] = swift_server.swift.via(front.url).storage_url
        host = front.url.removeprefix("https://")
        with pytest.raises(StoreError, match=rf"certificate of {host} cannot be trusted.*OS_CACERT") as caught:
            open_swift(f"swift://{place}/a", environ=environ).get("x")
        assert not caught.value.retryable
        trusting = open_swift(f"swift://{place}/a", environ={**environ, "OS_CACERT": str(certificate)})
        trusting.put("x", b"1")
        assert trusting.get("x") == b"1"
        by_name = {name: value.replace("127.0.0.1:", "localhost:") for name, value in environ.items()}
        with pytest.raises(StoreError, match=r"cannot be trusted.*not valid for 'localhost'"):
            open_swift(f"swift://{place}/a", environ={**by_name, "OS_CACERT": str(certificate)}).get("x")


@pytest.mark.parametrize("kind", [KEYSTONE, APPLICATION], ids=["password", "application"])
def test_a_certificate_of_keystone_is_verified(
    swift_server: SwiftServer, tmp_path: Path, kind: Mapping[str, str]
) -> None:
    certificate, key = write_certificate(tmp_path)
    with TlsFront(swift_server.url, certificate=certificate, key=key) as front:
        environ = {**kind, "OS_AUTH_URL": front.url}
        with pytest.raises(StoreError, match=r"certificate of 127.* cannot be trusted.*OS_CACERT"):
            open_swift("swift://place/a", environ=environ).get("x")
        # trusted then, but what answers is no Keystone
        with pytest.raises(StoreUnsuitableError, match="no Swift answers there"):
            open_swift("swift://place/a", environ={**environ, "OS_CACERT": str(certificate)}).get("x")


def test_tls_where_there_is_none(swift_server: SwiftServer) -> None:
    environ = swift_server.swift_environment(via=swift_server.url.replace("http:", "https:"))
    with pytest.raises(StoreUnsuitableError, match="does not speak TLS: is its URL http:// and not https://"):
        open_swift("swift://place/a", environ=environ).get("x")


# -- logs -----------------------------------------------------------------------------------------------------


def test_nothing_is_printed_and_no_secret_logged(
    swift_server: SwiftServer, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    store = open_swift(f"swift://{make_place(swift_server)}/a", environ=swift_server.swift_environment())
    store.put("x", b"1")
    token = store._account.access().token
    with pytest.raises(StoreError):
        store.get("missing")
    wrong = {**swift_server.swift_environment(), "ST_KEY": "0123456789abcdef-wrong"}
    with pytest.raises(StoreDeniedError):
        open_swift(store.describe(), environ=wrong).get("x")
    with pytest.raises(StoreUnavailableError):
        open_swift(store.describe(), environ=V3("127.0.0.1:1")).get("x")
    assert capfd.readouterr() == ("", "")
    text = caplog.text
    assert not any(secret in text for secret in (token, token[:12], "testing", "0123456789abcdef"[:8], "secret"))
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
