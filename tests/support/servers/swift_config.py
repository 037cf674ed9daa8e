"""Owns the configuration of the Swift servers: their files below one directory, and the rings.

What is not as in production: one replica, long time limits and no error limiting, so that a busy machine makes
the service slow but not wrong; a dictionary instead of memcached; no background daemons.
Must never: start anything.
"""

# mypy: disable-error-code="import-not-found"

from __future__ import annotations

import getpass
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

HOST = "127.0.0.1"
REGION = "us-east-1"
BACKENDS = ("account", "container", "object")
SERVERS = (*BACKENDS, "proxy")
NODE_LIMIT_S = 120  # a server that needs longer for one step hangs
CHUNK_BYTES = 256 << 10
DOMAIN = "s3.test"  # of virtual hosts (RFC 2606: no such domain anywhere)
HOOKS = "tests.support.servers.swift_hooks"
XATTR_PROBE_BYTES = 512
OPERATOR_ROLE = "swiftoperator"  # Keystone's users with this role in a project own its account

# the pipeline of the proxy server, before and behind the filters that tell who somebody is
FRONT = ("catch_errors", "gatekeeper", "healthcheck", "cache", "listing_formats", "bulk", "tempurl")
BACK = ("copy", "container-quotas", "account-quotas", "slo", "dlo", "versioned_writes", "symlink", "proxy-server")

Section = Mapping[str, object]


@dataclass(frozen=True)
class KeystoneLogin:
    """Where a Keystone is, and as whom Swift asks it whether tokens are good."""

    url: str
    user: str
    password: str


def find_xattr_problem(directory: Path) -> str | None:
    """Say why Swift cannot live in `directory`: it keeps metadata in user.* extended attributes."""
    probe = directory / ".xattr-probe"
    probe.touch()
    try:
        os.setxattr(probe, "user.swift.metadata", b"x" * XATTR_PROBE_BYTES)
    except OSError as error:
        return f"no extended attributes for users in {directory}: {error.strerror}"
    finally:
        probe.unlink()
    return None


def write_ini(path: Path, sections: Mapping[str, Section]) -> None:
    """Write a configuration file. Raises ValueError on a value that its format cannot hold."""
    lines = []
    for name, options in sections.items():
        lines.append(f"[{name}]")
        for key, value in options.items():
            if "%(" in str(value) or "\n" in str(value):  # would be interpolated
                raise ValueError(f"this cannot stand in a configuration file: {value!r}")
            lines.append(f"{key} = {value}")
        lines.append("")
    new = path.with_name(path.name + ".new")
    new.write_text("\n".join(lines))
    new.replace(path)


