#!/bin/sh
# The environment a study runs on: makes the virtual environment VENV and installs requirements.lock there, hashes checked.
#
#   tools/locked-environment.sh VENV [PYTHON]
#
# uv comes out of the same lock as everything else: its entry there is handed to pip, hashes and all.
set -eu
venv=$1 python=${2:-python3}
"$python" -m venv "$venv" || {
    echo "could not create $venv: on Debian and Ubuntu install the package python3-venv" >&2
    exit 1
}
awk '/^uv==/ {on = 1} on {print} on && !/\\$/ {exit}' requirements.lock > "$venv/uv.lock"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r "$venv/uv.lock"
"$venv/bin/uv" pip sync --python "$venv/bin/python" --require-hashes requirements.lock
