"""What tools/gpu-bundle.sh puts into a bundle: files, and packages that an image with torch lacks.

    python tools/bundle_files.py packages 3.12
    python tools/bundle_files.py files FOLDER STUDY...

The first prints what to download for a version of Python. The second copies what a study needs.
"""

import re
import shutil
import sys
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PROJECT = Path(__file__).parent.parent
# What `prunelab study run --here` imports. DVC, pictures and searches stay behind.
NEEDED = (
    "psutil",
    "pydantic",
    "ruamel.yaml",
    "ruamel.yaml.clib",
    "safetensors",
    "scikit-learn",
    "scipy",
    "torch-pruning",
    "torchprofile",
    "tqdm",
    "typer",
)
THERE = ("torch", "torchvision")  # in the image, with all that they need
FILES = ("params.yaml", "dvc.yaml", "plugins")
DATA_FOLDERS = {"cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python", "digits": None}


def closure(names: tuple[str, ...], without: frozenset[str] = frozenset()) -> set[str]:
    """Return packages with all that they require, as far as it is installed here."""
    found: set[str] = set()
    queue = [canonicalize_name(name) for name in names]
    while queue:
        name = queue.pop()
        if name in found or name in without:
            continue
        try:
            lines = requires(name) or []
        except PackageNotFoundError:
            continue
        found.add(name)
        for line in lines:
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                queue.append(canonicalize_name(requirement.name))
    return found


def packages(version: str, lock: str) -> list[str]:
    """Return `name==version` of everything to bring, for a version of Python, as the lock has it.

    Raises:
        SystemExit: if the lock lacks one of them.
    """
    environment = {
        "python_version": version,
        "python_full_version": f"{version}.0",
        "platform_python_implementation": "CPython",
        "sys_platform": "linux",
    }
    lines = []
    for name in sorted(closure(NEEDED, frozenset(closure(THERE)))):
        matching = []
        for entry, found, marker in re.findall(
            r"(?m)^(([A-Za-z0-9._-]+)==[^\s;]+)(?: ; ([^\\\n]+?))?\s*\\?$", lock
        ):
            applies = not marker or Marker(marker).evaluate(environment)
            if canonicalize_name(found) == name and applies:
                matching.append(entry)
        if len(matching) != 1:
            raise SystemExit(f"requirements.lock has no version of {name} for Python {version}")
        lines.append(matching[0])
    return lines


def copy_files(folder: Path, names: list[str]) -> None:
    """Copy studies, results, parameters and data, and note which code this is.

    Raises:
        InputError: if there is no such study, if its data cannot be had, or if the code is not
            that of a commit.
    """
    from prunelab.commands.studies.origin import ORIGIN_FILE, origin_of
    from prunelab.commands.studies.results import FOLDER as RESULTS
    from prunelab.commands.studies.study_file import load_study, resolve
    from prunelab.core.errors import InputError
    from prunelab.core.files import write_json
    from prunelab.project.paths import RAW

    origin = origin_of(PROJECT)
    if not origin.commit:
        raise InputError("this is no Git repository, so results could not name a commit")
    (folder / RESULTS).mkdir(parents=True)

    problems = []
    for name in names:
        study = load_study(name, PROJECT / "studies")
        shutil.copy(PROJECT / f"studies/{name}.yaml", folder / "studies")
        for result in (PROJECT / RESULTS).glob(f"{name}*.json"):
            if result.stem in (name, f"{name}-nearest"):
                shutil.copy(result, folder / RESULTS)

        settings = resolve(study, PROJECT / "params.yaml", quick=False, overrides={})
        for params in settings.values():
            problems += _copy_data(folder, name, params["dataset"], params["weights"], RAW)
    if problems:
        raise InputError(dict.fromkeys(problems))

    for name in FILES:
        source = PROJECT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder / name)
    write_json(folder / ORIGIN_FILE, {"commit": origin.commit, "code": origin.code})


def _copy_data(folder: Path, study: str, name: str, weights: str, raw: Path) -> list[str]:
    """Copy the data set and the weights of a setting, and return what is wrong with them."""
    from prunelab.data.dataset import DataConfig
    from prunelab.datasets.datasets import DATASETS

    problems = []
    if name not in DATA_FOLDERS:
        problems.append(f"{study}: {name} is data of your own. Carry it over yourself.")
    elif DATA_FOLDERS[name] and not (folder / raw / DATA_FOLDERS[name]).exists():
        dataset = DATASETS[name](DataConfig(PROJECT / raw))
        if dataset.missing():
            dataset.download()
        problems += dataset.damaged()
        shutil.copytree(PROJECT / raw / DATA_FOLDERS[name], folder / raw / DATA_FOLDERS[name])

    if Path(weights).is_relative_to(raw):
        if (PROJECT / weights).is_file():
            shutil.copy(PROJECT / weights, folder / weights)
        else:
            problems.append(
                f"{study}: {weights} is missing. docs/studies.md says where it is from."
            )
    return problems


def main() -> None:
    """Print packages, or copy files; see the top of this file."""
    from prunelab.core.errors import InputError

    command, *arguments = sys.argv[1:]
    if command == "packages":
        lock = (PROJECT / "requirements.lock").read_text()
        print("\n".join(packages(arguments[0], lock)))
        return
    try:
        copy_files(Path(arguments[0]), arguments[1:])
    except InputError as error:
        sys.exit("\n".join(error.problems))


if __name__ == "__main__":
    main()
