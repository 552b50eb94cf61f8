"""What `make test` runs at a time, says and answers."""

from __future__ import annotations

import ast
import asyncio
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from stack import levels
from stack.home import PROJECT


def level(name: str, *commands: str) -> levels.Level:
    return levels.Level(name, tuple((command,) for command in commands))


def test_a_level_fails_with_any_of_its_commands_and_the_others_still_run(capsys: Any) -> None:
    called: list[str] = []
    statuses = {"one": 0, "two": 5, "three": 0}

    async def call(command: levels.Command) -> tuple[int, str]:
        called.append(command[0])
        return statuses[command[0]], f"said by {command[0]}\n"

    ticks = iter(range(100))
    both = [level("a", "one", "two"), level("b", "three")]
    status = asyncio.run(levels.run(both, call, lambda: float(next(ticks))))

    assert status == 1
    assert called == ["one", "two", "three"]
    out, err = capsys.readouterr()
    assert out.splitlines() == [
        *("a begins", "said by one", "said by two", "b begins", "said by three", ""),
        *("level  seconds  result", "-----  -------  ------"),
        *("a          1.0  FAILED", "b          1.0  ok", "all        5.0  FAILED"),
    ]
    assert err == "FAILED: a\n"


def test_the_unit_level_enters_the_pure_rooms_alone() -> None:
    pure = ("penstock.core.", "penstock.sources.")
    files = sorted((PROJECT / "tests/unit").glob("*.py"))
    imported = {(file.name, name) for file in files for name in imports(ast.parse(file.read_text(encoding="utf-8")))}
    foreign = {
        (file, name) for file, name in imported if name.partition(".")[0] not in {*sys.stdlib_module_names, "pytest"}
    }
    inside = {(file, name) for file, name in foreign if name.startswith(pure)}
    assert {file for file, _ in inside} == {file.name for file in files}
    assert foreign - inside == set()


def imports(tree: ast.Module) -> Iterator[str]:
    """The full names that a file imports, at its head or within a function."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_lint_says_how_to_format_what_is_not_formatted(capsys: Any) -> None:
    async def call(command: levels.Command) -> tuple[int, str]:
        return int("--check" in command), "1 file would be reformatted\n" if "--check" in command else ""

    assert asyncio.run(levels.run([levels.LINT], call)) == 1
    said = capsys.readouterr().out.splitlines()
    assert said[1] == "1 file would be reformatted"
    assert said[2].startswith("to mend it: ")
    assert said[2].endswith("/ruff format .")


def test_two_levels_run_at_a_time_and_each_is_printed_when_it_ends(capsys: Any) -> None:
    running: set[str] = set()
    together: list[set[str]] = []
    third = asyncio.Event()

    async def call(command: levels.Command) -> tuple[int, str]:
        running.add(command[0])
        together.append(set(running))
        if command[0] == "third":
            third.set()
        elif command[0] == "first":
            await third.wait()
        running.remove(command[0])
        return 0, f"{command[0]}\n"

    status = asyncio.run(levels.run([level(name, name) for name in ("first", "second", "third")], call))

    assert status == 0
    assert together == [{"first"}, {"first", "second"}, {"first", "third"}]
    assert capsys.readouterr().out.splitlines()[:6] == [
        *("first begins", "second begins", "second", "third begins", "third", "first")
    ]


def test_a_folder_of_contracts_may_have_a_space_in_its_name() -> None:
    folder = "/a folder/contracts"
    command = ["make", "--silent", "--old-file=install", "test-contracts", f"CONTRACTS={folder}"]
    asked = subprocess.run(
        [*command, 'PYTHON_IN=sh -c "printenv CONTRACTS"'], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    assert asked.stdout.strip() == folder
