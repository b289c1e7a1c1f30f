"""Result files that add up, the marks of other hardware and scales, and verdicts on claims."""

import json
from copy import deepcopy
from pathlib import Path

import pytest
from helpers.params import PROJECT
from helpers.studies import SHIPPED, TINY, record, tiny_study, write_study
from typer.testing import CliRunner

from prunelab.cli import app
from prunelab.commands.studies.claims import CONFIRMED, NOT_SHOWN, REFUTED, claims_table, judge
from prunelab.commands.studies.merge import merge_files
from prunelab.commands.studies.results import (
    digest_of,
    read_stored,
    results_file,
    shown_scale,
    write_results,
)
from prunelab.commands.studies.study_file import Claim, load_study, resolve, study_files
from prunelab.commands.studies.study_tables import Shown, measured_table, notes, study_document
from prunelab.core.errors import InputError
from prunelab.core.files import write_json

LABEL = "l1_channel-0.5"
OTHER = "random_unstructured-0.5"
STUDIES = PROJECT / "studies"


def stored(label: str, scale: float = 1.0, device: str = "a card", **changes: object) -> dict:
    """The record of a setting of the tiny study, as a run makes it."""
    settings = resolve(tiny_study(), SHIPPED, quick=False, overrides={}, scale=scale)
    parameters = deepcopy(settings[label])
    for key, value in changes.pop("params", {}).items():
        section, _, inner = key.partition(".")
        if inner:
            parameters[section][inner] = value
        else:
            parameters[section] = value

    return {
        **record(),
        "experiment": f"tiny-{label}-01234567",
        "baseline": "1" * 40,
        "code": "2" * 12,
        "parameters": parameters,
        "environment": {"device": device},
        "scale": scale,
        "images": None,
    } | changes


def written(folder: Path, *records: dict, name: str = "tiny") -> Path:
    """A result file in a folder of its own."""
    for each in records:
        label = each["experiment"].removeprefix("tiny-").removesuffix("-01234567")
        every = dict.fromkeys([LABEL, OTHER]) | {label: each}
        write_results(folder, tiny_study(), name, every)
    return results_file(folder, name)


def test_results_that_were_read_from_a_file_are_not_written_again(tmp_path):
    file = written(tmp_path, stored(LABEL))
    older = json.loads(file.read_text())
    del older["settings"][LABEL]["digest"]  # as earlier versions wrote it
    write_json(file, older)
    before = file.read_bytes()
    read = {**read_stored(file)[LABEL], "current": False}

    assert not write_results(tmp_path, tiny_study(), "tiny", {LABEL: read})
    assert file.read_bytes() == before

    assert write_results(tmp_path, tiny_study(), "tiny", {LABEL: read, OTHER: stored(OTHER)})
    assert read_stored(file)[LABEL] == older["settings"][LABEL]


# --- one file, several runs ---


def test_results_of_two_scales_stand_side_by_side(tmp_path):
    file = written(tmp_path, stored(LABEL), stored(LABEL, scale=0.5))

    assert set(read_stored(file)) == {LABEL, f"{LABEL}@0.5"}
    assert shown_scale(tmp_path, "tiny", [LABEL], None) == (1.0, {0.5: [LABEL]})
    assert shown_scale(tmp_path, "tiny", [LABEL], 0.5) == (0.5, {1.0: [LABEL]})
    assert shown_scale(tmp_path, "other", [LABEL], None) == (1.0, {})


def test_the_largest_scale_is_shown_where_nothing_is_whole(tmp_path):
    written(tmp_path, stored(LABEL, scale=0.1), stored(OTHER, scale=0.5))

    assert shown_scale(tmp_path, "tiny", [LABEL, OTHER], None) == (0.5, {0.1: [LABEL]})


def test_a_result_that_was_edited_is_refused(tmp_path):
    file = written(tmp_path, stored(LABEL), stored(OTHER))
    content = json.loads(file.read_text())
    content["settings"][OTHER]["metrics"]["accuracy"] += 0.01
    file.write_text(json.dumps(content))

    with pytest.raises(InputError) as caught:
        read_stored(file)
    (line,) = caught.value.problems
    assert f"{OTHER} was edited after it was measured" in line


