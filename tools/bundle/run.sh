#!/bin/sh
# Measure the studies of this folder for so many minutes; the same command goes on.
#
#   ./run.sh MINUTES [options of prunelab study run, such as --nearest, --scale 0.25, --only SETTING]
#
# PYTHON is the interpreter that has torch and torchvision (python3). Nothing is installed outside this folder.
set -eu
cd "$(dirname "$0")"
minutes=${1:?"usage: ./run.sh MINUTES [options of prunelab study run]"}
shift
python=${PYTHON:-python3}
started=$(date +%s)

if [ ! -e packages/installed ]; then
    sha256sum --check --quiet SHA256SUMS || {
        echo "the bundle is damaged: carry it over again" >&2
        exit 1
    }
    rm -rf packages
    "$python" -m pip install --quiet --disable-pip-version-check --no-index --no-deps --target packages wheels/*.whl
    touch packages/installed
fi
PYTHONPATH=$PWD/packages
export PYTHONPATH

status=0
for file in studies/*.yaml; do
    study=$(basename "$file" .yaml)
    left=$(awk "BEGIN {print $minutes - ($(date +%s) - $started) / 60}")
    if awk "BEGIN {exit !($left < 0.2)}"; then
        echo "$study: no time is left; the same command goes on"
        continue
    fi
    # The program ends by itself in time. This is for one that hangs, as a lost GPU may make it.
    timeout --kill-after=20 "$(awk "BEGIN {print int(60 * $left) + 60}")" \
        "$python" -m prunelab study run "$study" --here --minutes "$left" --work "work/$study" "$@" || status=$?
done
exit $status
