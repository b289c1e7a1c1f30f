"""The files of a project that runs with the installed package, written where there is none.

They are the files of this package's own repository: `template` has links to them, which become
copies when the package is built.
"""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

from prunelab.config.params import PARAMS_FILE
from prunelab.core.errors import InputError, one_line
from prunelab.core.files import write
from prunelab.core.packages import installed_versions
from prunelab.core.project_root import find_project
from prunelab.project.git import git, is_in_repository
from prunelab.project.paths import PIPELINE_FILE

TEMPLATE = Path(__file__).parent / "template"
PREVIOUS = "params.previous{}.yaml"


def template(name: str) -> str:
    """The text of a file of the template.

    Raises:
        InputError: if the package was installed without it.
    """
    try:
        return (TEMPLATE / name).read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(
            f"prunelab was installed without {name} ({error.strerror}); install it again"
        ) from None


def pipeline() -> str:
    """The repository's dvc.yaml, for a project that has no source code of this package.

    There the stage `code` depends on the folders of the source. Here it always runs, which takes a
    second, and looks at the code that is installed. What it writes decides whether other stages
    are stale, as in the repository.
    """
    # Not named dvc.yaml there: DVC would find a second pipeline in the repository.
    text = template("pipeline.yaml")
    without_code = re.sub(
        r"(?m)^    deps:\n(?:    - (?:plugins|src/prunelab/\w+)\n)+",
        "    always_changed: true\n",
        text,
    )
    return without_code.replace("PYTHONPATH=src python", "python")


def installed_lock(name: str) -> str:
    """A lock of the template with the versions that are installed, as far as they are."""
    packages = [line.partition("==")[0] for line in template(name).splitlines()]
    versions = installed_versions(packages)
    return "".join(f"{package}=={version}\n" for package, version in versions.items())


# What the files of a project are, and what makes their texts.
FILES: dict[str, Callable[[], str]] = {
    "dvc.yaml": pipeline,
    "params.yaml": lambda: template("params.yaml"),
    "environment.lock": lambda: installed_lock("environment.lock"),
    "benchmark.lock": lambda: installed_lock("benchmark.lock"),
    "pictures.lock": lambda: installed_lock("pictures.lock"),
    ".gitignore": lambda: template("gitignore"),
    ".gitattributes": lambda: template("gitattributes"),
    ".dvcignore": lambda: template("dvcignore"),
    ".dvc/config": lambda: template("dvc-config"),
    ".dvc/.gitignore": lambda: template("dvc-gitignore"),
    "searches/README.md": lambda: template("searches-README.md"),  # the report depends on it
    ".dvc/plots/counts.json": lambda: template("plots/counts.json"),
    ".dvc/plots/curves.json": lambda: template("plots/curves.json"),
    ".dvc/plots/tradeoff.json": lambda: template("plots/tradeoff.json"),
    ".dvc/plots/training.json": lambda: template("plots/training.json"),
}


def write_project(root: Path) -> list[str]:
    """Make a folder a project: write what is missing, and return a line for each thing done.

    A folder with a dvc.yaml is a project already, and stays as it is. Files that are there stay.

    Raises:
        InputError: if the folder cannot become a project, or if Git cannot make a repository.
    """
    if (root / PIPELINE_FILE).exists():
        return []
    _check_may_become_project(root)

    texts = {name: make() for name, make in FILES.items()}  # all of them, before any is written
    lines = []
    if not is_in_repository(root):
        git(root, "init", "--quiet")
        lines.append("git init: made a Git repository here")
    if not (root / ".dvc").exists():
        lines.append("dvc init: made .dvc, so that DVC knows this folder")

    written = []
    for name, text in texts.items():
        if not (root / name).exists():
            write(root / name, text.encode())
            written.append(name)

    shown = [name for name in written if not name.startswith(".dvc/")]
    lines.append(f"wrote {', '.join(shown)}")
    return lines


def _check_may_become_project(root: Path) -> None:
    """Check what would go wrong after some files have been written.

    Raises:
        InputError: if the folder lies in a project, or if a file is where a folder must be.
    """
    around = find_project(root.parent)
    if around is not None:
        raise InputError(
            f"this folder lies in the project {around}, whose commands would no longer be found "
            "from here. Run this there, or make a folder outside of it"
        )

    for name in FILES:
        for folder in (root / name).relative_to(root).parents:
            if (root / folder).exists() and not (root / folder).is_dir():
                raise InputError(
                    f"{folder} is a file, and a project needs a folder of this name. Rename it, "
                    "or make the project in another folder"
                )


def ignore_in_git(root: Path, path: Path) -> list[str]:
    """Let Git leave data within the project, a file or a folder, alone; return what was done."""
    try:
        relative = path.resolve().relative_to(root.resolve())
    except ValueError:
        return []  # outside
    file = root / ".gitignore"
    entry = f"/{_escaped(relative.as_posix())}{'/' if path.is_dir() else ''}"
    # Git reads bytes, so the file may have any encoding.
    text = file.read_bytes().decode("utf-8", "surrogateescape") if file.exists() else ""
    lines = text.splitlines()
    covered = any(
        f"{entry}/".startswith(f"{line.rstrip('/')}/") for line in lines if line[:1] == "/"
    )
    if relative == Path() or covered:
        return []

    separator = "" if text.endswith("\n") or not text else "\n"
    write(file, f"{text}{separator}{entry}\n".encode("utf-8", "surrogateescape"))
    return [f"added {one_line(entry)} to .gitignore, since data does not belong into Git"]


def _escaped(path: str) -> str:
    """A path as a pattern of .gitignore that means this path alone.

    No pattern can have a line break in it; `?` stands for it.
    """
    escaped = re.sub(r"([\\*?\[\]])", r"\\\1", path)
    escaped = re.sub(r" $", r"\\ ", escaped)
    return re.sub(r"[\r\n]", "?", escaped)


def check_params_may_change(root: Path, *, force: bool) -> None:
    """Refuse to replace parameters that somebody edited.

    Raises:
        InputError: unless `force`, if params.yaml differs from what the package ships.
    """
    if _is_edited(root / PARAMS_FILE) and not force:
        raise InputError(
            f"{PARAMS_FILE} was edited, so it stays as it is. To replace it: prunelab new ... "
            "--force, which keeps a copy"
        )


def replace_params(root: Path, text: str) -> list[str]:
    """Write params.yaml; if the one that is there was edited, keep a copy and say its name."""
    file = root / PARAMS_FILE
    lines = []
    if _is_edited(file):
        number, copy = 1, root / PREVIOUS.format("")
        while copy.exists():
            number += 1
            copy = root / PREVIOUS.format(f".{number}")
        shutil.copyfile(file, copy)
        lines.append(f"kept the parameters that were here as {copy.name}")

    write(file, text.encode())
    return lines


def _is_edited(file: Path) -> bool:
    return file.exists() and file.read_bytes() != template("params.yaml").encode()