def test_a_result_file_that_was_cut_is_refused(tmp_path):
    file = written(tmp_path, stored(LABEL))
    file.write_bytes(file.read_bytes()[:-20])

    with pytest.raises(InputError, match=r"tiny\.json is damaged") as caught:
        read_stored(file)
    assert len(caught.value.problems) == 1


def test_the_digest_covers_all_but_itself(tmp_path):
    (result,) = read_stored(written(tmp_path, stored(LABEL))).values()

    assert result["digest"] == digest_of(result)
    for key in ("metrics", "dense", "parameters", "environment", "code", "scale"):
        assert digest_of(result | {key: "other"}) != result["digest"]


# --- merging ---


def test_merging_adds_the_settings_that_are_missing(tmp_path):
    one = written(tmp_path / "one", stored(LABEL))
    other = written(tmp_path / "other", stored(LABEL, device="b"), stored(OTHER, device="b"))

    assert merge_files(one, other) == ([OTHER], [LABEL])

    merged = read_stored(one)
    assert merged[LABEL]["environment"] == {"device": "a card"}
    assert merged[OTHER] == read_stored(other)[OTHER]


def test_merging_twice_changes_nothing(tmp_path):
    one, other = written(tmp_path / "one", stored(LABEL)), written(tmp_path / "two", stored(OTHER))
    merge_files(one, other)
    content = one.read_bytes()

    assert merge_files(one, other) == ([], [OTHER])
    assert one.read_bytes() == content


def test_results_of_another_scale_are_added_beside(tmp_path):
    one = written(tmp_path / "one", stored(LABEL))
    other = written(tmp_path / "other", stored(LABEL, scale=0.5))

    merge_files(one, other)

    assert set(read_stored(one)) == {LABEL, f"{LABEL}@0.5"}


@pytest.mark.parametrize(
    ("label", "changes", "problem"),
    [
        (LABEL, {"params": {"finetune.epochs": 9}}, f"{LABEL}: finetune.epochs is 9 instead of 1"),
        (OTHER, {"params": {"train.epochs": 9}}, "train.epochs is 9 instead of 1"),
        (OTHER, {"params": {"seeds": [0, 1]}}, "seeds is [0, 1] instead of [0]"),
        (OTHER, {"params": {"dataset": "cifar10"}}, "dataset is 'cifar10' instead of 'digits'"),
        (OTHER, {"images": 100}, "images is 100 instead of None"),
    ],
)
def test_different_parameters_are_not_merged(tmp_path, label, changes, problem):
    one = written(tmp_path / "one", stored(LABEL))
    other = written(tmp_path / "other", stored(label, **changes))
    before = one.read_bytes()

    with pytest.raises(InputError) as caught:
        merge_files(one, other)

    assert caught.value.problems == [f"{other}: {problem}"]
    assert one.read_bytes() == before


def as_older_version_wrote(file: Path) -> None:
    """Take keys out of a result file that are younger than others."""
    content = json.loads(file.read_text())
    for each in content["settings"].values():
        del each["digest"], each["parameters"]["search"]
        del each["parameters"]["data"]["exif"], each["parameters"]["finetune"]["norm"]
    file.write_text(json.dumps(content))


@pytest.mark.parametrize("is_first_older", [False, True])
@pytest.mark.parametrize("norm", ["train", "eval"])
def test_keys_that_an_older_file_lacks_stand_at_their_defaults(tmp_path, is_first_older, norm):
    older = written(tmp_path / "older", stored(LABEL))
    as_older_version_wrote(older)
    newer = written(tmp_path / "newer", stored(LABEL, params={"finetune.norm": norm}))
    one, other = (older, newer) if is_first_older else (newer, older)

    if norm == "train":
        assert merge_files(one, other) == ([], [LABEL])
    else:
        with pytest.raises(InputError, match="finetune.norm is"):
            merge_files(one, other)


def test_files_of_two_studies_are_not_merged(tmp_path):
    one, other = written(tmp_path, stored(LABEL)), written(tmp_path, stored(LABEL), name="another")

    with pytest.raises(InputError, match="holds results of tiny, .* those of another"):
        merge_files(one, other)


