"""What can happen to the file of a database: each case has its own error, and no acknowledged commit is lost."""

from __future__ import annotations

import os
import shutil
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from holdfast.errors import (
    CorruptData,
    DatabaseReplaced,
    ForeignDatabase,
    InvalidInput,
    SchemaTooNew,
    StorageClosed,
    StorageError,
)
from holdfast.storage.sql import SqlWorkflowStorage, table_names
from holdfast.testing import Writer, rebuilt

not_on_windows = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX files")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "sessions.db"


def opened(file: Path, **options: object) -> closing[SqlWorkflowStorage]:
    return closing(SqlWorkflowStorage(db_file=file, **options))  # type: ignore[arg-type]


@pytest.fixture
def stored(file: Path) -> Path:
    """A closed database with one session of three versions."""
    with opened(file) as storage:
        writer = Writer(storage)
        for number in range(3):
            writer.commit({"a": number, "text": "x" * 5000}, snapshot=number == 1)
    return file


def run_python(code: str, *arguments: object) -> str:
    """Run code in a process of its own and return what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], check=False, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# Making a database


def test_missing_folders_are_made(tmp_path: Path) -> None:
    with opened(tmp_path / "new" / "folder" / "a.db") as storage:
        Writer(storage).commit({"a": 1})
    assert (tmp_path / "new" / "folder" / "a.db").exists()


def test_nothing_is_made_before_the_first_use(tmp_path: Path) -> None:
    SqlWorkflowStorage(db_file=tmp_path / "new" / "a.db").close()
    assert list(tmp_path.iterdir()) == []


@not_on_windows
def test_new_files_belong_to_their_owner_alone(file: Path) -> None:
    before = os.umask(0)
    try:
        with opened(file) as storage:
            Writer(storage).commit({"a": 1})
            modes = {found.name: stat.S_IMODE(found.stat().st_mode) for found in file.parent.iterdir()}
    finally:
        os.umask(before)
    assert modes == {f"sessions.db{end}": 0o600 for end in ("", "-wal", "-shm", "-gate")}


def test_the_home_folder_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert SqlWorkflowStorage(db_file="~/a.db").where == str((tmp_path / "a.db").resolve())


@not_on_windows
def test_the_home_folder_of_nobody_is_not_taken_for_a_name() -> None:
    with pytest.raises(InvalidInput, match="home folder"):
        SqlWorkflowStorage(db_file="~nobody-of-that-name/a.db")


@not_on_windows
def test_a_link_and_its_target_are_one_database(file: Path, tmp_path: Path) -> None:
    (tmp_path / "link.db").symlink_to(file)
    with opened(file) as direct, opened(tmp_path / "link.db") as linked:
        assert direct.where == linked.where
        Writer(direct).commit({"a": 1})
        assert rebuilt(linked.load("", "s")) == {"a": 1}


def test_file_names_with_url_characters_are_taken_as_they_are(tmp_path: Path) -> None:
    for name in ("a?mode=memory", "50%20.db", "a#b.db", "ünï cödé.db", "a'b.db"):
        with opened(tmp_path / name) as storage:
            Writer(storage).commit({"a": name})
        assert (tmp_path / name).stat().st_size > 0
        with opened(tmp_path / name) as storage:
            assert rebuilt(storage.load("", "s")) == {"a": name}


def test_closing_copies_the_log_into_the_database(stored: Path) -> None:
    assert sorted(found.name for found in stored.parent.iterdir()) == ["sessions.db", "sessions.db-gate"]
    copy = shutil.copy(stored, stored.with_name("copy.db"))
    with opened(Path(copy)) as storage:
        assert rebuilt(storage.load("", "s")) == {"a": 2, "text": "x" * 5000}


def test_an_empty_file_without_a_gate_is_a_new_database(file: Path) -> None:
    file.touch()
    with opened(file) as storage:
        Writer(storage).commit({"a": 1})
        assert storage.check() == ()


def test_a_database_that_was_removed_in_order_can_be_made_again(stored: Path) -> None:
    stored.unlink()
    with opened(stored) as storage:
        assert storage.load("", "s") is None
        Writer(storage).commit({"a": 1})
    with opened(stored) as storage:
        assert rebuilt(storage.load("", "s")) == {"a": 1}


def test_a_process_that_died_while_making_the_database_does_not_spoil_it(stored: Path) -> None:
    # What is left when it dies between making the file and its first commit, where a database was before.
    stored.unlink()
    stored.touch()
    stored.with_name("sessions.db-gate").write_bytes(b"")
    with opened(stored) as storage:
        Writer(storage).commit({"a": 1})


# Files that are not what they were


def test_an_empty_file_where_a_database_was_is_an_error(stored: Path) -> None:
    stored.write_bytes(b"")
    with opened(stored) as storage:
        for _ in range(2):
            with pytest.raises(DatabaseReplaced, match=r"sessions\.db-gate"):
                storage.load("", "s")
    assert stored.read_bytes() == b""


def test_a_missing_file_whose_log_is_there_is_an_error(stored: Path) -> None:
    stored.unlink()
    stored.with_name("sessions.db-wal").write_bytes(b"committed frames")
    with opened(stored) as storage, pytest.raises(DatabaseReplaced, match=r"sessions\.db-wal"):
        storage.load("", "s")
    assert not stored.exists()
    assert stored.with_name("sessions.db-wal").read_bytes() == b"committed frames"


@pytest.mark.parametrize("content", [b"x", b"SQLite format 3\0", b"just some text\n" * 400, bytes(8192)], ids=len)
def test_a_file_that_is_not_a_database_is_left_untouched(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    with opened(file) as storage:
        for call in (lambda: storage.load("", "s"), lambda: Writer(storage).commit({"a": 1})):
            with pytest.raises((ForeignDatabase, CorruptData)):
                call()
    assert file.read_bytes() == content


def test_a_clobbered_header_is_an_error(stored: Path) -> None:
    content = bytearray(stored.read_bytes())
    content[:16] = b"\0" * 16
    stored.write_bytes(content)
    with opened(stored) as storage, pytest.raises(ForeignDatabase):
        storage.load("", "s")
    assert stored.read_bytes() == content


@pytest.mark.parametrize("part", [0.1, 0.5, 0.9])
def test_a_truncated_file_is_an_error(stored: Path, part: float) -> None:
    content = stored.read_bytes()
    stored.write_bytes(content[: int(len(content) * part)])
    with opened(stored) as storage, pytest.raises((CorruptData, ForeignDatabase)):
        storage.load("", "s")


def test_a_folder_in_the_place_of_the_database_is_an_error(file: Path) -> None:
    file.mkdir()
    with opened(file) as storage, pytest.raises(ForeignDatabase, match="not a regular file"):
        storage.load("", "s")


def test_a_file_in_the_place_of_a_folder_is_an_error(file: Path) -> None:
    file.touch()
    with opened(file / "a.db") as storage, pytest.raises(StorageError):
        storage.load("", "s")


@not_on_windows
@pytest.mark.parametrize("happening", ["removed", "replaced", "emptied"])
def test_a_file_that_changes_under_an_open_database_is_noticed(stored: Path, happening: str) -> None:
    with opened(stored) as storage:
        writer = Writer(storage, "", "t")
        writer.commit({"a": 1})
        kept = stored.with_name("kept.db")
        if happening == "emptied":
            shutil.copy(stored, kept)
            os.truncate(stored, 0)
        else:
            stored.rename(kept)
        if happening == "replaced":
            shutil.copy(kept, stored)
        with pytest.raises(DatabaseReplaced, match=happening):
            writer.commit({"a": 2})


@not_on_windows
def test_reading_from_a_removed_file_is_noticed_too(stored: Path) -> None:
    with opened(stored) as storage:
        Writer(storage, "", "t").commit({"a": 1})
        assert storage.load("", "s") is not None
        stored.unlink()
        for _ in range(3):
            with pytest.raises(DatabaseReplaced):
                storage.load("", "s")


@not_on_windows
def test_a_replacement_is_used_after_the_error_and_its_log_survives(stored: Path) -> None:
    other = stored.with_name("other.db")
    with opened(other) as storage:
        Writer(storage, "", "other").commit({"from": "other"})
    code = """
