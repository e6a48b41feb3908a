"""Stored data is read as data: whatever is planted, reading it imports, compiles, executes and connects to nothing.

The reading happens in a process of its own, under an audit hook, which cannot be taken away again. What Python itself
loads for a time zone, the package `tzdata`, is the only import that a stored value can cause.
"""

from __future__ import annotations

import base64
import json
import pickle
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from holdfast.storage import rows
from holdfast.testing import make_run
from planted import insert, plant

READER = """
import dataclasses, enum, json, os, pickle, socket, sys
from holdfast import SqlWorkflowStorage, Workflow, codec
from holdfast.cli import sessions, runs, changes, output
from holdfast.display import display
from holdfast.errors import HoldfastError
from holdfast.scalars import DECODERS

@dataclasses.dataclass
class Version:
    major: int = 0

class Colour(enum.Enum):
    RED = 1

class Reading(Workflow):
    state_types = [Version, Colour]
    def run(self):
        self.session_state["run"] = True

watching, seen = False, []
FORBIDDEN = ("import", "exec", "compile", "code.__new__", "function.__new__", "marshal.", "pickle.find_class",
             "os.system", "os.exec", "os.fork", "os.posix_spawn", "os.spawn", "os.startfile", "subprocess.",
             "socket.", "ctypes.", "urllib.", "webbrowser.", "shutil.", "os.remove", "os.rename", "os.chmod")

def hook(event, arguments):
    global watching
    if watching and event.startswith(FORBIDDEN):
        subject = str(arguments[0])
        if event == "import" and subject.split(".")[0] == "tzdata":
            return
        seen.append([event, subject[:100]])
        raise RuntimeError("forbidden: " + event)

def read(file):
    outcomes = []
    storage = SqlWorkflowStorage("t", db_file=file)
    def attempt(work):
        try:
            outcomes.append(["ok", display(codec.encode_or_mark(work()))])
        except HoldfastError as error:
            outcomes.append([type(error).__name__, str(error)])
        except RuntimeError as error:
            if "forbidden" not in str(error):
                raise
    workflow = Reading(session_id="s", storage=storage)
    for name in list(storage_names(workflow)):
        attempt(lambda: workflow.session_state[name])
    attempt(lambda: [display(run.input) for run in storage.find_runs("")])
    attempt(lambda: [str(change.patch) for change in storage.changes("", "s")])
    attempt(lambda: Reading(session_id="s", storage=storage).run().content)
    attempt(lambda: [finding.what for finding in storage.check()])
    storage.close()
    return outcomes

def storage_names(workflow):
    try:
        return list(workflow.session_state)
    except HoldfastError as error:
        return [error]

sys.addaudithook(hook)
read("harmless.db")  # imports what it needs
{control}
watching = True
outcomes = read("planted.db")
watching = False
print(json.dumps({{"seen": seen, "outcomes": outcomes}}))
"""

HARMLESS = {
    "tags": b'[{"$hf":["tuple",[1]]},{"$hf":["set",[]]},{"$hf":["decimal","1.5"]},{"$hf":["bytes","AA=="]},'
    b'{"$hf":["uuid","00000000-0000-0000-0000-000000000005"]},{"$hf":["date","2026-01-31"]},'
    b'{"$hf":["datetime","2026-01-31T00:00:00",{"zone":"Europe/Berlin"}]},{"$hf":["float","nan"]},'
    b'{"$hf":["dataclass","Version",{"major":1}]},{"$hf":["enum","Colour","RED"]},{"$hf:1":2}]',
    "undeclared": b'{"$hf":["model","Other",{}]}',
    "malformed": b"[",
    "unknown zone": b'{"$hf":["datetime","2026-01-31T00:00:00",{"zone":"No/Where"}]}',
}


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return exec, ("import this",)


PICKLES = [pickle.dumps(Bomb(), protocol) for protocol in range(6)]
FOREIGN: dict[str, Any] = {
    "LangChain": {"lc": 1, "type": "constructor", "id": ["subprocess", "Popen"], "kwargs": {"args": ["id"]}},
    "LangChain secret": {"lc": 1, "type": "secret", "id": ["OPENAI_API_KEY"]},
    "jsonpickle": {"py/object": "subprocess.Popen", "py/reduce": [{"py/function": "os.system"}, ["id"]]},
    "YAML": "!!python/object/apply:os.system ['id']",
    "class": {"__class__": "os.system", "__module__": "os", "__reduce__": ["os.system", ["id"]], "$type": "os"},
    "Python": "__import__('os').system('id')",
    "msgpack extension": {
        "__pydantic__": "os.system",
        "_type": "pickle",
        "data": base64.b64encode(PICKLES[2]).decode(),
    },
    "pickle as bytes": {"$hf": ["bytes", base64.b64encode(PICKLES[2]).decode()]},
}
"""What other libraries would make something of; here it comes back as the data that it is."""