def test_merging_reports_bad_files_in_one_line(tmp_path):
    one = written(tmp_path, stored(LABEL))
    cut = tmp_path / "cut.json"
    cut.write_text(one.read_text()[:100])

    for other, problem in ((tmp_path / "none.json", "no such file"), (cut, "is damaged")):
        result = CliRunner().invoke(app, ["study", "merge", str(one), str(other)])
        assert result.exit_code == 1
        (line,) = result.stderr.splitlines()
        assert problem in line


# --- marks ---


def test_settings_of_other_hardware_are_marked():
    records = {
        "a": record(environment={"device": "H100"}),
        "b": record(environment={"device": "H100"}),
        "c": record(environment={"device": "a laptop"}),
        "d": record(environment=None),
        "e": None,
    }

    _, lines = measured_table(records)
    assert [line[0] for line in lines] == ["a", "b", "c ‡", "d", "e"]
    (note,) = [line for line in notes(tiny_study(), records, Shown()) if line.startswith("‡")]
    assert note == "‡ Measured on a laptop (c); the others on H100."


def test_equal_hardware_has_no_marks():
    records = {"a": record(environment={"device": "H100"})}

    assert not any("‡" in line for line in notes(tiny_study(), records, Shown()))


@pytest.mark.parametrize("split", ["test", "validation"])
def test_the_notes_say_which_split_was_measured(split):
    records = {"a": record(parameters={"evaluate": {"split": split}})}

    text = " ".join(notes(tiny_study(), records, Shown()))

    assert f"on the whole {split} split" in text


def test_the_title_says_scale_images_and_what_is_not_as_published():
    nearest = {"as_published": "a", "missing": "No weights.", "note": "Others."}
    study = tiny_study(nearest=nearest)
    shown = Shown(nearest=True, scale=0.25, images=5000)

    text = study_document(study, {LABEL: record()}, shown, markdown=False)

    title = "A tiny study (the nearest that can be run, 5,000 training images, epochs x 0.25)"
    assert text.splitlines()[0] == title
    assert "- Not the study as published. No weights." in text
    assert "- In its place: Others." in text
    assert "- All epochs are multiplied by 0.25" in text
    plain = study_document(study, {LABEL: record()}, Shown(), markdown=False)
    assert plain.splitlines()[0] == "A tiny study"


# --- claims ---


def claim(**changes: object) -> Claim:
    return Claim.model_validate({"text": "a claim", "setting": LABEL} | changes)


# The record's accuracy is 10 points below the dense network's, give or take 1.2.
@pytest.mark.parametrize(
    ("bounds", "verdict"),
    [
        ({"at_least": -12}, CONFIRMED),
        ({"at_least": -11}, NOT_SHOWN),
        ({"at_least": -8}, REFUTED),
        ({"at_most": -8}, CONFIRMED),
        ({"at_most": -10}, NOT_SHOWN),
        ({"at_most": -12}, REFUTED),
        ({"at_least": -12, "at_most": -8}, CONFIRMED),
        ({"at_least": -10.5, "at_most": -9.5}, NOT_SHOWN),
        ({"at_least": -5, "at_most": 5}, REFUTED),
    ],
)
def test_the_whole_interval_must_lie_on_one_side(bounds, verdict):
    found = judge(claim(**bounds), {LABEL: record()})

    assert found.word == verdict
    assert found.sentence.startswith(f"{LABEL} less the dense network: -10.00 ± 1.20, claimed ")


@pytest.mark.parametrize(
    ("bounds", "words"),
    [
        ({"at_least": 0}, "claimed +0 or more"),
        ({"at_most": -4.5}, "claimed -4.5 or less"),
        ({"at_least": -3, "at_most": -1}, "claimed -3 to -1"),
    ],
)
def test_a_verdict_names_what_was_claimed(bounds, words):
    sentence = judge(claim(**bounds), {LABEL: record()}).sentence

    assert sentence.endswith(f", {words} (accuracy, %).")