import os, sys
from pathlib import Path
from holdfast.errors import DatabaseReplaced
from holdfast.storage.sql import SqlWorkflowStorage
from holdfast.testing import Writer, rebuilt
file, other = map(Path, sys.argv[1:])
storage = SqlWorkflowStorage(db_file=file)
assert storage.load("", "s") is not None
Writer(storage, "", "t").commit({"a": 1})
os.replace(other, file)
for end in ("-wal", "-shm"):
    os.unlink(f"{file}{end}")
try:
    storage.load("", "s")
except DatabaseReplaced:
    print("noticed")
Writer(storage, "", "new").commit({"a": "new"})
print(rebuilt(storage.load("", "other")), rebuilt(storage.load("", "new")))
"""
    assert run_python(code, stored, other) == "noticed\n{'from': 'other'} {'a': 'new'}\n"
    with opened(stored) as storage:
        assert rebuilt(storage.load("", "new")) == {"a": "new"}
        assert storage.check() == ()


@not_on_windows
def test_a_folder_that_was_removed_is_noticed_and_not_made_again(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    with opened(folder / "a.db") as storage:
        writer = Writer(storage)
        writer.commit({"a": 1})
        shutil.rmtree(folder)
        for call in (lambda: writer.commit({"a": 2}), lambda: storage.load("", "s")):
            with pytest.raises(DatabaseReplaced, match="removed"):
                call()
    assert not folder.exists()


@not_on_windows
def test_closing_does_not_touch_the_log_of_a_replacement(stored: Path) -> None:
    storage = SqlWorkflowStorage(db_file=stored)
    Writer(storage, "", "t").commit({"a": 1})
    for end in ("", "-wal", "-shm"):
        stored.with_name(f"sessions.db{end}").unlink()
    code = """
