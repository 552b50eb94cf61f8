from __future__ import annotations

from collections.abc import Callable

import pytest

from stack import chromium


def which(installed: set[str]) -> Callable[[str], str | None]:
    return lambda name: f"/usr/bin/{name}" if name in installed else None


def test_a_chromium_on_the_path_is_taken_and_nothing_is_installed() -> None:
    def call(command: tuple[str, ...]) -> int:
        raise AssertionError(command)

    assert chromium.find_or_install({}, which({"chromium-browser", "apt-get"}), call) == "/usr/bin/chromium-browser"
    assert chromium.find_or_install({"PENSTOCK_CHROMIUM": "/opt/chrome"}, which(set()), call) == "/opt/chrome"


def test_root_gets_it_from_the_systems_packages_after_an_update_of_their_list(
    capsys: pytest.CaptureFixture[str],
) -> None:
    installed = {"apt-get"}
    called: list[str] = []

    def call(command: tuple[str, ...]) -> int:
        called.append(command[1])
        if called.count("install") < 2 and command[1] == "install":
            return 100
        if command[1] == "install":
            installed.add("chromium")
        return 0

    assert chromium.find_or_install({}, which(installed), call, lambda: True) == "/usr/bin/chromium"
    assert called == ["install", "update", "install"]
    assert "installing Chromium" in capsys.readouterr().out


@pytest.mark.parametrize(("installed", "is_root"), [({"apt-get"}, False), (set(), True)])
def test_where_it_cannot_be_installed_the_command_to_run_is_named(installed: set[str], is_root: bool) -> None:
    with pytest.raises(chromium.NoChromium, match="sudo apt-get install chromium"):
        chromium.find_or_install({}, which(installed), lambda command: 0, lambda: is_root)
