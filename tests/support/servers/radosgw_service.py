"""The program: radosgw, the S3 gateway of Ceph, with the least Ceph behind it, on the loopback interface.

Run with LD_LIBRARY_PATH as CephPrograms has it. A directory is used once; nothing outlives the program.
Must never: leave a daemon behind.
"""

from __future__ import annotations

import argparse
import http.client
import os
import shutil
import socket
import subprocess
import sys
import time
import uuid
from pathlib import Path

from tests.support.servers.ceph_programs import TREE, CephError, CephPrograms
from tests.support.servers.foreground import Foreground, announce
from tests.support.servers.rados import Rados
from tests.support.servers.radosgw_config import (
    HOST,
    OWNER,
    REGION,
    cluster_options,
    creation_of,
    creation_of_subuser,
    gateway_options,
    monitor_options,
    store_options,
    write_conf,
)

READY_LIMIT_S = 45.0
SOCKET_PATH_MAX_BYTES = 80  # what is left of a UNIX socket's 107 for the names of Ceph
WORDS_BYTES = 3000


def free_ports(count: int) -> list[int]:
    """Return ports that are free at this moment: the daemons bind them by themselves."""
    held = [socket.create_server((HOST, 0)) for _ in range(count)]
    ports = [listener.getsockname()[1] for listener in held]
    for listener in held:
        listener.close()
    return ports


class Cluster:
    """The three daemons as children of this process."""

    def __init__(self, directory: Path, programs: CephPrograms) -> None:
        self._directory = directory
        self._programs = programs
        self.conf = directory / "ceph.conf"
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}
        self._monitor_port, self.port = free_ports(2)
        self._fsid = str(uuid.uuid4())

    @property
    def pids(self) -> list[int]:
        """The processes of the daemons."""
        return [daemon.pid for daemon in self._daemons.values()]

    def start(self) -> None:
        """Start the daemons one after the other, each needs the one before. Raises CephError, OSError."""
        directory = self._directory
        for name in ("run", "log", "mon", "osd", "rgw"):
            (directory / name).mkdir()
        libraries = self._programs.libraries
        write_conf(
            self.conf,
            {
                "global": cluster_options(
                    directory, libraries=libraries, fsid=self._fsid, monitor_port=self._monitor_port
                ),
                "mon": monitor_options(directory),
                "osd": store_options(directory),
                "client.rgw.a": gateway_options(directory, port=self.port),
            },
        )
        self._start_monitor()
        self._start_store()
        self._start_daemon("rgw", "radosgw", "-f", "-n", "client.rgw.a")
        for creation in (creation_of(OWNER), creation_of_subuser(OWNER)):  # while the gateway starts
            self._programs.run("radosgw-admin", "-c", str(self.conf), *creation)
        self._wait_for_the_gateway()

    def _start_monitor(self) -> None:
        keyring, monitors = str(self._directory / "keyring"), str(self._directory / "monmap")
        run = self._programs.run
        run("ceph-authtool", "--create-keyring", keyring, "--gen-key", "-n", "mon.", "--cap", "mon", "allow *")
        address = f"[v2:{HOST}:{self._monitor_port}]"
        run("monmaptool", "--create", "--clobber", "--fsid", self._fsid, "--addv", "a", address, monitors)
        maps = ("--monmap", monitors, "--keyring", keyring)
        run("ceph-mon", "--mkfs", "-i", "a", "-c", str(self.conf), *maps)
        self._start_daemon("mon", "ceph-mon", "-f", "-i", "a")

    def _start_store(self) -> None:
        own = str(uuid.uuid4())
        self._programs.run("ceph-osd", "--mkfs", "-i", "0", "-c", str(self.conf), "--osd-uuid", own)
        with Rados(self.conf) as rados:
            rados.order(prefix="osd new", uuid=own)
            self._start_daemon("osd", "ceph-osd", "-f", "-i", "0")
            deadline = time.monotonic() + READY_LIMIT_S
            while not rados.order(prefix="osd stat", format="json").get("num_up_osds"):
                self.check()
                if time.monotonic() > deadline:
                    raise CephError("the store does not come up")
                time.sleep(0.02)

    def _start_daemon(self, name: str, program: str, *arguments: str) -> None:
        command = self._programs.command(program, *arguments, "-c", str(self.conf))
        with self._output(name).open("ab") as output:
            self._daemons[name] = subprocess.Popen(
                # killed when this process ends, however that comes about
                ["setpriv", "--pdeathsig", "KILL", *command],
                env={**os.environ, **self._programs.environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )

    def _output(self, name: str) -> Path:
        return self._directory / "log" / f"{name}.out"

    def _wait_for_the_gateway(self) -> None:
        deadline = time.monotonic() + READY_LIMIT_S
        while not self._answers():
            self.check()
            if time.monotonic() > deadline:
                raise CephError("radosgw does not answer")
            time.sleep(0.02)

    def _answers(self) -> bool:
        connection = http.client.HTTPConnection(HOST, self.port, timeout=5)
        try:
            connection.request("GET", "/")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def check(self) -> None:
        """Raise CephError where a daemon has ended."""
        for name, daemon in self._daemons.items():
            if daemon.poll() is not None:
                words = self._output(name).read_text(errors="replace")[-WORDS_BYTES:]
                raise CephError(f"{name} ended with status {daemon.returncode}:\n{words}")

    def stop(self) -> None:
        """Kill the daemons: a store in memory would first write all of it to disk if it were asked politely."""
        for daemon in self._daemons.values():
            daemon.kill()
        for daemon in self._daemons.values():
            daemon.wait()


def main() -> int:
    """Parse the command line and serve; return the exit status."""
    parser = argparse.ArgumentParser(description="radosgw with the least Ceph behind it")
    parser.add_argument("--directory", type=Path, required=True, help="empty; removed at the end")
    parser.add_argument("--tree", type=Path, default=TREE, help="where the packages are unpacked")
    options = parser.parse_args()
    directory: Path = options.directory.resolve()
    started_s = time.monotonic()
    foreground = Foreground()
    try:
        if len(os.fsencode(directory)) > SOCKET_PATH_MAX_BYTES:
            raise CephError(f"{directory} is too long a name for sockets below it")
        cluster = Cluster(directory, CephPrograms(options.tree))
        try:
            cluster.start()
            announce(
                url=f"http://{HOST}:{cluster.port}",
                region=REGION,
                conf=str(cluster.conf),
                pids=[*cluster.pids, os.getpid()],
                start_s=round(time.monotonic() - started_s, 3),
            )
            while not foreground.is_over(limit_s=5.0):
                cluster.check()
        finally:
            cluster.stop()
    except (CephError, OSError, subprocess.SubprocessError) as error:
        print(f"radosgw_service: {error}", file=sys.stderr)
        return 1
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
