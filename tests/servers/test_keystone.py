"""The Keystone of the tests: tokens by password and by application credential, which Swift believes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from keystoneauth1 import exceptions, session
from keystoneauth1.identity import v3
from swiftclient import ClientException, Connection, head_container

from tests.support.servers.keystone import KeystoneSwift
from tests.support.servers.proxy import FaultProxy


def log_in(environment: dict[str, str]) -> tuple[str, str]:
    """Return the storage URL and a token for those whom the variables name."""
    if environment["OS_AUTH_TYPE"] == "password":
        plugin: Any = v3.Password(
            environment["OS_AUTH_URL"],
            username=environment["OS_USERNAME"],
            password=environment["OS_PASSWORD"],
            project_name=environment["OS_PROJECT_NAME"],
            user_domain_name=environment["OS_USER_DOMAIN_NAME"],
            project_domain_name=environment["OS_PROJECT_DOMAIN_NAME"],
        )
    else:
        plugin = v3.ApplicationCredential(
            environment["OS_AUTH_URL"],
            application_credential_id=environment["OS_APPLICATION_CREDENTIAL_ID"],
            application_credential_secret=environment["OS_APPLICATION_CREDENTIAL_SECRET"],
        )
    keystone = session.Session(auth=plugin)
    url = keystone.get_endpoint(service_type="object-store", region_name=environment["OS_REGION_NAME"])
    return environment.get("OS_STORAGE_URL", str(url)), str(keystone.get_token())


def connect(environment: dict[str, str]) -> Connection:
    """Return a connection to Swift for those whom the variables name."""
    url, token = log_in(environment)
    return Connection(preauthurl=url, preauthtoken=token, retries=0, timeout=20)


def test_a_password(keystone_swift: KeystoneSwift) -> None:
    swift = connect(keystone_swift.environment())
    assert swift.url == keystone_swift.storage_url()
    swift.put_container("by-password")
    swift.put_object("by-password", "k", b"content")
    assert swift.get_object("by-password", "k")[1] == b"content"
    swift.close()


def test_an_application_credential_lasts_as_long_as_its_user(keystone_swift: KeystoneSwift) -> None:
    keystone = keystone_swift.keystone
    credential = keystone.application_credential(keystone_swift.tester, "nightly backup")
    environment = keystone_swift.application_environment(credential)
    swift = connect(environment)
    swift.put_container("by-credential")
    keystone.enable(keystone_swift.tester, enabled=False)
    with pytest.raises(ClientException, match="401"):
        swift.head_container("by-credential")
    with pytest.raises(exceptions.Unauthorized):
        log_in(environment)
    keystone.enable(keystone_swift.tester, enabled=True)
    assert connect(environment).head_container("by-credential")["x-container-object-count"] == "0"
    swift.close()


def test_other_users_need_an_acl(keystone_swift: KeystoneSwift) -> None:
    keystone = keystone_swift.keystone
    owner = keystone.add_user("owner", "owners-secret")
    reader = keystone.add_user("reader", "readers-secret", of=owner, role="member")
    stranger = keystone.add_user("stranger", "strangers-secret")
    swift = connect(keystone_swift.environment(owner))
    swift.put_container("shown", headers={"X-Container-Read": f"{owner.project_id}:{reader.id}"})
    swift.put_container("hidden")
    url = keystone_swift.storage_url(owner)
    tokens = {user.name: log_in(keystone_swift.environment(user))[1] for user in (reader, stranger)}
    connection = Connection(preauthurl=url, preauthtoken=tokens["reader"], retries=0)
    assert connection.get_container("shown")[1] == []
    for token, container in ((tokens["reader"], "hidden"), (tokens["stranger"], "shown")):
        with pytest.raises(ClientException, match="403"):
            head_container(url, token, container)
    connection.close()
    swift.close()


def test_a_token_can_be_revoked(keystone_swift: KeystoneSwift) -> None:
    connect(keystone_swift.environment()).put_container("revoked")
    url, token = log_in(keystone_swift.environment())
    head_container(url, token, "revoked")
    keystone_swift.keystone.revoke(token)
    with pytest.raises(ClientException, match="401"):
        head_container(url, token, "revoked")


def test_it_works_behind_the_proxy(keystone_swift: KeystoneSwift, proxy: Callable[[str], FaultProxy]) -> None:
    faults = proxy(keystone_swift.url)
    swift = connect(keystone_swift.environment(via=faults.url))
    swift.put_container("behind")
    swift.close()
    assert faults.settled_stats(total=1)["requests"] == {"PUT 201": 1}
