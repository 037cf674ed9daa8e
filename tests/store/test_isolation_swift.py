"""Accounts on Swift: a container each, with the documented ACL; nothing else can be reached."""

from __future__ import annotations

import os
import re
import secrets
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from swiftclient.exceptions import ClientException

from tests.support.isolation import SUPERBLOCK, assert_out_of_reach, exercise, live, open_remote, remote_of
from tests.support.mounting import PROGRAMS, Remote
from tests.support.servers.keystone import KeystoneSwift
from tests.support.servers.swift import SwiftServer, SwiftUser

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "STORES.md"
ANN, BOB = (SwiftUser("test", name, f"key-of-{name}", groups=()) for name in ("ann", "bob"))  # own nothing


def commands(word: str) -> list[str]:
    """Return the lines of the document that begin with `swift post` and contain a word."""
    found = re.findall(r"^swift post .*$", DOCUMENT.read_text(), re.MULTILINE)
    return [line for line in found if word in line]


def run(line: str, environment: Mapping[str, str], **placeholders: str) -> str:
    """Run a documented command with its placeholders filled in; return what it prints."""
    for placeholder, value in placeholders.items():
        line = line.replace(placeholder, value)
    path = f"{PROGRAMS}:{os.environ['PATH']}"
    done = subprocess.run(["bash", "-c", line], env={"PATH": path, **environment}, capture_output=True, text=True)
    assert done.returncode == 0, f"{line}: {done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture
def server(swift_server: SwiftServer) -> SwiftServer:
    for user in (ANN, BOB):
        swift_server.add_user(user)
    return swift_server


@pytest.fixture
def containers(server: SwiftServer) -> dict[str, str]:
    """A container each, made as the document says."""
    names = {user.user: f"{user.user}-{secrets.token_hex(4)}" for user in (ANN, BOB)}
    (grant,) = commands("--read-acl")
    for user, container in names.items():
        run(grant, server.swift_environment(), CONTAINER=container, ACCOUNT="test", USER=user)
    return names


def remote(server: SwiftServer, user: SwiftUser, container: str) -> Remote:
    return remote_of(f"swift://{container}/backup", server.swift_as(user))


def refused(call: Callable[..., object], *arguments: str, **options: str) -> bool:
    """Tell whether Swift refuses a call."""
    try:
        call(*arguments, **options)
    except ClientException as error:
        return error.http_status in (401, 403)
    return False


def test_an_account_can_do_everything_in_its_container(server: SwiftServer, containers: dict[str, str]) -> None:
    exercise(open_remote(remote(server, ANN, containers["ann"])))


def test_a_file_system_lives(server: SwiftServer, containers: dict[str, str], tmp_path: Path) -> None:
    live(remote(server, ANN, containers["ann"]), tmp_path)


def test_the_containers_of_others_are_out_of_reach(server: SwiftServer, containers: dict[str, str]) -> None:
    rightful = open_remote(remote(server, BOB, containers["bob"]))
    rightful.put(SUPERBLOCK, b"the other's")
    assert_out_of_reach(open_remote(remote(server, ANN, containers["bob"])))
    assert_out_of_reach(open_remote(remote(server, ANN, server.make_container(f"owners-{secrets.token_hex(4)}"))))
    assert [info.name for info in rightful.list("")] == [SUPERBLOCK]
    assert rightful.get(SUPERBLOCK) == b"the other's"


def test_the_account_of_the_containers_is_out_of_reach(server: SwiftServer, containers: dict[str, str]) -> None:
    mine, other = containers["ann"], containers["bob"]
    everybody = {"X-Container-Read": ".r:*,.rlistings"}
    open_remote(remote(server, ANN, mine)).put(SUPERBLOCK, b"mine")
    with server.swift_as(ANN).connection() as swift:
        calls: list[Callable[[], Any]] = [
            swift.get_account,
            lambda: swift.post_account({"X-Account-Meta-A": "b"}),
            lambda: swift.put_container("another"),
            lambda: swift.post_container(mine, everybody),
            lambda: swift.post_container(mine, {"X-Versions-Enabled": "false"}),
            lambda: swift.delete_container(mine),
            lambda: swift.copy_object(mine, f"backup/{SUPERBLOCK}", f"/{other}/k"),
            lambda: swift.copy_object(other, f"backup/{SUPERBLOCK}", f"/{mine}/k"),
        ]
        assert [number for number, call in enumerate(calls) if not refused(call)] == []


def test_with_versions_the_owner_brings_everything_back(server: SwiftServer, containers: dict[str, str]) -> None:
    """Who may write may also delete; but not what the container keeps of that."""
    mine = containers["ann"]
    (keep,) = commands("X-Versions-Enabled")
    run(keep, server.swift_environment(), CONTAINER=mine)
    assert "Versions-Enabled: True" in run("swift stat CONTAINER", server.swift_environment(), CONTAINER=mine)
    store = open_remote(remote(server, ANN, mine))
    exercise(store)
    for info in list(store.list("")):
        store.delete(info.name)
    contents = {SUPERBLOCK: b"1", "packs/a": os.urandom(1000), "packs/b": b"2"}
    for name, body in contents.items():
        store.put_new(name, body)
    with server.swift_as(ANN).connection() as thief, server.swift.connection() as owner:

        def versions() -> list[dict[str, str]]:
            found: list[dict[str, str]] = owner.get_container(mine, query_string="versions")[1]
            return found

        before = [entry["version_id"] for entry in versions()]
        for name in contents:
            store.put(name, b"spoilt")
        store.delete_many(list(contents))
        assert list(store.list("")) == []
        for entry in versions():
            query = f"version-id={entry['version_id']}"
            assert refused(thief.delete_object, mine, entry["name"], query_string=query)
        for name in contents:
            newest_good = max(
                entry["version_id"]
                for entry in versions()
                if entry["name"] == f"backup/{name}" and entry["version_id"] in before
            )
            owner.put_object(mine, f"backup/{name}", b"", query_string=f"version-id={newest_good}")
    assert {name: store.get(name) for name in contents} == contents


def test_an_account_of_keystone(keystone_swift: KeystoneSwift) -> None:
    """Project and user by their ids; the user has a role in the project, but not that of an operator."""
    owner = keystone_swift.keystone.add_user(f"owner-{secrets.token_hex(4)}", "pw")
    user = keystone_swift.keystone.add_user(f"ann-{secrets.token_hex(4)}", "pw", of=owner, role="guest")
    (grant,) = commands("--read-acl")
    ids = {"ACCOUNT": owner.project_id, "USER": user.id}
    run(grant, keystone_swift.environment(owner), CONTAINER="ann", **ids)
    run("swift post owners", keystone_swift.environment(owner))
    environment = keystone_swift.environment(user)
    exercise(open_remote(Remote("swift://ann/backup", environment)))
    assert_out_of_reach(open_remote(Remote("swift://owners/backup", environment)))
