"""The contenders beside the whole service: the seed's loop, rclone, the AWS command line, curl, and parts of ours."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Final, cast

from benchmarks.machine import HOME
from benchmarks.measured import CpuMeter, Digests, RssWatch, Taken, peak_rss_mib
from benchmarks.source import Shelf, Source

PEERS: Final = HOME / ".venv-peers" / "bin"
PATIENCE_S: Final = 1800.0
"""A command that takes longer is ended, and the benchmark fails."""
ALGORITHMS: Final = ("md5", "sha1", "sha256")


class MissingPeer(Exception):
    """A program to measure against is not there; the message says how to get it."""


def environ_of(source: Source) -> dict[str, str]:
    """Return the environment in which the AWS libraries read from the source and ask nobody else."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "RCLONE_", "HASHMILL_"))}
    trust = {"AWS_CA_BUNDLE": str(source.certificate)} if source.certificate else {}
    return {
        **ours,
        **trust,
        "AWS_ACCESS_KEY_ID": source.access_key_id,
        "AWS_SECRET_ACCESS_KEY": source.secret_access_key,
        "AWS_DEFAULT_REGION": source.region,
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
        "PYTHONPATH": str(HOME),
        "no_proxy": "127.0.0.1",
    }


class Kept:
    """A process that stays and does the work each time it is told: its start does not count."""

    def __init__(self, name: str, argv: Sequence[str | Path], source: Source, shelf: Shelf) -> None:
        self.name = name
        self._source, self._shelf = source, shelf
        self._child = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environ_of(source), text=True, cwd=HOME
        )
        self._tell, self._hear = cast("IO[str]", self._child.stdin), cast("IO[str]", self._child.stdout)
        if self._hear.readline() != "ready\n":
            raise MissingPeer(f"{name} did not start")

    def run(self) -> Taken:
        server = CpuMeter({"server": self._source.pids})
        keys = self._shelf.all_keys()
        self._tell.write(json.dumps({"bucket": self._source.bucket, "keys": keys}) + "\n")
        self._tell.flush()
        answer: Any = json.loads(self._hear.readline())
        return Taken(
            wall_s=answer["wall_s"],
            cpu_s={"client": answer["cpu_s"], **server.read()},
            rss_mib={"client": peak_rss_mib(self._child.pid)},
            digests=dict(zip(keys, answer["digests"], strict=True)),
        )

    def close(self) -> None:
        self._tell.close()
        self._child.wait()
        self._hear.close()


class Commands:
    """A line of bash, started anew each time, as its users do; what it prints is read by `found_in`."""

    def __init__(
        self, name: str, line: str, source: Source, found_in: Callable[[str], Mapping[str, Mapping[str, str]] | int]
    ) -> None:
        self.name = name
        self._line, self._source, self._found_in = line, source, found_in
        self._folder = tempfile.TemporaryDirectory(prefix="hm-peer-")
        self._environ = environ_of(source)

    def run(self) -> Taken:
        printed = Path(self._folder.name) / "printed"
        server = CpuMeter({"server": self._source.pids})
        began_s = time.perf_counter()
        with printed.open("wb") as out:
            child = subprocess.Popen(
                ["/bin/bash", "-euo", "pipefail", "-c", self._line],
                stdin=subprocess.DEVNULL,
                stdout=out,
                cwd=self._folder.name,
                env=self._environ,
                start_new_session=True,
            )
            rss = RssWatch(child.pid)
            too_long = threading.Timer(PATIENCE_S, os.killpg, (child.pid, signal.SIGKILL))
            too_long.start()
            _, status, usage = os.wait4(child.pid, 0)
            too_long.cancel()
            child.returncode = os.waitstatus_to_exitcode(status)
        wall_s = time.perf_counter() - began_s
        if child.returncode:
            raise subprocess.CalledProcessError(child.returncode, self._line)
        found = self._found_in(printed.read_text())
        return Taken(
            wall_s=wall_s,
            cpu_s={"client": usage.ru_utime + usage.ru_stime, **server.read()},
            rss_mib={"client": rss.stop()},
            digests=None if isinstance(found, int) else found,
            read_bytes=found if isinstance(found, int) else None,
        )

    def close(self) -> None:
        self._folder.cleanup()


def seed(source: Source, shelf: Shelf) -> Kept:
    """The seed's loop: one object after the other, three updates a block."""
    return _boto3("the seed's loop", 1, source, shelf)


def seed_in_threads(source: Source, shelf: Shelf, *, threads: int = 8) -> Kept:
    """The same for several objects at once."""
    return _boto3(f"the seed's loop, {threads} threads", threads, source, shelf)