class SwiftConfig:
    """The directory of one all-in-one Swift: `etc` `node` `cache` `lock` `log` and `users.json`."""

    def __init__(
        self,
        directory: Path,
        ports: Mapping[str, int],
        *,
        token_life_s: int,
        keystone: KeystoneLogin | None = None,
    ) -> None:
        self.directory = directory
        self.etc = directory / "etc"
        self._ports = ports
        self._token_life_s = token_life_s
        self._keystone = keystone

    def server_conf(self, server: str) -> Path:
        """Return the configuration file of a server."""
        return self.etc / f"{server}-server.conf"

    def log(self, server: str) -> Path:
        """Return the file that a server logs to."""
        return self.directory / "log" / f"{server}.log"

    def write(self) -> None:
        """Write everything; what an earlier run stored in the directory stays readable."""
        for name in ("etc", "node/d1", "cache", "lock", "log"):
            (self.directory / name).mkdir(parents=True, exist_ok=True)
        swift_conf = self.etc / "swift.conf"
        if not swift_conf.exists():  # the suffix decides where data lies: it has to stay
            secrets = {f"swift_hash_path_{end}": os.urandom(8).hex() for end in ("suffix", "prefix")}
            policy = {"name": "single", "default": "yes"}
            write_ini(swift_conf, {"swift-hash": secrets, "storage-policy:0": policy})
        for server in BACKENDS:
            write_ini(self.server_conf(server), self._backend(server))
        write_ini(self.server_conf("proxy"), self._proxy())
        self._build_rings()

    def _common(self, server: str) -> Section:
        return {
            "user": getpass.getuser(),
            "swift_dir": self.etc,
            "devices": self.directory / "node",
            "mount_check": "false",
            "bind_ip": HOST,
            "bind_port": self._ports[server],
            "workers": 0,
            "backlog": 4096,
            "max_clients": 4096,
            "disable_fallocate": "true",
            "fallocate_reserve": 0,
            "recon_cache_path": self.directory / "cache",
            "recon_lock_path": self.directory / "lock",
            "log_level": "WARNING",
            "log_address": self.directory / "log" / "no-syslog",
            "log_custom_handlers": f"{HOOKS}.log_to_stderr",
            "conn_timeout": 20,
            "node_timeout": NODE_LIMIT_S,
            "client_timeout": NODE_LIMIT_S,
            "container_update_timeout": NODE_LIMIT_S,  # so listings are up to date when a PUT is answered
        }

    def _backend(self, server: str) -> dict[str, Section]:
        application: dict[str, object] = {"use": f"egg:swift#{server}", "log_requests": "false"}
        if server == "object":
            application |= {
                "keep_cache_private": "true",
                "keep_cache_size": 1 << 30,
                "disk_chunk_size": CHUNK_BYTES,
                "network_chunk_size": CHUNK_BYTES,
            }
        return {
            "DEFAULT": self._common(server),
            "pipeline:main": {"pipeline": f"healthcheck {server}-server"},
            "filter:healthcheck": {"use": "egg:swift#healthcheck"},
            f"app:{server}-server": application,
            # the servers look into the sections of daemons that do not run here
            f"{server}-replicator": {},
            f"{server}-auditor": {},
        }

    def _authentication(self) -> dict[str, Section]:
        """Return the filters that tell who somebody is, in the order of the pipeline."""
        if self._keystone is None:
            tempauth = {
                "paste.filter_factory": f"{HOOKS}:tempauth_filter_factory",
                "users_file": self.directory / "users.json",
                "token_life": self._token_life_s,
                "allow_overrides": "true",
                "storage_url_scheme": "default",
            }
            return {"s3api": self._s3api(), "tempauth": tempauth}
        token = {
            "paste.filter_factory": "keystonemiddleware.auth_token:filter_factory",
            "www_authenticate_uri": self._keystone.url,
            "auth_url": self._keystone.url,
            "auth_type": "password",
            "interface": "public",
            "username": self._keystone.user,
            "password": self._keystone.password,
            "project_name": "admin",
            "user_domain_id": "default",
            "project_domain_id": "default",
            "delay_auth_decision": "true",
            "token_cache_time": -1,  # what is revoked is worthless at once
        }
        roles = {"use": "egg:swift#keystoneauth", "operator_roles": OPERATOR_ROLE}
        return {"authtoken": token, "keystoneauth": roles}

    def _s3api(self) -> Section:
        return {
            "use": "egg:swift#s3api",
            "location": REGION,
            "auth_pipeline_check": "true",  # the order of the pipeline is verified at start
            "dns_compliant_bucket_names": "true",
            "storage_domain": DOMAIN,  # BUCKET.DOMAIN is the bucket, for clients that make the name resolve
        }

    def _proxy(self) -> dict[str, Section]:
        authentication = self._authentication()
        pipeline = [*FRONT, *authentication, *BACK]
        special: dict[str, Section] = {
            "cache": {"paste.filter_factory": f"{HOOKS}:cache_filter_factory"},
            "versioned_writes": {"use": "egg:swift#versioned_writes", "allow_object_versioning": "true"},
            **authentication,
        }
        return {
            "DEFAULT": self._common("proxy"),
            "pipeline:main": {"pipeline": " ".join(pipeline)},
            "app:proxy-server": {
                "use": "egg:swift#proxy",
                "account_autocreate": "true",
                "allow_account_management": "true",
                "error_suppression_limit": 10**9,
                "recoverable_node_timeout": NODE_LIMIT_S,
                "object_chunk_size": CHUNK_BYTES,
                "client_chunk_size": CHUNK_BYTES,
            },
            **{
                f"filter:{name}": special.get(name, {"use": f"egg:swift#{name.replace('-', '_')}"})
                for name in pipeline[:-1]
            },
        }

    def _build_rings(self) -> None:
        """One device, one replica: where data lies does not depend on the ports, which change."""
        from swift.common.ring import RingBuilder

        for server in BACKENDS:
            builder = RingBuilder(4, 1, 0)
            port = self._ports[server]
            place = {"id": 0, "region": 1, "zone": 1, "device": "d1", "weight": 1.0, "meta": ""}
            builder.add_dev({**place, "ip": HOST, "port": port, "replication_ip": HOST, "replication_port": port})
            builder.rebalance(seed=1)
            path = self.etc / f"{server}.ring.gz"
            new = path.with_name(path.name + ".new")
            builder.get_ring().save(str(new))
            new.replace(path)
