# The environment of requirements.lock. The checkout is mounted at /workspace: its code runs, and its DVC, in here.
#
# No nvidia/cuda base: PyTorch's builds on PyPI bring CUDA's user-space libraries, and the NVIDIA Container Toolkit brings
# the driver of the host. Such a base works too, by this argument: any Debian or Ubuntu whose python3 is 3.11 or newer
# does. Python of this one is 3.11, with which the committed results were made.
ARG BASE_IMAGE=debian:bookworm-20260824-slim
FROM ${BASE_IMAGE}

# g++ and Python's headers are what torch.compile builds its kernels with. Debian keeps no superseded versions, so that
# pins of them would break; its stable release moves only to mend.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates g++ git python3-dev python3-venv tini \
    && rm -rf /var/lib/apt/lists/*

# What changes least comes first, so that a change of code builds nothing but the last layers anew.
WORKDIR /workspace
COPY tools/locked-environment.sh tools/
COPY requirements.lock ./
RUN PIP_NO_CACHE_DIR=1 PIP_CERT=/etc/ssl/certs/ca-certificates.crt UV_NO_CACHE=1 UV_SYSTEM_CERTS=1 UV_COMPILE_BYTECODE=1 \
    tools/locked-environment.sh /opt/venv

# Any user may own the checkout and any may run this, with a passwd entry (as number 1000, which VS Code wants) or
# without. So HOME is a folder that all may write; USER answers those who ask for a name; Git and libgit2 trust the
# checkout whoever owns it, by a file, since libgit2 reads no settings out of the environment.
RUN groupadd --non-unique --gid 1000 prunelab \
    && useradd --non-unique --uid 1000 --gid 1000 --create-home --shell /bin/bash prunelab \
    && git config --system --add safe.directory '*'
ENV PATH=/opt/venv/bin:$PATH \
    VIRTUAL_ENV=/opt/venv \
    HOME=/tmp \
    USER=prunelab \
    LANG=C.UTF-8 \
    PYTHONUNBUFFERED=1 \
    DVC_NO_ANALYTICS=1 \
    DVC_SITE_CACHE_DIR=/tmp/dvc \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility

# The `prunelab` command looks for its code in /workspace/src, where the mounted checkout covers this copy.
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN UV_NO_CACHE=1 uv pip install --quiet --no-deps --no-build-isolation --offline --editable .

# To stop a container is to press Ctrl-C in it: DVC ends its stage and lets go of its locks, which hold nothing but a
# process number, and in the next container another process has that number. tini hands the signal to all of them.
USER 1000:1000
STOPSIGNAL SIGINT
ENTRYPOINT ["tini", "-g", "--"]
CMD ["prunelab", "repro"]

ARG REVISION
LABEL org.opencontainers.image.title="prunelab" \
      org.opencontainers.image.description="Pruning studies that anybody can repeat" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.revision="${REVISION}"