def library(source: Source, shelf: Shelf) -> Kept:
    """Ours without the service: one process, no ledger, no reports."""
    argv = [sys.executable, "-m", "benchmarks.ours", "library", source.endpoint_url, shelf.word]
    return Kept("Hashmill as a library", argv, source, shelf)


def kernel(source: Source, shelf: Shelf) -> Kept:
    """Ours out of memory: the limit that hashing sets on this machine."""
    argv = [sys.executable, "-m", "benchmarks.ours", "kernel", source.endpoint_url, shelf.word]
    return Kept("limit: kernel alone", argv, source, shelf)


def curl(source: Source, shelf: Shelf, folder: Path) -> Commands:
    """All objects to nowhere, over one connection kept: the limit that reading sets."""
    sheet = folder / f"curl-{shelf.container}.txt"
    urls = [f"{source.endpoint_url}/{source.bucket}/{key}" for key in shelf.all_keys()]
    told = r'write-out = "%{size_download}\n"'
    sheet.write_text("".join(f'url = "{url}"\noutput = "/dev/null"\n' for url in urls) + told + "\n")
    trust = f"--cacert {shlex.quote(str(source.certificate))}" if source.certificate else ""
    line = f"curl --silent --show-error --fail {trust} --config {shlex.quote(str(sheet))}"
    return Commands("limit: curl to nothing", line, source, lambda text: sum(map(int, text.split())))


def rclone(source: Source, shelf: Shelf, *algorithms: str) -> Commands:
    """`rclone hashsum --download`, one pass for each algorithm: it computes one at a time."""
    program = _peer("rclone")
    options = {
        "config": os.devnull,
        "s3-provider": "Other",
        "s3-list-version": "2",
        "s3-endpoint": source.endpoint_url,
        "s3-access-key-id": source.access_key_id,
        "s3-secret-access-key": source.secret_access_key,
        "s3-region": source.region,
        **({"ca-cert": str(source.certificate)} if source.certificate else {}),
    }
    words = " ".join(f"--{name} {shlex.quote(value)}" for name, value in options.items())
    where = f":s3:{source.bucket}/{shelf.container}"
    passes = [
        f"echo pass {name}; {shlex.quote(str(program))} hashsum {name.upper()} {where} --download {words}"
        for name in algorithms
    ]

    def found_in(text: str) -> Digests:
        found: dict[str, dict[str, str]] = {}
        algorithm = ""
        for line in text.splitlines():
            first, second = line.split()
            if first == "pass":
                algorithm = second
            else:
                found.setdefault(f"{shelf.container}/{second}", {})[algorithm] = first
        return found

    which = "three hashes" if len(algorithms) > 1 else f"{algorithms[0]} only"
    return Commands(f"rclone hashsum, {which}", "; ".join(passes), source, found_in)


def aws(source: Source, shelf: Shelf, *algorithms: str) -> Commands:
    """`aws s3 cp - |` into md5sum, or with tee into three such programs; for one object after the other."""
    program, endpoint = shlex.quote(str(_peer("aws"))), shlex.quote(source.endpoint_url)
    first, *more = algorithms
    lines = []
    for key in shelf.all_keys():
        get = f"{program} s3 cp --only-show-errors --endpoint-url {endpoint} s3://{source.bucket}/{key} -"
        # Named pipes, and not bash's own: those are not waited for, and their CPU would go uncounted.
        aside = "".join(f"mkfifo {name}; {name}sum <{name} >{name}.out & " for name in more)
        tee = f"| tee {' '.join(more)} " if more else ""
        after = "".join(f"; echo {name} $(cat {name}.out)" for name in more) + "".join(f"; rm {n}" for n in more)
        lines.append(
            f"echo key {key}; {aside}{get} {tee}| {first}sum >{first}.out; wait; echo {first} $(cat {first}.out){after}"
        )

    def found_in(text: str) -> Digests:
        found: dict[str, dict[str, str]] = {}
        key = ""
        for line in text.splitlines():
            name, value, *_ = line.split()
            if name == "key":
                key = value
            else:
                found.setdefault(key, {})[name] = value
        return found

    into = "md5sum" if not more else "tee, " + ", ".join(f"{name}sum" for name in (first, *more))
    return Commands(f"aws s3 cp to {into}", "\n".join(lines), source, found_in)


def _boto3(name: str, threads: int, source: Source, shelf: Shelf) -> Kept:
    script = HOME / "benchmarks" / "peer_boto3.py"
    return Kept(name, [_peer("python"), script, source.endpoint_url, str(threads)], source, shelf)


def _peer(program: str) -> Path:
    path = PEERS / program
    if not re.fullmatch(r"[a-z0-9]+", program) or not path.exists():
        raise MissingPeer(f"{path} is missing; `make bench-peers` installs it")
    return path