def test_two_settings_are_compared_as_if_they_were_independent():
    records = {LABEL: record(accuracy=0.9), OTHER: record(accuracy=0.85)}

    found = judge(claim(against=OTHER, at_least=0), records)

    # Each accuracy has an interval of 1 point: together the square root of 2.
    assert found.word == CONFIRMED
    assert (
        found.sentence == f"{LABEL} less {OTHER}: +5.00 ± 1.41, claimed +0 or more (accuracy, %)."
    )
    assert judge(claim(against=OTHER, at_least=4), records).word == NOT_SHOWN
    assert judge(claim(against=OTHER, at_most=0), records).word == REFUTED


def test_exact_numbers_have_no_interval():
    measured = record()
    fewer = measured["metrics"]["macs_ratio"] - measured["dense"]["macs_ratio"]

    found = judge(
        claim(measure="macs_fewer_times", at_least=fewer, at_most=fewer), {LABEL: measured}
    )
    assert found.word == CONFIRMED
    assert "±" not in found.sentence


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"setting": None}, "This project has no such method."),
        ({"measure": "latency_s_per_image"}, "It rests on a clock of another machine."),
        ({"against": OTHER}, f"Not run: {OTHER}."),
        ({"setting": OTHER}, f"Not run: {OTHER}."),
    ],
)
def test_what_nobody_measured_is_not_shown(changes, sentence):
    found = judge(claim(at_least=0, **changes), {LABEL: record()})

    assert (found.word, found.sentence) == (NOT_SHOWN, sentence)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({}, "give at_least, at_most or both"),
        ({"at_least": 2, "at_most": 1}, "at_least is above at_most"),
        ({"at_least": 0, "setting": "other"}, "claims.0: there is no setting 'other'"),
        ({"at_least": 0, "against": "other"}, "claims.0: there is no setting 'other'"),
        ({"at_least": 0, "measure": "beauty"}, "claims.0: unknown measure 'beauty'"),
    ],
)
def test_claims_that_cannot_be_judged_are_refused(tmp_path, changes, problem):
    content = {"text": "x", "setting": LABEL} | changes
    folder = write_study(tmp_path, TINY | {"claims": [content]})

    with pytest.raises(InputError, match=problem):
        load_study("tiny", folder)


def test_a_study_that_stands_for_another_judges_its_claims(tmp_path):
    studies = tmp_path / "studies"
    content = {"text": "It costs nothing.", "setting": LABEL, "at_least": -1}
    write_study(studies, TINY | {"claims": [content]}, name="large")
    write_study(studies, TINY | {"stands_for": "large", "images": 100})
    assert "| nothing yet |" in claims_table(tmp_path)

    written(tmp_path, stored(LABEL, scale=0.5))

    (row,) = claims_table(tmp_path).splitlines()[2:]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[:2] == ["large", "It costs nothing."]
    assert "tiny: 1 setting, 3 seeds" in cells[2]
    assert "epochs x 0.5, 100 training images" in cells[3]
    assert cells[4:6] == ["a card", REFUTED]


# --- the shipped files ---


def test_the_table_in_the_documents_is_what_the_command_prints():
    text = (PROJECT / "docs/studies.md").read_text()

    assert claims_table(PROJECT) in text


@pytest.mark.parametrize("name", study_files(STUDIES))
def test_a_shipped_study_that_stands_for_another_has_the_settings_of_its_claims(name):
    study = load_study(name, STUDIES)
    if study.stands_for is None:
        pytest.skip("it stands for itself")

    published = load_study(study.stands_for, STUDIES)
    labels = {setting.label for setting in study.settings}
    named = {claim.setting for claim in published.claims}
    assert named - {None} <= labels


@pytest.mark.parametrize("name", study_files(STUDIES))
def test_the_nearest_run_of_a_shipped_study_needs_nothing_that_cannot_be_had(name):
    study = load_study(name, STUDIES)
    if study.nearest is None:
        pytest.skip("it can be run as published")

    for params in resolve(study, SHIPPED, quick=False, nearest=True, overrides={}).values():
        assert params["weights"] != "imagenet"
    assert study.needed(quick=False, nearest=True) == {}
