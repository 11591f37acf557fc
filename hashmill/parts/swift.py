"""
OpenStack Swift with its S3 door, on one machine, from the Python environment alone.

Four daemons of one process each; one copy of everything. Nothing outside the given folder is read or written.
"""

import errno
import json
import os
import pwd
import secrets
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from hashmill.parts.process import Child, PartFailed, answers, free_ports

STORES: Final = ("object", "container", "account")
RINGS: Final = Path(__file__).with_name("swift_rings.py")
CHUNK_BYTES: Final = 1_048_576
OTHER_FOLDERS: Final = (Path(tempfile.gettempdir()), Path("/var/tmp"), Path("/dev/shm"))  # noqa: S108 - a fresh folder in it
MISSING = "No Swift: `make setup` installs it from requirements-all.txt."
NO_XATTRS = (
    "Swift keeps its metadata in user extended attributes, and none of these folders has them: {folders}. "
    "Set TMPDIR to a folder on ext4, xfs or btrfs, or install radosgw, ceph-mon and ceph-osd."
)

SWIFT_CONF = """\
[swift-hash]
swift_hash_path_suffix = {suffix}
[storage-policy:0]
name = one
default = yes
"""

DEFAULTS = """\
[DEFAULT]
bind_ip = 127.0.0.1
bind_port = {port}
swift_dir = {etc}
user = {user}
workers = 0
max_clients = 4096
backlog = 4096
log_address = /dev/null
log_level = WARNING
"""

STORE_CONF = (
    DEFAULTS
    + """\
devices = {devices}
mount_check = false
disable_fallocate = true
recon_cache_path = {cache}
[pipeline:main]
pipeline = {store}-server
[app:{store}-server]
use = egg:swift#{store}
replication_server = false
keep_cache_size = 5368709120
disk_chunk_size = {chunk}
network_chunk_size = {chunk}
"""
)

PROXY_CONF = (
    DEFAULTS
    + """\
[pipeline:main]
pipeline = catch_errors gatekeeper listing_formats bulk s3api tempauth slo dlo versioned_writes symlink proxy-server
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
object_chunk_size = {chunk}
client_chunk_size = {chunk}
[filter:catch_errors]
use = egg:swift#catch_errors
[filter:gatekeeper]
use = egg:swift#gatekeeper
[filter:listing_formats]
use = egg:swift#listing_formats
[filter:bulk]
use = egg:swift#bulk
[filter:s3api]
use = egg:swift#s3api
location = us-east-1
max_upload_part_num = 10000
[filter:tempauth]
use = egg:swift#tempauth
user_demo_demo = {secret} .admin
[filter:slo]
use = egg:swift#slo
max_manifest_segments = 10000
max_manifest_size = 33554432
[filter:dlo]
use = egg:swift#dlo
[filter:versioned_writes]
use = egg:swift#versioned_writes
allow_object_versioning = true
[filter:symlink]
use = egg:swift#symlink
"""
)


class Cluster:
    """The daemons and their keys; `start` fills `children`, also when it fails half way."""

    def __init__(self, folder: Path) -> None:
        self.children: list[Child] = []
        self.access_key_id = "demo:demo"
        self.secret_access_key = secrets.token_hex(20)
        self._folder = _folder_with_xattrs(folder)
        self._elsewhere = self._folder != folder
        self._proxy_port, *self._store_ports = free_ports(1 + len(STORES))
        self.endpoint_url = f"http://127.0.0.1:{self._proxy_port}"

    def start(self) -> None:
        """Write the configuration, start the daemons, and return once all of them accept connections."""
        programs = {name: _program(f"swift-{name}-server") for name in (*STORES, "proxy")}
        etc = self._configure()
        for name, program in programs.items():
            argv: list[str | Path] = [sys.executable, program, etc / f"{name}.conf"]
            self.children.append(Child(argv, name=f"swift-{name}", folder=self._folder))
        for child, port in zip(self.children, (*self._store_ports, self._proxy_port), strict=True):
            child.wait_until(lambda port=port: answers(port))  # type: ignore[misc]

    def stop(self) -> None:
        """Stop the daemons, the proxy first."""
        for child in reversed(self.children):
            child.stop()
        if self._elsewhere:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _configure(self) -> Path:
        etc, devices, cache = (self._folder / name for name in ("etc", "srv", "cache"))
        for path in (etc, devices / "d1", cache):
            path.mkdir(parents=True, exist_ok=True)
        try:
            user = pwd.getpwuid(os.geteuid()).pw_name
        except KeyError as error:
            raise PartFailed(f"Swift runs as a user with a name, and user id {os.geteuid()} has none.") from error
        common = {"etc": etc, "user": user, "devices": devices, "cache": cache, "chunk": CHUNK_BYTES}
        (etc / "swift.conf").write_text(SWIFT_CONF.format(suffix=secrets.token_hex(8)))
        proxy = etc / "proxy.conf"
        proxy.touch(mode=0o600)
        proxy.write_text(PROXY_CONF.format(port=self._proxy_port, secret=self.secret_access_key, **common))
        for store, port in zip(STORES, self._store_ports, strict=True):
            (etc / f"{store}.conf").write_text(STORE_CONF.format(store=store, port=port, **common))
        ports = json.dumps(dict(zip(STORES, self._store_ports, strict=True)))
        done = subprocess.run(  # noqa: S603 - our own file; -P, or it would find this module as `swift`
            [sys.executable, "-P", RINGS, etc, ports], capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise PartFailed(f"Swift's rings could not be written:\n{done.stderr}")
        return etc


def _program(name: str) -> Path:
    for folder in (Path(sys.executable).parent, Path(sys.prefix, "bin")):
        if (path := folder / name).is_file():
            return path
    raise PartFailed(MISSING)


def _folder_with_xattrs(folder: Path) -> Path:
    if _has_xattrs(folder):
        return folder
    others = [path for path in OTHER_FOLDERS if path.is_dir()]
    for path in others:
        if _has_xattrs(path):
            return Path(tempfile.mkdtemp(prefix="swift-", dir=path))
    raise PartFailed(NO_XATTRS.format(folders=", ".join(map(str, (folder, *others)))))


def _has_xattrs(folder: Path) -> bool:
    try:
        with tempfile.NamedTemporaryFile(dir=folder) as probe:
            os.setxattr(probe.name, "user.swift.metadata", b"1")
    except OSError as error:
        if error.errno in (errno.ENOTSUP, errno.EPERM, errno.EACCES, errno.EROFS):
            return False
        raise
    return True
