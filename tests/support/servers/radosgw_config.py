"""Owns the configuration of a Ceph of one monitor and one store in memory, with an S3 gateway in front of it.

Must never: start anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

HOST = "127.0.0.1"
REGION = "us-east-1"
MEMORY_BYTES = 8 << 30  # what the store pretends to have; it takes only what is stored

OWNER = "tester"  # the first user
SUBUSER = "swift"  # as whom the first user logs in to the Swift side

Section = Mapping[str, object]


def cluster_options(directory: Path, *, libraries: Path, fsid: str, monitor_port: int) -> Section:
    """Return what concerns all daemons: where everything is, one copy of all data, no authentication inside."""
    return {
        "fsid": fsid,
        "mon_initial_members": "a",
        "mon_host": f"[v2:{HOST}:{monitor_port}]",
        "public_addr": HOST,
        "cluster_addr": HOST,
        "ms_bind_msgr1": "false",
        "ms_bind_msgr2": "true",
        "ms_bind_port_min": 20000,
        "ms_bind_port_max": 32000,
        "auth_cluster_required": "none",
        "auth_service_required": "none",
        "auth_client_required": "none",
        "keyring": directory / "keyring",
        "run_dir": directory / "run",
        "admin_socket": directory / "run" / "$name.asok",
        "log_file": directory / "log" / "$name.log",
        "mon_cluster_log_file": directory / "log" / "cluster.log",
        "log_max_recent": 100,
        "debug_default": "0/0",
        "plugin_dir": libraries / "ceph",
        "erasure_code_dir": libraries / "ceph" / "erasure-code",
        "osd_class_dir": libraries / "rados-classes",
        "osd_pool_default_size": 1,
        "osd_pool_default_min_size": 1,
        "osd_pool_default_pg_num": 1,
        "osd_pool_default_pgp_num": 1,
        "osd_pool_default_pg_autoscale_mode": "off",
        "osd_crush_chooseleaf_type": 0,
        "mon_allow_pool_size_one": "true",
        "mon_max_pg_per_osd": 1000,
        "mon_data_avail_warn": 1,
        "mon_data_avail_crit": 0,
        "osd_op_num_shards": 2,
        "osd_op_num_threads_per_shard": 1,
    }


def monitor_options(directory: Path) -> Section:
    """Return what concerns the monitor: it need not wait for others."""
    return {
        "mon_data": directory / "mon",
        "mon_election_timeout": 1,
        "paxos_propose_interval": 0.05,
        "paxos_min_wait": 0.01,
    }


def store_options(directory: Path) -> Section:
    """Return what concerns the daemon that keeps the objects."""
    return {
        "osd_data": directory / "osd",
        "osd_objectstore": "memstore",
        "osd_memory_target": 896 << 20,
        "memstore_device_bytes": MEMORY_BYTES,
        "osd_max_object_name_len": 460,
        "osd_max_object_namespace_len": 64,
    }


def gateway_options(directory: Path, *, port: int) -> Section:
    """Return what concerns radosgw."""
    return {
        "ms_mon_client_mode": "crc",  # its own default, "secure", needs the authentication that is off
        "rgw_frontends": f"beast endpoint={HOST}:{port} tcp_nodelay=1",  # without nodelay a small GET takes 44 ms
        "rgw_data": directory / "rgw",
        "rgw_enable_usage_log": "false",
        "rgw_thread_pool_size": 32,
        "rgw_swift_account_in_url": "true",
        "rgw_init_timeout": 60,
    }


def write_conf(path: Path, sections: Mapping[str, Section]) -> None:
    """Write ceph.conf."""
    lines = []
    for name, options in sections.items():
        lines += [f"[{name}]", *(f"{key} = {value}" for key, value in options.items()), ""]
    path.write_text("\n".join(lines))


def keys_of(user: str) -> tuple[str, str]:
    """Return access key and secret key of a user."""
    return f"access-of-{user}", f"secret-of-{user}"


def creation_of(user: str) -> list[str]:
    """Return the arguments for radosgw-admin that create a user."""
    access_key, secret_key = keys_of(user)
    name = [f"--uid={user}", f"--display-name={user}"]
    return ["user", "create", *name, f"--access-key={access_key}", f"--secret-key={secret_key}"]


def creation_of_subuser(user: str) -> list[str]:
    """Return the arguments for radosgw-admin that let a user log in to the Swift side."""
    name = [f"--uid={user}", f"--subuser={user}:{SUBUSER}"]
    return ["subuser", "create", *name, "--access=full", "--key-type=swift", f"--secret-key={keys_of(user)[1]}"]
