#!/usr/bin/env bash
# Makes the Python environment from requirements.txt, or leaves it alone when nothing has changed since.
# usage: stack/install.sh [folder of the environment]
#
# PYTHON names the interpreter; otherwise the first of 3.11 to 3.13 that works is taken. uv (pinned with the rest) comes
# through pip and installs in seconds; where it cannot be had, or fails, pip does the same in minutes.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
venv="${1:-.venv}"
stamp="$venv/.penstock-installed"

find_python() {
    local candidate
    # A name on PATH may be a stub that starts nothing (pyenv's shims), so each is run.
    for candidate in ${PYTHON:+"$PYTHON"} python3.11 python3.12 python3.13 python3 python \
        "$HOME"/.pyenv/versions/3.1[123].*/bin/python /usr/local/bin/python3.1[123] /opt/python/3.1[123]*/bin/python; do
        if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; then
            "$candidate" -c 'import sys; print(sys.executable)'
            return
        fi
    done
    echo "Python 3.11, 3.12 or 3.13 with the modules venv and ensurepip is needed (Debian: apt-get install python3 python3-venv)." >&2
    echo "Name it with PYTHON=/path/to/python if it is somewhere unusual." >&2
    return 1
}

fingerprint() {
    # The place is part of it: an environment that was moved does not work.
    { cat requirements.txt pyproject.toml penstock_provider/__init__.py; pwd -P; "$venv/bin/python" --version; } | cksum
}

is_current() {
    [ -x "$venv/bin/python" ] && [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$(fingerprint)" ]
}

pip() {
    "$venv/bin/python" -m pip --disable-pip-version-check --quiet "$@"
}

install_everything() {
    local uv_pin
    uv_pin="$(grep -E '^uv==[^ ;]+' requirements.txt | cut -d' ' -f1)"
    if pip install "$uv_pin" &&
        "$venv/bin/python" -m uv pip install --quiet --python "$venv/bin/python" --requirements requirements.txt; then
        return
    fi
    echo "uv is not to be had or failed: pip installs instead, which takes some minutes" >&2
    pip install --requirement requirements.txt
}

if is_current; then
    exit 0
fi

# One installation at a time; whoever waited finds it done.
mkdir -p "$(dirname "$venv")"
if command -v flock >/dev/null; then
    exec 9>"$venv.lock"
    flock 9
    if is_current; then
        exit 0
    fi
fi

began=$SECONDS
if [ -f "$stamp" ]; then
    echo "installing again: requirements.txt, pyproject.toml, penstock_provider/, the Python or the project's place changed"
fi
rm -f "$stamp"
if ! "$venv/bin/python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; then
    python="$(find_python)"
    echo "making the environment $venv with $("$python" --version)"
    rm -rf "$venv"
    "$python" -m venv "$venv"
fi
if ! pip --version >/dev/null 2>&1; then
    "$venv/bin/python" -m ensurepip --upgrade >/dev/null
fi
echo "installing requirements.txt"
install_everything
# Our connection types, found by Airflow through the entry point. No build isolation: that would fetch setuptools again.
pip install --no-deps --no-build-isolation --editable .
fingerprint >"$stamp"
echo "installed in $((SECONDS - began)) s"
