#!/bin/sh
# One folder to carry to a machine with a GPU whose image has torch and torchvision, and no network connection.
#
#   tools/gpu-bundle.sh [--out FOLDER] [--python VERSION] STUDY...
#
# It holds a wheel of this project, the wheels that such an image lacks, the studies with their results, and their data with
# checked hashes. There, `./run.sh MINUTES [options of study run]` measures, and `./collect` packs results without networks.
# VERSION is the Python of the image (3.12). Data comes from data/raw, or is downloaded there.
set -eu
out=.prunelab/gpu-bundle version=3.12
while [ $# -gt 0 ]; do
    case $1 in
        --out) out=$2; shift 2 ;;
        --python) version=$2; shift 2 ;;
        -*) echo "unknown option $1; valid: --out, --python" >&2; exit 1 ;;
        *) break ;;
    esac
done
if [ $# -eq 0 ]; then
    echo "usage: tools/gpu-bundle.sh [--out FOLDER] [--python VERSION] STUDY..." >&2
    exit 1
fi
if [ -e "$out" ] && [ ! -e "$out/origin.json" ] && [ -n "$(ls -A "$out")" ]; then
    echo "--out $out: the folder holds something else. Give an empty or a new folder." >&2
    exit 1
fi

here=$(dirname "$0")
part=$out.partial
rm -rf "$part"
mkdir -p "$part/wheels"
python "$here/bundle_files.py" files "$part" "$@"

python "$here/bundle_files.py" packages "$version" > "$part/packages.txt"
python -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --python-version "$version" \
    --platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 \
    --dest "$part/wheels" --requirement "$part/packages.txt"

# From a copy of the commit: building leaves files behind, and takes in those of earlier builds.
mkdir "$part/source"
git archive HEAD | tar --extract --directory "$part/source"
python -m pip wheel --quiet --disable-pip-version-check --no-deps --no-build-isolation --wheel-dir "$part/wheels" \
    "$part/source"
rm -rf "$part/source"

cp "$here/bundle/run.sh" "$here/bundle/collect" "$part/"
(cd "$part" && find . -type f ! -name SHA256SUMS -print0 | sort -z | xargs -0 sha256sum > SHA256SUMS)
rm -rf "$out"
mv "$part" "$out"
du -sh "$out"