import os, sys
from holdfast.storage.sql import SqlWorkflowStorage
from holdfast.testing import Writer
Writer(SqlWorkflowStorage(db_file=sys.argv[1]), "", "new").commit({"a": "only in the log"})
os._exit(0)
"""
    run_python(code, stored)
    log = stored.with_name("sessions.db-wal").read_bytes()
    storage.close()
    assert stored.with_name("sessions.db-wal").read_bytes() == log
    with opened(stored) as storage:
        assert rebuilt(storage.load("", "new")) == {"a": "only in the log"}


# Foreign tables and newer schemas


def change(file: Path, *statements: str) -> None:
    with closing(sqlite3.connect(file)) as connection, connection:
        for statement in statements:
            connection.execute(statement)


def dump(file: Path) -> list[str]:
    with closing(sqlite3.connect(file)) as connection:
        return list(connection.iterdump())


def test_a_newer_schema_is_refused(stored: Path) -> None:
    change(stored, "INSERT INTO holdfast_migration VALUES ('workflow_sessions', 9999, 0)")
    with opened(stored) as storage, pytest.raises(SchemaTooNew) as caught:
        storage.load("", "s")
    assert caught.value.facts["found"] == 9999
    with pytest.raises(SchemaTooNew):
        table_names(stored)


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE workflow_sessions_run (a)",
        "CREATE TABLE Workflow_Sessions_Session (a)",
        "CREATE TABLE holdfast_migration (version)",
        "CREATE TABLE holdfast_catalogue (a)",
        "CREATE VIEW workflow_sessions_value AS SELECT 1",
    ],
)
def test_somebody_elses_table_of_the_same_name_is_left_untouched(file: Path, statement: str) -> None:
    change(file, statement)
    before = file.read_bytes()
    with opened(file) as storage:
        for call in (lambda: storage.find_sessions(None), lambda: Writer(storage).commit({"a": 1})):
            with pytest.raises(ForeignDatabase, match="made by something else"):
                call()
    assert file.read_bytes() == before


def test_tables_of_other_names_may_share_the_file(file: Path) -> None:
    change(file, "CREATE TABLE theirs (a)", "INSERT INTO theirs VALUES (1)")
    with opened(file) as storage:
        Writer(storage).commit({"a": 1})
        assert storage.check() == ()
    assert 'INSERT INTO "theirs" VALUES(1);' in dump(file)


def test_all_table_names_of_a_database_are_listed(file: Path) -> None:
    for name in ("posts", "Articles", "a"):
        with opened(file, table_name=name) as storage:
            storage.find_sessions(None)
    assert table_names(file) == table_names(f"sqlite:///{file}") == ("a", "articles", "posts")


def test_listing_the_tables_of_what_is_no_holdfast_database_changes_nothing(file: Path) -> None:
    with pytest.raises(InvalidInput, match="no database"):
        table_names(file)
    assert not file.exists()
    with pytest.raises(InvalidInput, match="no database"):
        table_names("sqlite://")
    change(file, "CREATE TABLE theirs (a)")
    before = file.read_bytes()
    with pytest.raises(ForeignDatabase):
        table_names(file)
    assert file.read_bytes() == before


def test_table_names_keep_their_sessions_apart(file: Path) -> None:
    with opened(file, table_name="posts") as posts, opened(file, table_name="articles") as articles:
        Writer(posts).commit({"a": "post"})
        assert articles.load("", "s") is None
        Writer(articles).commit({"a": "article"})
        assert rebuilt(posts.load("", "s")) == {"a": "post"}
        assert len(articles.find_sessions(None)) == 1


# Files that cannot be written

AS_NOBODY = """
import os, sys
from holdfast.errors import HoldfastError
from holdfast.storage import engine, reading, registry, writing
from holdfast.storage.sql import SqlWorkflowStorage
from holdfast.testing import Writer
if os.getuid() == 0:
    os.setuid(65534)
storage = SqlWorkflowStorage(db_file=sys.argv[1])
for call in (lambda: storage.load("", "s"), lambda: Writer(storage, "", "t").commit({"a": 1})):
    try:
        call()
    except HoldfastError as error:
        print(type(error).__name__)
    else:
        print("done")
