"""What our results say of every published claim: confirmed, refuted or not shown.

A verdict is computed from the stored results and from nothing else.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from prunelab.commands.studies.here_command import result_name
from prunelab.commands.studies.published_measures import MEASURES
from prunelab.commands.studies.results import read_stored, results_file, shown_scale
from prunelab.commands.studies.scale import key_of
from prunelab.commands.studies.study_file import FOLDER, Claim, Study, load_study, study_files
from prunelab.commands.studies.study_tables import Shown, usual_hardware
from prunelab.core.errors import one_line
from prunelab.core.escape import escape_markdown
from prunelab.core.plurals import counted
from prunelab.project.experiments import Record
from prunelab.report.text_table import markdown_table

CONFIRMED = "confirmed"
REFUTED = "refuted"
NOT_SHOWN = "not shown"
HEADER = ["study", "published claim", "what was run", "scale", "hardware", "verdict", "measured"]
TOLERANCE = 1e-9  # of numbers without an interval

Records = Mapping[str, Record | None]


@dataclass(frozen=True)
class Verdict:
    """What the numbers say of a claim, and the sentence that gives them."""

    word: str
    sentence: str


@dataclass(frozen=True)
class StudyResults:
    """The results that judge the claims of a study.

    They are its own, those of its nearest run, or those of another study that stands for it, in
    this order. `title` says which.
    """

    title: str
    shown: Shown
    records: Records


def claims_table(root: Path) -> str:
    """Return a Markdown table with a row for every claim of every study file."""
    studies = {name: load_study(name, root / FOLDER) for name in study_files(root / FOLDER)}
    rows: list[list[str]] = []
    for name, study in studies.items():
        if study.claims:
            rows += _rows(name, study, _results(root, name, studies))
    return markdown_table(HEADER, rows)


def _rows(name: str, study: Study, results: StudyResults) -> Iterator[list[str]]:
    measured = [record for record in results.records.values() if record]
    run, scale, hardware = "nothing yet", "", ""
    if measured:
        seeds = measured[0]["metrics"]["seeds"]
        settings = counted(len(measured), "setting")
        run = f"{results.title}: {settings}, {counted(seeds, 'seed')}"
        scale = f"epochs x {results.shown.scale:g}"
        if results.shown.images is not None:
            scale += f", {results.shown.images:,} training images"
        hardware = usual_hardware(results.records) or "unknown"

    for claim in study.claims:
        verdict = judge(claim, results.records)
        yield [
            name,
            one_line(claim.text).replace("|", "\\|"),  # Markdown by the study's author
            run,
            scale,
            escape_markdown(hardware),
            verdict.word,
            one_line(verdict.sentence),
        ]


def _results(root: Path, name: str, studies: Mapping[str, Study]) -> StudyResults:
    """The first results there are of a study, its nearest run, and those that stand for it."""
    candidates = [(name, False)]
    if studies[name].nearest:
        candidates.append((name, True))
    for other, study in studies.items():
        if study.stands_for == name:
            candidates.append((other, False))

    for candidate, nearest in candidates:
        study = studies[candidate]
        labels = [setting.label for setting in study.selected_settings(False, nearest)]
        prefix = result_name(candidate, quick=False, nearest=nearest)
        scale, _ = shown_scale(root, prefix, labels, None)
        stored = read_stored(results_file(root, prefix))
        records = {label: stored.get(key_of(label, scale)) for label in labels}
        if any(records.values()):
            title = "the nearest" if nearest else candidate
            if candidate == name and not nearest:
                title = "as published"
            images = study.images_of(quick=False, nearest=nearest)
            return StudyResults(title, Shown(nearest=nearest, scale=scale, images=images), records)
    return StudyResults("", Shown(), {})


def judge(claim: Claim, records: Records) -> Verdict:
    """Return what the records say of a claim.

    It is confirmed if the whole 95 % interval of the difference lies within the claim's bounds,
    refuted if all of it lies outside, and otherwise not shown.
    """
    measure = MEASURES[claim.measure]
    if claim.setting is None:
        return Verdict(NOT_SHOWN, "This project has no such method.")
    if measure.ours is None:
        return Verdict(NOT_SHOWN, "It rests on a clock of another machine.")

    missing = [
        label
        for label in (claim.setting, claim.against)
        if label is not None and not records.get(label)
    ]
    if missing:
        return Verdict(NOT_SHOWN, f"Not run: {', '.join(missing)}.")

    difference, half_width = _difference(claim, records)
    low, high = difference - half_width, difference + half_width
    at_least = -math.inf if claim.at_least is None else claim.at_least - TOLERANCE
    at_most = math.inf if claim.at_most is None else claim.at_most + TOLERANCE

    word = NOT_SHOWN
    if at_least <= low and high <= at_most:
        word = CONFIRMED
    elif high < at_least or low > at_most:
        word = REFUTED

    other = claim.against or "the dense network"
    numbers = f"{difference:+z.{measure.decimals}f}"
    if half_width:
        numbers += f" ± {half_width:.{measure.decimals}f}"
    text = f"{claim.setting} less {other}: {numbers}, claimed {_bounds(claim)} ({measure.label})."
    return Verdict(word, text)


def _bounds(claim: Claim) -> str:
    """Between which differences a claim holds, in words."""
    if claim.at_most is None:
        return f"{claim.at_least:+g} or more"
    if claim.at_least is None:
        return f"{claim.at_most:+g} or less"
    return f"{claim.at_least:+g} to {claim.at_most:+g}"


def _difference(claim: Claim, records: Records) -> tuple[float, float]:
    """The difference that a claim bounds, and half its 95 % interval; 0 for exact numbers."""
    ours = MEASURES[claim.measure].ours
    assert ours is not None
    assert claim.setting is not None
    record = records[claim.setting]
    assert record is not None
    metrics = record["metrics"]
    rests_on_accuracy = claim.measure in ("accuracy_percent", "accuracy_pruned_percent")

    if claim.against is None:
        difference = ours(metrics) - ours(record["dense"])
        if claim.measure == "accuracy_percent":
            return difference, 100 * metrics["accuracy_drop_ci95"]  # paired by seed and image
        if rests_on_accuracy:
            return difference, _unpaired(claim.measure, metrics, record["dense"])
        return difference, 0.0

    other = records[claim.against]
    assert other is not None
    difference = ours(metrics) - ours(other["metrics"])
    if rests_on_accuracy:
        return difference, _unpaired(claim.measure, metrics, other["metrics"])
    return difference, 0.0


def _unpaired(measure: str, metrics: Mapping[str, float], other: Mapping[str, float]) -> float:
    """Half the interval of a difference of two accuracies as if they were independent, in points.

    Both rest on the same images, so this is wider than it need be.
    """
    key = f"{measure.removesuffix('_percent')}_ci95"
    return 100 * math.hypot(metrics[key], other[key])
