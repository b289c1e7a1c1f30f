"""Three kinds of DVC remote on this machine, and machines that share nothing but a remote."""

import getpass
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from helpers.repository import Clone

SSHD = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
SSHD_CONFIG = """
ListenAddress 127.0.0.1:{port}
HostKey {folder}/host
AuthorizedKeysFile {folder}/authorized_keys
AuthenticationMethods publickey
AllowUsers {user}
Subsystem sftp internal-sftp
ForceCommand internal-sftp
StrictModes no
UsePAM no
PidFile none
"""


@dataclass(frozen=True)
class Remote:
    """A remote as its users know it.

    `shared` are settings that are committed, `local` those of one machine, and `environment` holds
    secrets.
    """

    kind: str
    url: str
    shared: dict[str, str] = field(default_factory=dict)
    local: dict[str, str] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@contextmanager
def served(command: list[str], port: int, log: Path) -> Iterator[None]:
    """Run a server until the block ends; it has 30 seconds to listen."""
    with (
        log.open("w") as output,
        subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT) as process,
    ):
        try:
            if not listens(port, process):
                pytest.fail(f"{command[0]} does not listen:\n{log.read_text()}")
            yield
        finally:
            process.terminate()


def listens(port: int, process: subprocess.Popen) -> bool:
    """Wait until the process listens; False if it ends or takes longer than 30 seconds."""
    deadline = time.monotonic() + 30
    while process.poll() is None and time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return True
    return False


@contextmanager
def folder_remote(folder: Path) -> Iterator[Remote]:
    yield Remote("folder", str(folder / "store"))


def make_key(file: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", file], check=True)


@contextmanager
def ssh_remote(folder: Path) -> Iterator[Remote]:
    if not SSHD:
        pytest.skip("no sshd on this machine (Debian: apt-get install openssh-server)")
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # sshd needs it only if root starts it
    make_key(folder / "host")
    make_key(folder / "key")
    shutil.copy(folder / "key.pub", folder / "authorized_keys")

    port = free_port()
    config = folder / "sshd_config"
    config.write_text(SSHD_CONFIG.format(port=port, folder=folder, user=getpass.getuser()))
    with served([SSHD, "-D", "-e", "-f", str(config)], port, folder / "sshd.log"):
        yield Remote(
            "ssh",
            f"ssh://127.0.0.1:{port}{folder}/store",
            local={"user": getpass.getuser(), "keyfile": str(folder / "key")},
        )


@contextmanager
def s3_remote(folder: Path) -> Iterator[Remote]:
    port = free_port()
    endpoint = f"http://127.0.0.1:{port}"
    server = str(Path(sys.executable).parent / "moto_server")

    with served([server, "-H", "127.0.0.1", "-p", str(port)], port, folder / "moto.log"):
        request = urllib.request.Request(f"{endpoint}/bucket", method="PUT")
        urllib.request.urlopen(request, timeout=30).close()
        yield Remote(
            "s3",
            "s3://bucket/store",
            shared={"endpointurl": endpoint, "region": "us-east-1"},
            environment={"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"},
        )


REMOTES = {"folder": folder_remote, "ssh": ssh_remote, "s3": s3_remote}


FOLDERS_OF_A_USER = {
    "HOME": "home",
    "DVC_GLOBAL_CONFIG_DIR": "global",
    "DVC_SYSTEM_CONFIG_DIR": "system",
    "DVC_SITE_CACHE_DIR": "site",
    "XDG_CONFIG_HOME": "home/.config",
    "XDG_CACHE_HOME": "home/.cache",
}


def isolated_environment(folder: Path) -> dict[str, str]:
    """An environment without the home, the settings and the secrets of whoever runs the tests."""
    environment = {}
    for name, value in os.environ.items():
        if not name.startswith(("AWS_", "DVC_", "SSH_")) and name != "PYTHONPATH":
            environment[name] = value

    for name, place in FOLDERS_OF_A_USER.items():
        (folder / place).mkdir(parents=True, exist_ok=True)
        environment[name] = str(folder / place)
    for who in ("AUTHOR", "COMMITTER"):
        environment[f"GIT_{who}_NAME"] = environment[f"GIT_{who}_EMAIL"] = "test"

    return environment | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "DVC_NO_ANALYTICS": "1",
        "AWS_EC2_METADATA_DISABLED": "true",  # otherwise credentials are looked for in the cloud
    }


def give_access(clone: Clone, remote: Remote) -> None:
    """Give a clone what is never committed: settings of one machine, and secrets."""
    for key, value in remote.local.items():
        clone.run("dvc", "remote", "modify", "--local", remote.kind, key, value)
    clone.environment |= remote.environment


def add_remote(clone: Clone, remote: Remote) -> None:
    """Make a remote the default of a clone, and commit that."""
    clone.run("dvc", "remote", "add", "--default", remote.kind, remote.url)
    for key, value in remote.shared.items():
        clone.run("dvc", "remote", "modify", remote.kind, key, value)
    clone.commit(f"Remote {remote.kind}")
    give_access(clone, remote)


class Machine(Clone):
    """A Git clone with its own home and its own DVC cache, with access to one remote."""

    def __init__(self, folder: Path, origin: Path, remote: Remote):
        self.folder = folder / "checkout"
        self.environment = isolated_environment(folder)
        subprocess.run(
            ["git", "clone", "-q", origin, self.folder], env=self.environment, check=True
        )
        assert Path(self.run("dvc", "cache", "dir").stdout.strip()) == self.folder / ".dvc/cache"
        give_access(self, remote)
