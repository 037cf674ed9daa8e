"""Owns the tests' side of OpenStack Keystone, and of a Swift that believes it: projects, users, credentials.

Must never: use the libraries that are tested with it.
"""

from __future__ import annotations

import http.client
import json
import math
import shutil
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from tests.support.servers.access import DIRECT
from tests.support.servers.process import PYTHON, ServerError, ServerProcess
from tests.support.servers.scratch import scratch_directory
from tests.support.servers.swift import SwiftServer
from tests.support.servers.swift_config import OPERATOR_ROLE, KeystoneLogin

ORDER_LIMIT_S = 30.0


@dataclass(frozen=True)
class KeystoneUser:
    """A user, in a project of the same name unless another is given; both are in the domain Default."""

    name: str
    password: str
    id: str
    project: str
    project_id: str


@dataclass(frozen=True)
class ApplicationCredential:
    """Stands for a user in one project, without the password."""

    id: str
    secret: str
    name: str


class KeystoneServer:
    """A real Keystone; tokens are good for `token_life_s`."""

    def __init__(self, *, token_life_s: int = 3600) -> None:
        self._token_life_s = token_life_s
        self._process: ServerProcess | None = None
        self._facts: dict[str, Any] = {}
        self._token = ""
        self._roles: dict[str, str] = {}  # name -> id
        self._next_second_s = 0

    def start(self) -> KeystoneServer:
        """Start the server and wait until it answers, some three seconds. Raises ServerError."""
        if not PYTHON.exists():
            raise ServerError("OpenStack is not installed; 'make test-servers' does that")
        self._directory = scratch_directory("keystone")
        # its libraries warn of each other's future
        command = [str(PYTHON), "-W", "ignore", "-m", "tests.support.servers.keystone_service"]
        command += ["--directory", str(self._directory), "--token-life-s", str(self._token_life_s)]
        self._process = ServerProcess("Keystone", command)
        try:
            self._facts = self._process.start()
            self._token = self._log_in()
            self._roles = {role["name"]: role["id"] for role in self._order("GET", "/roles")["roles"]}
            self._make_role(OPERATOR_ROLE)
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """End the server. Raises ServerError where it had ended by itself."""
        if self._process is None:
            return
        try:
            self._process.stop()
        finally:
            self._process = None
            shutil.rmtree(self._directory, ignore_errors=True)

    def __enter__(self) -> KeystoneServer:
        return self.start()

    def __exit__(self, *exc: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """Where to authenticate; ends with /v3."""
        return str(self._facts["url"])

    @property
    def region(self) -> str:
        """The only region."""
        return str(self._facts["region"])

    @property
    def login(self) -> KeystoneLogin:
        """As whom a service asks it about tokens."""
        return KeystoneLogin(self.url, str(self._facts["admin"]), str(self._facts["password"]))

    def register_object_store(self, url: str) -> None:
        """Let the catalogue lead to the Swift at `url`."""
        service = self._order("POST", "/services", {"service": {"type": "object-store", "name": "swift"}})
        endpoint = {
            "service_id": service["service"]["id"],
            "interface": "public",
            "region_id": self.region,
            "url": f"{url}/v1/AUTH_$(project_id)s",
        }
        self._order("POST", "/endpoints", {"endpoint": endpoint})

    def add_user(
        self, name: str, password: str, *, of: KeystoneUser | None = None, role: str = OPERATOR_ROLE
    ) -> KeystoneUser:
        """Create a user with a project of its own, or in the project of another; `role` says what it may do."""
        if of is None:
            wanted = {"name": name, "domain_id": "default"}
            project_id = str(self._order("POST", "/projects", {"project": wanted})["project"]["id"])
        else:
            project_id = of.project_id
        described = {"name": name, "password": password, "domain_id": "default", "default_project_id": project_id}
        user_id = str(self._order("POST", "/users", {"user": described})["user"]["id"])
        if role not in self._roles:
            self._make_role(role)
        self._order("PUT", f"/projects/{project_id}/users/{user_id}/roles/{self._roles[role]}")
        return KeystoneUser(name, password, user_id, name if of is None else of.project, project_id)

    def enable(self, user: KeystoneUser, *, enabled: bool) -> None:
        """Let a user in, or shut it out: the password, its credentials and all its tokens are worthless."""
        if enabled:
            # it takes back all tokens of the second in which a user was disabled, and so a new one as well
            time.sleep(max(0.0, self._next_second_s - time.time()))
        self._order("PATCH", f"/users/{user.id}", {"user": {"enabled": enabled}})
        self._next_second_s = math.floor(time.time()) + 1

    def application_credential(
        self, user: KeystoneUser, name: str, *, expires_at: str | None = None
    ) -> ApplicationCredential:
        """Create a credential that stands for a user; `expires_at` is like 2030-01-01T00:00:00Z."""
        wanted = {"name": name, "expires_at": expires_at}
        path = f"/users/{user.id}/application_credentials"
        token = self._log_in(user)  # nobody else may
        made = self._order("POST", path, {"application_credential": wanted}, token=token)
        found = made["application_credential"]
        return ApplicationCredential(str(found["id"]), str(found["secret"]), name)

    def revoke(self, token: str) -> None:
        """Make a token worthless."""
        self._order("DELETE", "/auth/tokens", fields={"X-Subject-Token": token})

    def _make_role(self, name: str) -> None:
        self._roles[name] = self._order("POST", "/roles", {"role": {"name": name}})["role"]["id"]

    def _log_in(self, user: KeystoneUser | None = None) -> str:
        domain = {"id": "default"}
        name, password, project = self.login.user, self.login.password, "admin"
        if user is not None:
            name, password, project = user.name, user.password, user.project
        identity = {
            "methods": ["password"],
            "password": {"user": {"name": name, "domain": domain, "password": password}},
        }
        scope = {"project": {"name": project, "domain": domain}}
        answer, _ = self._ask("POST", "/auth/tokens", {"auth": {"identity": identity, "scope": scope}}, {})
        return str(answer.headers["X-Subject-Token"])

    def _order(
        self,
        method: str,
        path: str,
        content: object = None,
        *,
        token: str | None = None,
        fields: Mapping[str, str] | None = None,
    ) -> Any:
        return self._ask(method, path, content, {"X-Auth-Token": token or self._token, **(fields or {})})[1]

    def _ask(
        self, method: str, path: str, content: object, fields: Mapping[str, str]
    ) -> tuple[http.client.HTTPResponse, Any]:
        parts = urlsplit(self.url)
        connection = http.client.HTTPConnection(parts.netloc, timeout=ORDER_LIMIT_S)
        try:
            body = None if content is None else json.dumps(content)
            headers = {"Content-Type": "application/json", **fields}
            connection.request(method, parts.path + path, body=body, headers=headers)
            answer = connection.getresponse()
            text = answer.read()
        finally:
            connection.close()
        if answer.status >= 300:
            raise ServerError(f"Keystone: {method} {path}: {answer.status} {text.decode(errors='replace')}")
        return answer, json.loads(text or b"null")


class KeystoneSwift:
    """A Swift that believes a Keystone. `tester` is a user who owns an account."""

    def __init__(self, *, token_life_s: int = 3600) -> None:
        self.keystone = KeystoneServer(token_life_s=token_life_s)
        self._running = ExitStack()

    def start(self) -> KeystoneSwift:
        """Start both servers, some four seconds. Raises ServerError."""
        with ExitStack() as starting:
            starting.enter_context(self.keystone)
            self._swift = starting.enter_context(SwiftServer(keystone=self.keystone.login))
            self.keystone.register_object_store(self._swift.url)
            self.tester = self.keystone.add_user("tester", "testing")
            self._running = starting.pop_all()
        return self

    def stop(self) -> None:
        """End both servers. Raises ServerError where one had ended by itself."""
        self._running.close()

    def __enter__(self) -> KeystoneSwift:
        return self.start()

    def __exit__(self, *exc: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """The address of Swift."""
        return self._swift.url

    def storage_url(self, user: KeystoneUser | None = None, via: str | None = None) -> str:
        """Return where a user's account is, optionally as seen through the proxy at `via`."""
        return f"{via or self.url}/v1/AUTH_{(user or self.tester).project_id}"

    def environment(self, user: KeystoneUser | None = None, via: str | None = None) -> dict[str, str]:
        """Return the OS_* variables of a user; `via` is a proxy in front of Swift, not of Keystone.

        ST_* variables must not be set.
        """
        user = user or self.tester
        return {
            **self._common(user, via),
            "OS_AUTH_TYPE": "password",
            "OS_USERNAME": user.name,
            "OS_PASSWORD": user.password,
            "OS_PROJECT_NAME": user.project,
            "OS_USER_DOMAIN_NAME": "Default",
            "OS_PROJECT_DOMAIN_NAME": "Default",
        }

    def application_environment(self, credential: ApplicationCredential, via: str | None = None) -> dict[str, str]:
        """Return the OS_* variables of a credential that stands for `tester`."""
        return {
            **self._common(self.tester, via),
            "OS_AUTH_TYPE": "v3applicationcredential",
            "OS_APPLICATION_CREDENTIAL_ID": credential.id,
            "OS_APPLICATION_CREDENTIAL_SECRET": credential.secret,
        }

    def _common(self, user: KeystoneUser, via: str | None) -> dict[str, str]:
        common = {
            "OS_AUTH_URL": self.keystone.url,
            "OS_REGION_NAME": self.keystone.region,
            "OS_IDENTITY_API_VERSION": "3",
            **DIRECT,
        }
        return common if via is None else {**common, "OS_STORAGE_URL": self.storage_url(user, via)}
