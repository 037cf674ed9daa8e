"""What users and their providers do wrong before anything is mounted: one clear line, the documented exit code.

They are found by the driver, for all commands alike: each case is tried with half of them for S3, and with the
others for Swift.
"""

from __future__ import annotations

import http.server
import os
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.faults.scene import PLACE, Cast, Scene
from tests.support.mounting import Finished, Machine
from tests.support.servers.swift import SwiftUser
from tests.support.tls_front import TlsFront, write_certificate

COMMANDS = ("mkfs", "mount", "fsck", "store-test")
CREDENTIALS = ("AWS_", "ST_", "OS_")
FSCK_OWN_CODES = {2: 16}  # fsck(8): wrong usage; everything else that kept it from looking is 8
READER = SwiftUser("test", "reader", "reading", groups=())


class Case(NamedTuple):
    """A store, the environment that is to lead to it, and what must be said about it."""

    url: str
    environment: Mapping[str, str]
    says: str


def run(machine: Machine, command: str, url: str, environment: Mapping[str, str]) -> Finished:
    """Run one of the commands, that would do something if nothing were wrong."""
    machine.mount_point.mkdir(exist_ok=True)
    arguments = {
        "mkfs": ("cubefs", "mkfs", url),
        "mount": ("cubefs", "mount", url, machine.mount_point),
        "fsck": ("cubefs.fsck", url),
        "store-test": ("cubefs", "store-test", "--short", url),
    }[command]
    program, *rest = arguments
    return machine.run(str(program), *rest, environment=environment)


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    """A computer where nothing gets mounted, so that it needs no FUSE, unless something is wrong."""
    made = Machine(tmp_path)
    for name in [name for name in made.environment if name.startswith(CREDENTIALS)]:
        del made.environment[name]
    yield made
    made.close()


def assert_refused(machine: Machine, *cases: Case, code: int, secret: str = "") -> None:
    """Fail unless all commands say what is wrong in one line, without the secret, and end with the code.

    The commands are dealt out to the cases: four to one case, two to each of two. `store-test` may have a verdict
    instead of the line: that this is no store is what it was asked to find out.
    """
    tries = [
        (case, command)
        for number, case in enumerate(cases)
        for command in COMMANDS[number % len(COMMANDS) :: len(cases)]
    ]
    with ThreadPoolExecutor(len(tries)) as pool:
        results = list(pool.map(lambda each: run(machine, each[1], each[0].url, each[0].environment), tries))
    for (case, command), result in zip(tries, results, strict=True):
        if command == "store-test" and result.out:
            assert result.err == ""
            line = result.out.splitlines()[-1]
            assert line.startswith("Verdict: NOT suitable: ")
        else:
            line = result.error_line()
            assert result.out == "", command
        assert case.says in line, (command, line)
        assert result.code == (code if command != "fsck" else FSCK_OWN_CODES.get(code, 8)), (command, line)
        assert not secret or secret not in line
    assert not os.path.ismount(machine.mount_point)


# -- URLs and credentials ----------


def test_urls(machine: Machine) -> None:
    assert_refused(
        machine,
        Case("s3:/bucket", {}, "not a store URL"),
        Case("ftp://host/directory", {}, "unknown kind of store 'ftp'"),
        Case("s3://", {}, "no bucket in"),
        Case("swift://cont/../ainer", {}, "unusable prefix"),
        code=2,
    )
    assert_refused(
        machine,
        Case("s3://key:TopSecret@bucket/prefix", {}, "must not contain credentials"),
        Case("s3://bucket/prefix?endpoint=TopSecret", {}, "unknown option 'endpoint'"),
        code=2,
        secret="TopSecret",
    )


