"""The command's help, and the page about it."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from cli import holdfast, ok
from holdfast.cli import COMMANDS, command
from holdfast.cli.exit_status import exit_status
from holdfast.errors import HoldfastError

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.usefixtures("here")


class TestHelp:
    def test_it_lists_every_command_and_loads_no_heavy_package(self) -> None:
        code = (
            "import sys\nfrom holdfast.cli import main\nsys.argv = ['holdfast', '--help']\n"
            "try: main()\nfinally: print(*sys.modules, file=sys.stderr)"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert all(name in done.stdout for name in COMMANDS)
        loaded = set(done.stderr.split())
        assert "click" in loaded
        assert not loaded & {"pydantic", "pydantic_ai", "rich", "msgspec", "holdfast.workflow"}

    def test_the_text_of_the_list_is_that_of_the_commands(self) -> None:
        context = click.Context(command)
        for name, text in COMMANDS.items():
            loaded = command.get_command(context, name)
            assert loaded is not None
            assert loaded.name == name
            assert loaded.get_short_help_str(200) == text

    def test_every_command_and_option_has_help(self) -> None:
        def walk(found: click.Command, path: str) -> None:
            context = click.Context(found)
            assert found.get_short_help_str(), path
            for parameter in found.params:
                if isinstance(parameter, click.Option) and "--help" not in parameter.opts:
                    assert parameter.help, f"{path} {parameter.opts}"
            if isinstance(found, click.Group):
                for name in found.list_commands(context):
                    walk(found.get_command(context, name), f"{path} {name}")  # type: ignore[arg-type]

        walk(command, "holdfast")

    def test_every_command_stands_on_the_page_about_the_command_line(self) -> None:
        page = (ROOT / "docs" / "command-line.md").read_text(encoding="utf-8")
        context = click.Context(command)
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            inner = found.list_commands(context) if isinstance(found, click.Group) else []
            for path in [f"{name} {sub}" for sub in inner] or [name]:
                assert f"`holdfast {path}" in page

    def test_every_exit_status_stands_on_the_page_about_the_command_line(self) -> None:
        def below(kind: type[HoldfastError]) -> Iterator[type[HoldfastError]]:
            yield kind
            for inner in kind.__subclasses__():
                yield from below(inner)

        page = (ROOT / "docs" / "command-line.md").read_text(encoding="utf-8")
        documented = {int(number) for number in re.findall(r"^\| (\d+) \|", page, re.MULTILINE)}
        used = {exit_status(kind.__new__(kind)) for kind in below(HoldfastError)}
        assert documented == used | {0, 130}

    def test_an_unknown_command_is_wrong_use(self) -> None:
        result = holdfast("fly")
        assert result.exit_code == 2
        assert "No such command 'fly'" in result.stderr

    def test_the_version_is_told(self) -> None:
        assert re.fullmatch(r"holdfast \d+\.\d+\.\d+\n", ok("--version"))
