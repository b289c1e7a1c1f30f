#!/usr/bin/env bash
# An engine and a base image, for Debian machines without Docker or without a way to an image hub: Podman, with all it
# stores in the folder DIR, and a base made by debootstrap of the packages that Debian's own slim images are made of.
#
#   tools/engine.sh up DIR      as root; prints what to export; what is there already is kept
#   tools/engine.sh down DIR    removes DIR and all that ran or was stored in it
#
#   eval "$(tools/engine.sh up /var/tmp/engine)"
#   make docker-repro DOCKER=podman BUILD_ARGS="--build-arg BASE_IMAGE=$BASE_IMAGE"
#
# A site's own certificate authorities in /usr/local/share/ca-certificates go into the base.
set -euo pipefail
usage="usage: engine.sh up|down DIR"
action=${1:?$usage} folder=$(realpath -m "${2:?$usage}")
suite=bookworm base=localhost/debian:$suite authorities=usr/local/share/ca-certificates
export CONTAINERS_STORAGE_CONF=$folder/storage.conf CONTAINERS_CONF=$folder/containers.conf

down() {
    [ -f "$CONTAINERS_STORAGE_CONF" ] || return 0 # without it, these commands would reach the machine's own store
    podman rm --all --force > /dev/null
    podman rmi --all --force > /dev/null
    umount "$folder/storage/overlay" 2> /dev/null || true
    rm -rf "$folder"
}

up() {
    if [ -f "$CONTAINERS_STORAGE_CONF" ] && podman image exists "$base"; then
        return
    fi
    if ! command -v buildah > /dev/null || ! command -v podman > /dev/null || ! command -v runc > /dev/null ||
        ! command -v catatonit > /dev/null || ! command -v debootstrap > /dev/null; then
        apt-get update -qq
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
            buildah catatonit debootstrap podman runc > /dev/null
    fi
    mkdir -p "$folder/root/$authorities"
    cat > "$CONTAINERS_STORAGE_CONF" << END
[storage]
driver = "overlay"
graphroot = "$folder/storage"
runroot = "$folder/run"
END
    cat > "$CONTAINERS_CONF" << END
[containers]
default_ulimits = ["nofile=4096:4096", "nproc=4096:4096"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
END
    debootstrap --variant=minbase "$suite" "$folder/root" > "$folder/debootstrap.log" ||
        { tail "$folder/debootstrap.log"; exit 1; }
    rm -rf "$folder"/root/var/cache/apt/archives/*.deb "$folder"/root/var/lib/apt/lists/*
    mkdir -p "$folder/root/$authorities"
    find "/$authorities" -name '*.crt' -exec cp {} "$folder/root/$authorities/" \; 2> /dev/null || true
    container=$(buildah from scratch)
    buildah add --quiet "$container" "$folder/root" / > /dev/null
    buildah config --cmd bash "$container"
    buildah commit --quiet --rm "$container" "$base" > /dev/null
    rm -rf "$folder/root"
}

case $action in
down) down ;;
up)
    up >&2
    # chroot: a build asks for no privileges of its own; docker: other formats know no SHELL and no HEALTHCHECK
    printf 'export %s\n' "CONTAINERS_STORAGE_CONF=$CONTAINERS_STORAGE_CONF" "CONTAINERS_CONF=$CONTAINERS_CONF" \
        BUILDAH_ISOLATION=chroot BUILDAH_FORMAT=docker "BASE_IMAGE=$base"
    ;;
*) echo "$usage" >&2; exit 2 ;;
esac
