"""How the commands print."""

from __future__ import annotations

import pytest

from holdfast.cli.output import aligned, brief, cost, duration, moment, printable, readable

pytestmark = pytest.mark.usefixtures("here")


class TestOutput:
    def test_nothing_unprintable_is_printed(self) -> None:
        assert printable("a\x1b\x07\u202eb\n") == "a\\x1b\\x07\\u202eb\\n"
        assert printable("a\n\tb\x9b", lines=True) == "a\n\tb\\x9b"

    def test_values_are_laid_out_in_lines(self) -> None:
        value = {"a": [], "b": {}, "c": "", "d": [[1], "two\nlines"], "e\x1b": 0.5}
        assert list(readable(value)) == [
            "a: []",
            "b: {}",
            'c: ""',
            "d:",
            "  - - 1",
            "  - two",
            "    lines",
            "e\\x1b: 0.5",
        ]

    def test_figures_are_written_for_people(self) -> None:
        assert moment(None) == duration(None) == "-"
        assert duration(0.00321) == "0.00321 s"
        assert duration(3725) == "62 min 5 s"
        assert cost(None) == "unknown"
        assert brief("x" * 500).endswith("…")
        assert aligned(["a", "b"], [2, 2]) == "a   b"
