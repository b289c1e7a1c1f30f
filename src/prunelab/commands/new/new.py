"""`prunelab new`: a project where there is none, and parameters that fit one's own data."""

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from prunelab.commands.check import verdicts
from prunelab.commands.check.check import find_problems
from prunelab.commands.new.project import (
    check_params_may_change,
    ignore_in_git,
    replace_params,
    template,
    write_project,
)
from prunelab.commands.new.recipe import Recipe, image_recipe, text_recipe
from prunelab.commands.new.survey import describe, survey_images, survey_texts
from prunelab.config.edit_params import with_values
from prunelab.config.params import PARAMS_FILE, parse_params
from prunelab.config.safe_yaml import parse_yaml
from prunelab.core.errors import InputError
from prunelab.core.files import user_path
from prunelab.core.text import name_list
from prunelab.project.paths import PIPELINE_FILE, TABLE

NEXT = f"next: prunelab repro, which trains, prunes and measures; then see {TABLE}"


@dataclass(frozen=True)
class Request:
    """What somebody asked for. `images` and `texts` are paths; at most one of them is given."""

    images: str | None = None
    table: str | None = None
    texts: str | None = None
    model: str | None = None
    weights: str | None = None
    force: bool = False


def new(root: Path, request: Request) -> list[str]:
    """Write what is missing of a project, and parameters that fit; return what to print.

    All input is looked at before anything is written.

    Raises:
        InputError: if the data cannot be used, if params.yaml was edited, or if the parameters
            have problems, as `prunelab check` finds them.
    """
    _check_request(root, request)
    lines = []
    recipe = None
    if request.images or request.texts:
        check_params_may_change(root, force=request.force)
        found, recipe = _recipe(request)
        lines += found
    elif (root / PIPELINE_FILE).exists():
        raise InputError("this is a project already; say what it is for: --images FOLDER")

    text = None
    with verdicts.remembering_later():  # in a folder that becomes no project, nothing is left
        if recipe:
            text = with_values(template("params.yaml"), recipe.values())
            parse_params(parse_yaml(text))  # raises
            _check_params(text)
        lines += write_project(root)

    source = request.images or request.texts
    if source:
        lines += ignore_in_git(root, user_path(source))
    if text is None or recipe is None:
        lines.append("next: prunelab repro, which runs the study of handwritten digits")
        return lines

    lines += replace_params(root, text)
    lines.append(f"wrote {PARAMS_FILE}; chosen, and why:")
    lines += [f"  {line}" for line in recipe.lines()]
    return lines


def _check_request(root: Path, request: Request) -> None:
    """Check what can be seen without a look at the data.

    Raises:
        InputError: if options contradict each other or are empty, or if the project lies in the
            folder of images.
    """
    for name in ("images", "table", "texts", "model", "weights"):
        if getattr(request, name) == "":
            raise InputError(f"--{name} is empty; name something, or leave it out")
    if request.images and request.texts:
        raise InputError("--images and --texts are two data sets; give one of them")
    if request.table and not request.images:
        raise InputError("--table needs the folder of its images: --images FOLDER")
    if request.texts and (request.model or request.weights):
        raise InputError("--texts chooses the network itself; leave --model and --weights out")

    if request.images and not request.table and _would_be_class(root, user_path(request.images)):
        raise InputError(
            f"--images: {request.images} holds this folder, so that the project's own folders "
            "would be classes. Make the project in a folder beside the images"
        )


def _would_be_class(root: Path, images: Path) -> bool:
    """Whether the folders that stages write would be among the class folders."""
    split = images / "train"
    classes = split if split.is_dir() else images
    return root.resolve().is_relative_to(classes.resolve())


def _check_params(text: str) -> None:
    """Check parameters that are not written yet.

    Raises:
        InputError: with every problem that `prunelab check` would find.
    """
    with TemporaryDirectory() as folder:
        path = Path(folder, PARAMS_FILE.name)
        path.write_text(text, encoding="utf-8")
        problems = find_problems(path)
    if problems:
        raise InputError([line.replace(str(path), str(PARAMS_FILE)) for line in problems])


def _recipe(request: Request) -> tuple[list[str], Recipe]:
    """What was found, in lines, and the parameters for it."""
    if request.images:
        survey = survey_images(request.images, request.table)
        lines = [f"found {describe(survey, 'images')}"]
        if survey.unreadable:
            lines.append(
                f"cannot be read: {name_list(survey.unreadable)}; remove them, or set "
                "data.unreadable to the share of images that may be left out"
            )
        return lines, image_recipe(survey, request.model, request.weights)

    assert request.texts is not None
    survey = survey_texts(request.texts)
    return [f"found {describe(survey, 'texts')}"], text_recipe(survey)
