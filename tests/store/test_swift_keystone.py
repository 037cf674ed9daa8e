"""The Swift driver with a real Keystone: password, application credentials, catalogue, tokens that end."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Mapping

import pytest

from cubefs.errors import ObjectMissingError, StoreDeniedError, StoreError, StoreUnsuitableError
from cubefs.model import MIB
from cubefs.store.swift import SwiftStore, open_swift
from tests.support.servers.access import DIRECT
from tests.support.servers.keystone import KeystoneSwift, KeystoneUser

Environ = Mapping[str, str]


@pytest.fixture(autouse=True)
def no_proxy_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in DIRECT.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def user(keystone_swift: KeystoneSwift) -> KeystoneUser:
    """A user nobody else uses."""
    return keystone_swift.keystone.add_user(f"ada-{secrets.token_hex(4)}", "ada's password")


def with_container(environ: Environ, place: str = "place") -> SwiftStore:
    """Return a store whose container has been made, with the driver's own login."""
    from swiftclient import client

    store = open_swift(f"swift://{place}/a", environ=environ)
    access = store._account.access()
    client.put_container(access.storage_url, access.token, place)
    return store


def check_use(store: SwiftStore) -> None:
    data = os.urandom(MIB)
    store.put("x", data)
    store.put_new("y", b"1")
    assert store.get("x") == data
    assert [info.name for info in store.list("")] == ["x", "y"]
    store.delete_many(["x", "y"])
    with pytest.raises(ObjectMissingError):
        store.get("x")


def test_a_password(keystone_swift: KeystoneSwift, user: KeystoneUser) -> None:
    check_use(with_container(keystone_swift.environment(user)))


def variables_by_id(environ: dict[str, str], user: KeystoneUser) -> dict[str, str]:
    by_id = {name: value for name, value in environ.items() if not name.endswith("NAME")}
    return {**by_id, "OS_USER_ID": user.id, "OS_PROJECT_ID": user.project_id}


def variables_without_domains(environ: dict[str, str], user: KeystoneUser) -> dict[str, str]:
    return {name: value for name, value in environ.items() if "DOMAIN" not in name}


def variables_without_version(environ: dict[str, str], user: KeystoneUser) -> dict[str, str]:
    fewer = {
        name: value for name, value in environ.items() if name not in ("OS_AUTH_TYPE", "OS_IDENTITY_API_VERSION")
    }
    return {**fewer, "OS_AUTH_URL": environ["OS_AUTH_URL"].removesuffix("/v3") + "/"}


@pytest.mark.parametrize(
    "changed", [variables_by_id, variables_without_domains, variables_without_version], ids=lambda f: f.__name__
)
def test_other_ways_to_say_the_same(
    keystone_swift: KeystoneSwift,
    user: KeystoneUser,
    changed: Callable[[dict[str, str], KeystoneUser], dict[str, str]],
) -> None:
    check_use(with_container(changed(keystone_swift.environment(user), user)))


def test_an_application_credential(keystone_swift: KeystoneSwift) -> None:
    credential = keystone_swift.keystone.application_credential(keystone_swift.tester, secrets.token_hex(4))
    environ = keystone_swift.application_environment(credential)
    check_use(with_container(environ, "application"))
    by_name = {name: value for name, value in environ.items() if name != "OS_APPLICATION_CREDENTIAL_ID"}
    by_name |= {"OS_APPLICATION_CREDENTIAL_NAME": credential.name, "OS_USERNAME": keystone_swift.tester.name}
    check_use(with_container(by_name, "application"))
    wrong = {**environ, "OS_APPLICATION_CREDENTIAL_SECRET": "not-this-one"}
    with pytest.raises(StoreDeniedError, match=r"swift://place/a: .* refused: check OS_APPLICATION_CRED") as caught:
        open_swift("swift://place/a", environ=wrong).get("x")
    assert "not-this-one" not in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"OS_PASSWORD": "not-this-one"},
        {"OS_USERNAME": "nobody"},
        {"OS_PROJECT_NAME": "nothing"},
        {"OS_USER_DOMAIN_NAME": "nowhere"},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_wrong_variables_are_refused(keystone_swift: KeystoneSwift, changes: Environ) -> None:
    store = open_swift("swift://place/a", environ={**keystone_swift.environment(), **changes})
    with pytest.raises(StoreDeniedError, match=r"swift://place/a: .* refused: check user, password") as caught:
        store.get("x")
    assert "\n" not in str(caught.value)
    assert "not-this-one" not in str(caught.value)
    assert not caught.value.retryable


@pytest.mark.parametrize("changes", [{"OS_REGION_NAME": "elsewhere"}, {"OS_INTERFACE": "internal"}])
def test_no_such_endpoint(keystone_swift: KeystoneSwift, changes: Environ) -> None:
    store = open_swift("swift://place/a", environ={**keystone_swift.environment(), **changes})
    with pytest.raises(StoreUnsuitableError, match=r"catalogue has no .* endpoint .*OS_REGION_NAME") as caught:
        store.get("x")
    assert "\n" not in str(caught.value)


def test_the_region_of_the_url_wins(keystone_swift: KeystoneSwift, user: KeystoneUser) -> None:
    environ = {**keystone_swift.environment(user), "OS_REGION_NAME": "elsewhere"}
    with_container(keystone_swift.environment(user))
    store = open_swift(f"swift://place/a?region={keystone_swift.keystone.region}", environ=environ)
    store.put("x", b"1")
    assert store.get("x") == b"1"
    with pytest.raises(StoreError, match="catalogue has no"):
        open_swift("swift://place/a", environ=environ).get("x")


def test_a_token_that_ends_is_renewed(keystone_swift: KeystoneSwift, user: KeystoneUser) -> None:
    store = with_container(keystone_swift.environment(user))
    for call in (
        lambda: store.put("x", bytes(5 * MIB)),
        lambda: store.get("x"),
        lambda: store.delete_many(["x", "y"]),
    ):
        before = store._account.access()
        keystone_swift.keystone.revoke(before.token)
        call()
        assert store._account.access() != before


def test_a_user_is_shut_out_and_let_in_again(keystone_swift: KeystoneSwift, user: KeystoneUser) -> None:
    store = with_container(keystone_swift.environment(user))
    store.put("x", b"1")
    keystone_swift.keystone.enable(user, enabled=False)
    for _ in range(2):
        with pytest.raises(StoreDeniedError, match="refused: check user, password"):
            store.get("x")
    keystone_swift.keystone.enable(user, enabled=True)
    assert store.get("x") == b"1"


def test_a_user_without_the_role_is_refused(keystone_swift: KeystoneSwift, user: KeystoneUser) -> None:
    with_container(keystone_swift.environment(user))
    reader = keystone_swift.keystone.add_user(
        f"reader-{secrets.token_hex(4)}", "pw", of=user, role="reader-of-nothing"
    )
    store = open_swift("swift://place/a", environ=keystone_swift.environment(reader))
    with pytest.raises(StoreDeniedError, match=r"x in swift://place/a.*\(403\)"):
        store.put("x", b"1")