"""


@pytest.fixture
def open_path(tmp_path: Path) -> Iterator[None]:
    """Lets any user reach the temporary folder."""
    folders = [folder for folder in (tmp_path, *tmp_path.parents) if folder.stat().st_uid == os.getuid()]
    modes = [folder.stat().st_mode for folder in folders]
    for folder in folders:
        if folder != Path(folder.anchor):
            folder.chmod(0o755)
    yield
    for folder, mode in zip(folders, modes, strict=True):
        folder.chmod(mode)


@not_on_windows
@pytest.mark.usefixtures("open_path")
def test_a_read_only_file_can_be_read_and_not_written(stored: Path) -> None:
    stored.parent.chmod(0o777)
    stored.chmod(0o444)
    stored.with_name("sessions.db-gate").chmod(0o666)
    assert run_python(AS_NOBODY, stored) == "done\nStorageReadOnly\n"
    stored.chmod(0o600)
    with opened(stored) as storage:
        assert storage.check() == ()


@not_on_windows
@pytest.mark.usefixtures("open_path")
@pytest.mark.parametrize("with_gate", [True, False])
def test_a_read_only_folder_is_an_error(stored: Path, with_gate: bool) -> None:
    gate = stored.with_name("sessions.db-gate")
    stored.chmod(0o666)
    gate.chmod(0o666)
    if not with_gate:
        gate.unlink()
    stored.parent.chmod(0o555)
    assert run_python(AS_NOBODY, stored) == "StorageReadOnly\nStorageReadOnly\n"
    stored.parent.chmod(0o755)
    with opened(stored) as storage:
        assert storage.check() == ()


LIMITED = """
import resource, signal, sys
from holdfast.errors import StorageFull
from holdfast.storage.sql import SqlWorkflowStorage
from holdfast.testing import Writer, rebuilt
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
storage = SqlWorkflowStorage(db_file=sys.argv[1])
writer = Writer(storage)
writer.commit({"a": 0})
resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, resource.RLIM_INFINITY))
acknowledged = 1
full = 0
while full < 3:
    try:
        acknowledged = writer.commit({"a": "x" * 20_000 + str(acknowledged)}, snapshot=acknowledged % 3 == 0)
    except StorageFull:
        full += 1
assert storage.load("", "s").info.version == acknowledged
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
assert rebuilt(storage.load("", "s"), storage) == writer.states[acknowledged]
assert writer.commit({"a": "again"}) == acknowledged + 1
assert storage.check() == ()
storage.close()
print(acknowledged + 1)
"""


@not_on_windows
def test_a_full_disk_keeps_what_was_acknowledged_and_writes_resume(file: Path) -> None:
    acknowledged = int(run_python(LIMITED, file))
    assert acknowledged > 5
    with opened(file) as storage:
        found = storage.load("", "s")
        assert found is not None
        assert found.info.version == acknowledged
        assert storage.check() == ()


# Engines


def test_all_storages_of_a_file_share_one_engine_until_the_last_is_closed(file: Path) -> None:
    first, second = SqlWorkflowStorage(db_file=file), SqlWorkflowStorage(db_file=str(file))
    Writer(first).commit({"a": 1})
    assert second.load("", "s") is not None
    first.close()
    with pytest.raises(StorageClosed):
        first.load("", "s")
    assert rebuilt(second.load("", "s")) == {"a": 1}
    assert file.with_name("sessions.db-wal").exists()
    second.close()
    assert not file.with_name("sessions.db-wal").exists()
    with opened(file) as third:
        assert rebuilt(third.load("", "s")) == {"a": 1}


def test_storages_in_memory_are_separate() -> None:
    with (
        closing(SqlWorkflowStorage(db_url="sqlite://")) as first,
        closing(SqlWorkflowStorage(db_url="sqlite://")) as second,
    ):
        Writer(first).commit({"a": 1})
        assert second.load("", "s") is None


def test_a_log_that_is_removed_under_an_open_database_is_noticed_before_the_next_commit(tmp_path: Path) -> None:
    file = tmp_path / "w.db"
    storage = SqlWorkflowStorage(db_file=file)
    writer = Writer(storage)
    writer.commit({"a": 1})
    os.unlink(f"{file}-wal")
    with pytest.raises(DatabaseReplaced, match="lost its log"):
        writer.commit({"a": 2})


@pytest.mark.parametrize("timeout", [0, 1e-9])
def test_the_shortest_timeout_still_serves_a_database_that_nobody_else_uses(tmp_path: Path, timeout: float) -> None:
    for number in range(5):
        storage = SqlWorkflowStorage(db_file=tmp_path / f"{number}.db", lock_timeout=timeout)
        assert Writer(storage).commit({"a": 1}) == 1
        storage.close()
