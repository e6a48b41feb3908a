"""Environments of the peers: each is installed, with exactly the versions in its file, into a folder of its own.

    python benchmarks/peers/setup.py [NAME ...]

makes `build/peers/NAME` for each `NAME.txt` beside this file. One that stands there with the same versions is kept.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

HERE = Path(__file__).parent
FOLDER = HERE.parent.parent / "build" / "peers"
NAMES = tuple(sorted(file.stem for file in HERE.glob("*.txt")))


def environment(name: str) -> Path:
    """The Python of a peer's environment, which is made first if it is not there.

    Raises:
        CalledProcessError: its packages cannot be installed.
    """
    folder = FOLDER / name
    wanted = (HERE / f"{name}.txt").read_text(encoding="utf-8") + sys.version
    stamp = folder / "installed.txt"
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    if not stamp.exists() or stamp.read_text(encoding="utf-8") != wanted:
        print(f"installing {name} into {folder.relative_to(FOLDER.parent.parent)} ...", file=sys.stderr, flush=True)
        shutil.rmtree(folder, ignore_errors=True)
        venv.create(folder, with_pip=True, symlinks=os.name != "nt")
        pip = [str(python), "-m", "pip", "install", "-qq", "--disable-pip-version-check"]
        subprocess.run([*pip, "--requirement", str(HERE / f"{name}.txt")], check=True, stdout=sys.stderr)
        stamp.write_text(wanted, encoding="utf-8")
    return python


if __name__ == "__main__":
    for chosen in sys.argv[1:] or NAMES:
        print(environment(chosen))