REFUSED: dict[str, bytes] = {
    **{f"pickle {protocol}": data for protocol, data in enumerate(PICKLES)},
    **{
        " ".join(map(str, tag))[:40]: json.dumps({"$hf": tag}).encode()
        for tag in (
            ["pickle", base64.b64encode(PICKLES[2]).decode()],
            ["py/object", "os.system", "id"],
            ["constructor", ["os", "system"], {}],
            ["model", "os.system", {"command": "id"}],
            ["model", "subprocess.Popen", {"args": ["id"]}],
            ["dataclass", "planted.Planted", {}],
            ["namedtuple", "__main__.Reading", {}],
            ["enum", "builtins.eval", "__import__('planted')"],
            ["flag", "this", 1],
            ["dataclass", "Version", {"major": 1, "__class__": "os.system"}],
            ["dataclass", "Version", "__import__('planted')"],
            ["enum", "Colour", "__class__"],
            ["enum", "Colour", "mro"],
            ["datetime", "2026-01-31T00:00:00", {"zone": "planted"}],
            ["datetime", "2026-01-31T00:00:00", {"zone": "../../planted"}],
            ["datetime", "2026-01-31T00:00:00", {"zone": "planted/planted"}],
            ["decimal", "__import__('planted')"],
            ["int", "__import__('planted')"],
            ["str", [{"$hf": ["model", "planted", {}]}]],
        )
    },
}


def read_under_the_hook(
    run_python: Callable[[str], str], folder: Path, values: dict[str, bytes], *, control: str = ""
) -> dict[str, Any]:
    plant(folder / "harmless.db", HARMLESS, [b'[{"op":"add","path":"/tags/-","value":1}]'])
    # The names that a value would import are there to be imported.
    (folder / "planted.py").write_text("print('imported')", encoding="utf-8")
    plant(folder / "planted.db", values, [b'[{"op":"add","path":"/patched","value":{"$hf":["model","planted",{}]}}]'])
    run = make_run(input=PICKLES[2], output=json.dumps(FOREIGN["LangChain"]).encode())
    with closing(sqlite3.connect(folder / "planted.db")) as connection, connection:
        columns = list(rows.run_row(run))
        insert(connection, "run", [*columns[:17], columns[-1], *columns[17:-1]])
    found: dict[str, Any] = json.loads(run_python(READER.format(control=control)))
    return found


def test_reading_planted_data_imports_executes_and_starts_nothing(
    run_python: Callable[[str], str], tmp_path: Path
) -> None:
    data = {name: json.dumps(value).encode() for name, value in FOREIGN.items()}
    found = read_under_the_hook(run_python, tmp_path, data | REFUSED)
    assert found["seen"] == []
    kept, refused = found["outcomes"][: len(data)], found["outcomes"][len(data) : len(data) + len(REFUSED)]
    assert [outcome for outcome, _ in kept] == ["ok"] * len(data)
    known = ("MalformedData", "UndeclaredType", "StateError")
    assert {name: outcome for name, (outcome, _) in zip(REFUSED, refused, strict=True) if outcome not in known} == {}


@pytest.mark.parametrize(
    ("control", "value", "event"),
    [
        ('DECODERS["decimal"] = __import__', {"$hf": ["decimal", "planted"]}, "import"),
        ('DECODERS["decimal"] = eval', {"$hf": ["decimal", "1 + 1"]}, "compile"),
        (
            'DECODERS["decimal"] = lambda text: pickle.loads(text.encode("latin-1"))',
            {"$hf": ["decimal", PICKLES[0].decode("latin-1")]},
            "pickle.find_class",
        ),
        ('DECODERS["decimal"] = os.system', {"$hf": ["decimal", "true"]}, "os.system"),
        ('DECODERS["decimal"] = lambda _: socket.socket()', {"$hf": ["decimal", ""]}, "socket.__new__"),
    ],
    ids=["import", "eval", "pickle", "system", "socket"],
)
def test_a_decoder_that_does_more_than_decode_is_noticed(
    control: str, value: Any, event: str, run_python: Callable[[str], str], tmp_path: Path
) -> None:
    found = read_under_the_hook(run_python, tmp_path, {"a": json.dumps(value).encode()}, control=control)
    assert event in [name for name, _ in found["seen"]]
