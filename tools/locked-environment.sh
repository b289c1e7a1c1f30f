#!/bin/sh
# The environment a study runs on: makes the virtual environment VENV and installs requirements.lock there, hashes checked.
#
#   tools/locked-environment.sh VENV [PYTHON]
#
# With TORCH=cpu, torch and torchvision come in the same versions without CUDA's libraries. uv knows where from. The lock has no
# hashes of these two.
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
lock=requirements.lock
if [ "${TORCH:-}" = cpu ]; then
    lock=$venv/cpu.lock
    # An entry is a line with a version, and lines of hashes.
    awk '/^[a-z]/ {left_out = /^(torch|torchvision|triton|cuda-[a-z]+|nvidia-[a-z0-9-]+)==/} !left_out' \
        requirements.lock > "$lock"
fi
"$venv/bin/uv" pip sync --python "$venv/bin/python" --require-hashes "$lock"

if [ "${TORCH:-}" = cpu ]; then
    wanted=$(sed -nE 's/^(torch|torchvision)==([^ ]+).*/\1==\2/p' requirements.lock)
    # shellcheck disable=SC2086  # these are two words
    "$venv/bin/uv" pip install --python "$venv/bin/python" --no-deps --torch-backend cpu $wanted
fi
