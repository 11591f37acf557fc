"""
Ceph on one machine, as far as S3 needs it: one monitor, one store in memory, one radosgw.

Runs as any user. Nothing outside the given folder is read or written, and everything is gone when it stops.
"""

import os
import secrets
import shutil
import subprocess
import uuid
from pathlib import Path
from typing import Final

from hashmill.parts.process import Child, PartFailed, answers, free_ports

PROGRAMS: Final = ("radosgw", "radosgw-admin", "ceph", "ceph-mon", "ceph-osd", "ceph-authtool", "monmaptool")
MISSING = (
    "No {program}. Install it (Debian: apt-get install radosgw ceph-mon ceph-osd ceph-common), or S3_BACKEND=swift."
)

OSD_PORTS: Final = 20
MEMORY_BYTES: Final = 6 * 1024**3

# What made it start in a second and answer in milliseconds (measured): a short paxos interval, for else each new pool
# waits 1 s; tcp_nodelay, for else a small GET takes 44 ms; no manager daemon, which I/O does not need.
CONF = """\
[global]
fsid = {fsid}
mon_host = v2:127.0.0.1:{mon_port}/0
mon_initial_members = a
public_addr = 127.0.0.1
cluster_addr = 127.0.0.1
keyring = {folder}/keyring
auth_allow_insecure_global_id_reclaim = false
osd_pool_default_size = 1
osd_pool_default_min_size = 1
osd_pool_default_pg_num = 8
osd_crush_chooseleaf_type = 0
mon_allow_pool_size_one = true
mon_warn_on_pool_no_redundancy = false
mon_data = {folder}/mon
osd_data = {folder}/osd
osd_objectstore = memstore
memstore_device_bytes = {memory_bytes}
run_dir = {folder}/run
admin_socket =
pid_file = {folder}/run/$name.pid
log_file = {folder}/log/$name.log
debug_ms = 0/0
debug_rgw = 0/0
debug_osd = 0/0
debug_mon = 0/0
debug_paxos = 0/0
debug_rocksdb = 0/0
debug_objecter = 0/0
debug_rados = 0/0
debug_memdb = 0/0
log_to_file = false
log_to_stderr = false
mon_cluster_log_to_file = false
ms_bind_port_min = {osd_port_min}
ms_bind_port_max = {osd_port_max}
mon_data_avail_crit = 1
mon_data_avail_warn = 2
paxos_propose_interval = 0.02
paxos_min_wait = 0.01
mon_mgr_beacon_grace = 1000000
[client]
rgw_frontends = beast endpoint=127.0.0.1:{rgw_port} tcp_nodelay=1
rgw_data = {folder}/rgw
rgw_enable_usage_log = false
rgw_thread_pool_size = 64
rgw_dns_name = 127.0.0.1
"""


class Cluster:
    """The daemons and their keys; `start` fills `children`, also when it fails half way."""

    def __init__(self, folder: Path) -> None:
        self.children: list[Child] = []
        self.access_key_id = f"demo{secrets.token_hex(8)}"
        self.secret_access_key = secrets.token_hex(20)
        self._folder = folder
        self._mon_port, self._rgw_port, *osd_ports = free_ports(2 + OSD_PORTS, in_a_row=True)
        self._osd_ports = osd_ports
        self.endpoint_url = f"http://127.0.0.1:{self._rgw_port}"
        self._environ = {**os.environ, "CEPH_CONF": str(folder / "ceph.conf")}

    def start(self) -> None:
        """Make a cluster, start its daemons, create the user, and return once radosgw accepts connections."""
        for program in PROGRAMS:
            if shutil.which(program) is None:
                raise PartFailed(MISSING.format(program=program))
        fsid = self._configure()
        self._make_keyring()
        monitor = f"[v2:127.0.0.1:{self._mon_port}]"
        self._run("monmaptool", "--create", "--fsid", fsid, "--enable-all-features", "--addv", "a", monitor, "monmap")
        self._run("ceph-mon", "--mkfs", "-i", "a", "--monmap", "monmap", "--keyring", "keyring")
        self._daemon("ceph-mon", "-i", "a", port=self._mon_port)
        # The store must bear the id that the monitor gave out, or it stays "down" for ever.
        store = str(uuid.uuid4())
        self._run("ceph", "--connect-timeout", "20", "osd", "new", store)
        self._run("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", store)
        self._daemon("ceph-osd", "-i", "0")
        self._daemon("radosgw", "-n", "client.rgw.a", port=self._rgw_port)
        keys = ("--access-key", self.access_key_id, "--secret-key", self.secret_access_key)
        self._run("radosgw-admin", "user", "create", "--uid", "demo", "--display-name", "demo", *keys)

    def stop(self) -> None:
        """Stop the daemons, radosgw first."""
        for child in reversed(self.children):
            child.stop()

    def _configure(self) -> str:
        for name in ("mon", "osd", "run", "log", "rgw"):
            (self._folder / name).mkdir(exist_ok=True)
        fsid = str(uuid.uuid4())
        conf = CONF.format(
            fsid=fsid,
            folder=self._folder,
            mon_port=self._mon_port,
            rgw_port=self._rgw_port,
            osd_port_min=self._osd_ports[0],
            osd_port_max=self._osd_ports[-1],
            memory_bytes=MEMORY_BYTES,
        )
        (self._folder / "ceph.conf").write_text(conf)
        return fsid

    def _make_keyring(self) -> None:
        everything = "allow *"
        capabilities = {
            "mon.": {"mon": everything},
            "client.admin": {"mon": everything, "osd": everything, "mgr": everything, "mds": everything},
            "osd.0": {"mon": "allow profile osd", "osd": everything, "mgr": "allow profile osd"},
            "client.rgw.a": {"mon": "allow rw", "osd": "allow rwx"},
        }
        self._run("ceph-authtool", "--create-keyring", "keyring")
        for entity, allowed in capabilities.items():
            words = (word for service, what in allowed.items() for word in ("--cap", service, what))
            self._run("ceph-authtool", "keyring", "-n", entity, "--gen-key", *words)

    def _daemon(self, program: str, *words: str, port: int | None = None) -> None:
        # With its neighbours gone a daemon would wait for them; there is nothing to lose in memory.
        argv = [program, *words, "-f"]
        child = Child(argv, name=program, folder=self._folder, environ=self._environ, grace_s=1.0)
        self.children.append(child)
        if port is not None:
            child.wait_until(lambda: answers(port))

    def _run(self, program: str, *words: str) -> None:
        done = subprocess.run(  # noqa: S603 - Ceph's own programs
            [program, *words],
            cwd=self._folder,
            env=self._environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
            check=False,
        )
        if done.returncode != 0:
            raise PartFailed(f"{program} {words[0]} failed with status {done.returncode}:\n{done.stdout[-2000:]}")