def test_no_credentials(machine: Machine, cast: Cast) -> None:
    """What is missing is named."""
    nothing = {**cast.server.s3_environment(), "AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}
    assert_refused(
        machine,
        Case(f"s3://{PLACE}/x", nothing, "AWS_ACCESS_KEY_ID"),
        Case(f"swift://{PLACE}/x", {}, "ST_AUTH, ST_USER and ST_KEY"),
        code=2,
    )


# -- stores that are there ----------


def test_a_place_that_does_not_exist(machine: Machine, cast: Cast) -> None:
    s3, swift = cast.server.s3_environment(), cast.server.swift_environment()
    assert_refused(
        machine,
        Case("s3://nowhere-at-all/prefix", s3, "the bucket nowhere-at-all does not exist"),
        Case("swift://nowhere-at-all/prefix", swift, "the container nowhere-at-all does not exist"),
        code=4,
    )


def test_a_wrong_secret(machine: Machine, cast: Cast) -> None:
    s3 = {**cast.server.s3_environment(), "AWS_SECRET_ACCESS_KEY": "TopSecret"}
    swift = {**cast.server.swift_environment(), "ST_KEY": "TopSecret"}
    assert_refused(
        machine,
        Case(f"s3://{PLACE}/x", s3, "the secret key is wrong"),
        Case(f"swift://{PLACE}/x", swift, "check the user and the key"),
        code=8,
        secret="TopSecret",
    )


def test_who_may_only_read(cast: Cast, new_scene: Callable[..., Scene], driver: str) -> None:
    """A key that is in the read ACL of the container only: it can mount -o ro and check, and nothing else."""
    scene = new_scene(driver)
    reader = cast.server.add_user(READER)
    cast.server.make_container(PLACE, {"X-Container-Read": reader.name})
    try:
        machine = scene.machine("reader", direct=True)
        machine.environment |= cast.environment(driver, reader, direct=True)
        for command, url, says in (
            ("mount", scene.url, "may only be read with these credentials: mount with -o ro"),
            ("mkfs", f"{scene.url}/other", "the store refuses us"),
            ("store-test", scene.url, "the store refuses us"),
        ):
            result = run(machine, command, url, {})
            assert says in result.error_line() and result.code == 8
        assert not os.path.ismount(machine.mount_point)
        machine.mount("-o", "ro")
        assert run(machine, "fsck", scene.url, {}).code == 0
    finally:
        cast.server.make_container(PLACE, {"X-Container-Read": ""})
        cast.server.revoke(reader)


def test_a_clock_that_is_wrong(machine: Machine, new_scene: Callable[..., Scene]) -> None:
    """Ours, as a store finds it that refuses us for it; and the store's, as we find it."""
    scene = new_scene("s3")
    environment = scene.machine().environment
    scene.proxy.rule("error", status=403, code="RequestTimeTooSkewed")
    assert_refused(machine, Case(scene.url, environment, "clock"), code=8)
    scene.proxy.clear()
    scene.proxy.rule("skew_date", seconds=3600)
    result = run(machine, "mkfs", f"{scene.url}/other", environment)
    assert "clock" in result.error_line() and result.code == 8


# -- servers that are something else ----------


class _Website(http.server.BaseHTTPRequestHandler):
    """Shows the same page whatever is asked for."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        page = b"<!DOCTYPE html><html><title>It works!</title></html>"
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(page)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(page)

    do_HEAD = do_PUT = do_POST = do_DELETE = do_GET

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""


class _Shell(socketserver.BaseRequestHandler):
    """Speaks first, and something else."""

    def handle(self) -> None:
        self.request.sendall(b"SSH-2.0-OpenSSH_9.9\r\n")
        self.request.recv(65536)


@contextmanager
def serving(handler: type[socketserver.BaseRequestHandler]) -> Iterator[str]:
    """Run a server in this process; yield its URL."""
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        server.block_on_close = False
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def cases_at(cast: Cast, endpoint: str, *, s3: str, swift: str) -> list[Case]:
    """Return the cases of a user who has both stores at a wrong address."""
    at_s3 = {**cast.server.s3_environment(), "AWS_ENDPOINT_URL_S3": endpoint}
    at_swift = {**cast.server.swift_environment(), "ST_AUTH": f"{endpoint}/auth/v1.0"}
    return [Case(f"s3://{PLACE}/x", at_s3, s3), Case(f"swift://{PLACE}/x", at_swift, swift)]


def test_an_endpoint_that_is_a_website(machine: Machine, cast: Cast) -> None:
    with serving(_Website) as endpoint:
        cases = cases_at(cast, endpoint, s3="does not speak S3", swift="no Swift answers there")
        assert_refused(machine, *cases, code=8)


def test_an_endpoint_that_does_not_speak_http(machine: Machine, cast: Cast) -> None:
    with serving(_Shell) as endpoint:
        cases = cases_at(cast, endpoint, s3=f"the connection to {endpoint} failed", swift="does not speak HTTP")
        assert_refused(machine, *cases, code=8)


def test_nobody_listens(machine: Machine, cast: Cast) -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{reserved.getsockname()[1]}"
        cases = cases_at(cast, endpoint, s3="Connection refused", swift="Connection refused")
        assert_refused(machine, *cases, code=8)


def test_a_certificate_that_nobody_has_signed(machine: Machine, cast: Cast, tmp_path: Path) -> None:
    """And it works when the one who has signed it is named."""
    certificate, key = write_certificate(tmp_path)
    with TlsFront(cast.server.url, certificate=certificate, key=key) as front:
        cases = cases_at(cast, front.url, s3="AWS_CA_BUNDLE", swift="OS_CACERT")
        assert_refused(machine, *cases, code=8)
        trusting = {**cases[0].environment, "AWS_CA_BUNDLE": str(certificate)}
        result = run(machine, "fsck", f"s3://{PLACE}/nothing-there", trusting)
        assert "no cubefs file system" in result.error_line()
