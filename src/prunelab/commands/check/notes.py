"""What is worth knowing of a study's own data that stops nothing: what was skipped or turned."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prunelab.commands.check.inputs import dataset_of, prepared_info
from prunelab.config.params import PARAMS_FILE, Params, load_params
from prunelab.core.text import name_list
from prunelab.datasets.conflicts import conflicting_files
from prunelab.datasets.image_files import turned_line
from prunelab.datasets.own_images import OwnImages
from prunelab.project.paths import RAW


def find_notes(path: Path = PARAMS_FILE, raw: Path = RAW) -> list[str]:
    """A line for each thing to know about the data of a study without problems."""
    params = load_params(path)
    prepared = prepared_info(params, raw)
    if prepared:
        return _prepared_notes(prepared)

    dataset = dataset_of(params, raw)
    if not isinstance(dataset, OwnImages):
        return []
    lines = dataset.notes()
    conflicts = conflicting_files(dataset.labelled_files())
    if conflicts:
        lines += conflicts.report()
    return lines


def check_contradictions(params: Params, dataset: object) -> None:
    """Refuse a folder of images in which too many equal files have different labels.

    Raises:
        InputError: with the files.
    """
    if params.data.conflicts != "refuse" or not isinstance(dataset, OwnImages):
        return
    conflicts = conflicting_files(dataset.labelled_files())
    if conflicts:
        conflicts.require_few()


def _prepared_notes(prepared: Mapping[str, Any]) -> list[str]:
    """What dataset.json says about the images, in words."""
    lines = []
    if prepared.get("leftovers"):
        lines.append(f"skipped {prepared['leftovers']} files that macOS or Windows left there")
    if prepared.get("not_in_table"):
        lines.append(f"{prepared['not_in_table']} images are not in the table")
    if prepared.get("repeated_rows"):
        lines.append(f"{prepared['repeated_rows']} rows of the table repeat another row")
    if prepared.get("dropped_files"):
        lines.append(f"left out {prepared['dropped_files']} files with several labels")
    if prepared.get("turned"):
        lines.append(turned_line(prepared["turned"]))
    if prepared.get("unreadable"):
        lines.append(f"left out {prepared['unreadable']} images that cannot be decoded")

    conflicts = prepared.get("conflicts", {})
    if conflicts.get("dropped"):
        lines.append(f"left out {conflicts['dropped']} images with contradicting labels")
    for pair, count in conflicts.get("pairs", {}).items():
        names = name_list(conflicts["names"].get(pair, []))
        lines.append(f"{count} equal inputs have both labels of {pair}: {names}")
    return lines
