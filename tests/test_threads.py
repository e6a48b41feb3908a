"""Knowing when nobody else can be changing a value."""

from __future__ import annotations

import _thread
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from holdfast.threads import others_may_change_values, quiet


@contextmanager
def thread_inside(*, is_quiet: bool, started_by_threading: bool = True) -> Iterator[None]:
    """Another thread, for the time of the block."""
    begun, end, ended = threading.Event(), threading.Event(), threading.Event()

    def live() -> None:
        if is_quiet:
            with quiet():
                begun.set()
                end.wait()
        else:
            begun.set()
            end.wait()
        ended.set()

    if started_by_threading:
        threading.Thread(target=live).start()
    else:
        _thread.start_new_thread(live, ())
    begun.wait()
    yield
    end.set()
    ended.wait()


def asked_in_a_new_process(run_python, source: str) -> str:
    return str(run_python(source)).strip()


def test_a_process_with_one_thread_has_nobody_else(run_python) -> None:
    source = "from holdfast.threads import others_may_change_values\nprint(others_may_change_values())"
    assert asked_in_a_new_process(run_python, source) == "False"


def test_the_librarys_own_threads_do_not_count(run_python) -> None:
    source = """if True:
        from holdfast import SqlWorkflowStorage, Workflow
        from holdfast.threads import others_may_change_values
        class Setting(Workflow):
            def run(self):
                self.session_state["n"] = 1
                self.write_to_storage()
                return others_may_change_values()
        storage = SqlWorkflowStorage(db_file="w.db")
        print(Setting(storage=storage).run().content)
    """
    assert asked_in_a_new_process(run_python, source) == "False"


def test_any_other_thread_counts_also_one_that_threading_did_not_start() -> None:
    with thread_inside(is_quiet=False):
        assert others_may_change_values()
    with thread_inside(is_quiet=False, started_by_threading=False):
        assert others_may_change_values()


def test_a_quiet_thread_that_asks_is_told_yes() -> None:
    with quiet():
        assert others_may_change_values()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_can_take_every_lock_that_other_threads_were_using() -> None:
    source = """if True:
        import os, sys, threading, time, warnings
        warnings.simplefilter("ignore")
        sys.setswitchinterval(1e-5)
        from holdfast import Workflow
        from holdfast.storage.memory import MemoryStorage
        class Setting(Workflow):
            def run(self, n):
                self.session_state["n"] = n
        def work():
            storage = MemoryStorage()
            workflows = [Setting(session_id=str(n), storage=storage) for n in range(40)]
            while True:
                for workflow in workflows:
                    workflow.run(time.time())
        for _ in range(3):
            threading.Thread(target=work, daemon=True).start()
        time.sleep(0.2)
        for number in range(40):
            pid = os.fork()
            if pid == 0:
                Setting().run(1)
                os._exit(0)
            deadline = time.time() + 20
            while not os.waitpid(pid, os.WNOHANG)[0]:
                if time.time() > deadline:
                    os.kill(pid, 9)
                    print("hangs", flush=True)
                    os._exit(1)
                time.sleep(0.001)
        print("all ended", flush=True)
        os._exit(0)
    """
    # Measuring coverage takes locks of its own, which a fork can leave behind.
    unmeasured = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}
    done = subprocess.run(
        [sys.executable, "-c", source], env=unmeasured, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout.strip() == "all ended", done.stderr
