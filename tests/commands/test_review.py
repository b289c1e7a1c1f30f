"""A review: intervals by their formula, order that does not depend on DVC's, words that stay words,
and a small study whose dvc.lock is written by hand.
"""

import hashlib
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from helpers.repository import Repository
from ruamel.yaml import YAML
from typer.testing import CliRunner

from prunelab.cli import app
from prunelab.commands.review.document import ReviewResult, document
from prunelab.commands.review.own_metrics import own_metrics
from prunelab.commands.review.pictures import Picture, changed_pictures
from prunelab.commands.review.significance import Change, Significance, configurations
from prunelab.core.escape import as_code
from prunelab.core.metrics_files import LAST_ENVIRONMENTS, split_metrics
from prunelab.project.environments import EnvironmentDiff, compare_environments
from prunelab.project.lock_state import LockState, lock_state
from prunelab.project.trees import Tree
from prunelab.report.markdown import MAX_ROWS

NASTY = "a|b `c` <img src=x> </details> @somebody **d**\n# e \\| f"


def differing(old: dict, new: dict) -> dict:
    """What DVC prints for one file, or None's where a side has no such key."""
    return {key: {"old": old.get(key), "new": new.get(key)} for key in {**old, **new}}


def told(metrics: dict, params: dict | None = None, **others: object) -> str:
    findings = {
        "before": ("main", "1234567"),
        "after": ("workspace", "89abcde"),
        "commits_behind": 0,
        "lock": LockState([]),
        "configurations": configurations(metrics),
        "params": params or {},
        "pictures": [],
        "environments": EnvironmentDiff(),
        "troubles": [],
    }
    return document(ReviewResult(**findings | others))


def rows(text: str, name: str) -> list[list[str]]:
    """The cells of every table row that begins with this name."""
    split = [
        re.split(r" \| ", line.strip("| ")) for line in text.splitlines() if line.startswith("| ")
    ]
    return [cells for cells in split if cells[0] == f"`{name}`"]


@pytest.mark.parametrize(
    ("old", "new", "halves", "expected"),
    [
        (
            0.900,
            0.904,
            (0.003, 0.004),
            Significance.within,
        ),  # 3, 4, 5: 0.4 points are within 0.5 ...
        (
            0.900,
            0.906,
            (0.003, 0.004),
            Significance.beyond,
        ),  # ... and 0.6 are not, though they are within 0.3 + 0.4
        (0.900, 0.905, (0.003, 0.004), Significance.within),  # the end belongs to the interval
        (0.900, 0.894, (0.003, 0.004), Significance.beyond),
        (0.900, 0.901, (None, 0.004), Significance.unknown),
        (0.900, math.nan, (0.003, 0.004), Significance.nonsense),
        (None, 0.9, (None, 0.004), Significance.added),
        (0.9, None, (0.003, None), Significance.removed),
    ],
)
def test_change_is_compared_with_both_half_widths_in_quadrature(old, new, halves, expected):
    assert Change("accuracy", old, new, *halves).significance is expected


def test_counts_are_exact_and_other_metrics_have_no_interval():
    for key, old, new in (
        ("params", 100, 101),
        ("macs", 7, 6),
        ("sparsity", 0.5, 0.500001),
        ("macs_ratio", 1.5, 1.6),
    ):
        assert Change(key, old, new, None, None).significance is Significance.exact
    assert Change("loss", 0.1, 0.2, None, None).significance is Significance.unknown


def test_summary_names_what_fell_what_may_be_chance_and_what_is_new():
    def cell(accuracy: float, macs: int = 100) -> dict:
        return {"accuracy": accuracy, "accuracy_ci95": 0.01, "macs": macs, "loss": 0.25}

    text = told({
        "metrics/grid/b-0.5.json": differing(cell(0.9), cell(0.8)),
        "metrics/grid/a-0.5.json": differing(cell(0.9), cell(0.905)),
        "metrics/grid/c-0.5.json": differing({}, cell(0.7)),
        "metrics/grid/d-0.5.json": differing(cell(0.6), {}),
        "metrics/focus.json": differing(cell(0.9), cell(0.9, macs=50)),
        "metrics/base.json": differing(cell(0.99), cell(0.99)),
    })  # fmt: skip
    line = next(line for line in text.splitlines()[:8] if line.startswith("- Accuracy"))

    for words in (
        "6 conf",
        "1 **fell beyond the interval** (`b-0.5`)",
        "1 changed within",
        "1 new",
        "1 gone",
        "2 the same",
    ):
        assert words in line

    headline = text[: text.index("<details>")]
    names = re.findall(r"^\| `([^`]+)`", headline, re.MULTILINE)

    assert names == [
        "focus",
        "a-0.5",
        "b-0.5",
        "c-0.5",
        "d-0.5",
    ]  # the dense network did not change

    half = 100 * math.sqrt(2 * 0.01**2)

    assert f"within ±{half:.2f}" in rows(headline, "a-0.5")[0][4]
    assert rows(headline, "b-0.5")[0][3:5] == ["-10.00", f"**beyond ±{half:.2f}**"]
    assert "100 → 50 (-50.0 %)" in rows(headline, "focus")[0]
    assert rows(headline, "c-0.5")[0][4] == "new"
    assert rows(headline, "d-0.5")[0][4] == "gone"

    folded = text[text.index("<details>") :]

    assert not rows(folded, "c-0.5")  # a cell that came is one row, not one for each of its metrics


def test_document_does_not_depend_on_the_order_of_dvcs_output():
    keys = {
        "accuracy": 0.5,
        "accuracy_ci95": 0.01,
        "loss": 0.1,
        "macs": 5,
        "nan": math.nan,
        "params": 8,
    }
    changed = {key: value * 2 for key, value in keys.items()}
    files = [f"metrics/grid/{name}.json" for name in "dacb"] + [
        "metrics/focus.json",
        "metrics/base.json",
        "other.json",
    ]
    params = {"params.yaml": differing({"b": 1, "a": [1], "c": None}, {"b": 2, "a": [2], "c": "x"})}
    one = told({file: differing(keys, changed) for file in files}, params)
    backwards = {file: dict(reversed(differing(keys, changed).items())) for file in reversed(files)}

    assert one == told(backwards, {"params.yaml": dict(reversed(params["params.yaml"].items()))})
    assert "`nan`" not in one  # no number on both sides is no change

    names = re.findall(r"^\| `([^`]+)` \| `loss`", one, re.MULTILINE)

    assert names == ["dense", "focus", "a", "b", "c", "d", "other.json"]


def test_changed_interval_counts_as_a_change_of_its_metric():
    text = told(
        {
            "metrics/focus.json": differing(
                {"accuracy": 0.9, "accuracy_ci95": 0.01}, {"accuracy": 0.9, "accuracy_ci95": 0.02}
            )
        }
    )

    assert rows(text, "focus")[0][:5] == [
        "`focus`",
        "90.00 ± 1.00",
        "90.00 ± 2.00",
        "+0.00",
        "the same",
    ]
    assert "`accuracy_ci95`" not in text


def test_small_change_is_never_shown_as_zero():
    text = told(
        {
            "metrics/focus.json": differing(
                {"loss": 0.5, "macs": 10**9}, {"loss": 0.500001, "macs": 10**9 + 1}
            )
        }
    )

    assert rows(text, "focus")[0][4] == "+1.0e-06"
    assert rows(text, "focus")[1][2:5] == ["1,000,000,000", "1,000,000,001", "+1"]


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []
        self.text = ""

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)

    def handle_data(self, data):
        self.text += data


def test_hostile_names_become_neither_markup_nor_cells():
    parser = Tags()
    parser.feed(as_code(NASTY))

    assert parser.seen == ["code"]
    assert parser.text == " ".join(NASTY.split())
    assert not set(re.sub(r"&#\d+;|</?code>", "", as_code(NASTY))) & set("|`<>@*#\\")
    assert (
        as_code("<b>@x **y**</b>") == "`<b>@x **y**</b>`"
    )  # a code span, where none of it means anything
    assert "\u202e" not in as_code("a\u202eb")

    text = told(
        {
            f"metrics/grid/{NASTY}.json": differing(
                {"accuracy": 0.1, NASTY: 1}, {"accuracy": 0.2, NASTY: 2}
            )
        },
        {"params.yaml": differing({"name": NASTY}, {"name": f"<!-- {NASTY}"})},
        pictures=[Picture(f"plots/{NASTY}.png", True, False)],
        environments=EnvironmentDiff(
            {("device", NASTY, None): [NASTY]}, compared=2, mismatched=[NASTY]
        ),
        lock=LockState([NASTY]),
        troubles=[NASTY],
    )

    assert NASTY.split()[2] not in text.replace("`<", "")

    widths: dict[int, set[int]] = {}
    for index, block in enumerate(text.split("\n\n")):
        if block.startswith("| "):
            widths[index] = {line.count("|") for line in block.splitlines()}

    assert len(widths) == 5
    assert all(len(counts) == 1 for counts in widths.values())


def test_review_of_a_large_grid_fits_into_a_comment():
    metrics = {f"metric_of_some_length_{index}": 0.123456 for index in range(25)} | {
        "accuracy": 0.9,
        "macs": 10**12,
    }
    files = {
        f"metrics/grid/some_method_of_some_length-{index}.json": differing(
            metrics, dict.fromkeys(metrics, 1.5)
        )
        for index in range(300)
    }
    params = {
        "params.yaml": {
            f"section.key{index}": {"old": "x" * 500, "new": None} for index in range(300)
        }
    }
    text = told(files, params)

    assert len(text) < 65_536
    assert f"… and {300 - MAX_ROWS} more rows" in text
    assert f"… and {300 * 27 - MAX_ROWS:,} more rows" in text


def test_review_without_changes_is_short():
    text = told(
        {
            "metrics/focus.json": differing(
                {"accuracy": 0.9, "macs": 1}, {"accuracy": 0.9, "macs": 1}
            )
        }
    )

    assert text.count("<details>") == 1  # how to read it
    assert "dvc.lock is up to date" in text
    assert "1 the same" in text


class Study(Repository):
    """A pipeline of commands that do nothing, one for each metrics file, and a dvc.lock as DVC
    would write it.
    """

    def __init__(self, folder: Path):
        super().__init__(folder)
        self.write(".dvc/config", "[core]\n    analytics = false\n")
        self.write(".dvc/.gitignore", "/config.local\n/tmp\n/cache\n")
        self.write("code.py", "pass\n")
        self.params: dict[str, object] = {"ratio": 0.5, "name": "x"}
        self.report = "0" * 32  # DVC's hash of a plot that is not here

    def write(self, path: str, content: str) -> None:
        (self.folder / path).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / path).write_text(content)

    def measure(self, metrics: dict[str, dict], device: str = "a CPU", numpy: str = "2.0") -> None:
        for path in [*self.folder.glob("metrics/**/*.json")]:
            path.unlink()
        YAML().dump(self.params, self.folder / "params.yaml")
        stages, lock = {}, {}
        for path, content in metrics.items():
            self.write(path, json.dumps(content))
            name = Path(path).stem
            noted = {
                "device": device,
                "packages": {"numpy": numpy},
                "metrics_sha256": self._hash(path, "sha256"),
            }
            self.write(f"metrics/environment/{name}.json", json.dumps(noted))
            step = {
                "cmd": "true",
                "deps": ["code.py"],
                "params": ["name", "ratio"],
                "metrics": [{path: {"cache": False}}],
            }
            ran = {
                "cmd": "true",
                "deps": [self._entry("code.py")],
                "params": {"params.yaml": self.params},
            }
            stages[f"evaluate_{name}"], lock[f"evaluate_{name}"] = (
                step,
                ran | {"outs": [self._entry(path)]},
            )
        stages["report"] = {"cmd": "true", "deps": ["code.py"], "outs": ["plots/report.html"]}
        out = {"path": "plots/report.html", "hash": "md5", "md5": self.report, "size": 1}
        lock["report"] = {"cmd": "true", "deps": [self._entry("code.py")], "outs": [out]}
        YAML().dump({"stages": stages}, self.folder / "dvc.yaml")
        YAML().dump({"schema": "2.0", "stages": lock}, self.folder / "dvc.lock")
        self.write(".gitignore", "/plots/report.html\n")

    def _hash(self, path: str, kind: str) -> str:
        return hashlib.new(
            kind, (self.folder / path).read_bytes(), usedforsecurity=False
        ).hexdigest()

    def _entry(self, path: str) -> dict:
        return {
            "path": path,
            "hash": "md5",
            "md5": self._hash(path, "md5"),
            "size": (self.folder / path).stat().st_size,
        }

    def tree(self, revision: str | None = None) -> Tree:
        return Tree(
            self.folder,
            revision or "workspace",
            self.git("rev-parse", revision) if revision else None,
        )


@pytest.fixture
def study(tmp_path, monkeypatch) -> Study:
    folder = tmp_path / "study"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return Study(folder)


def cell(accuracy: float, macs: int = 100) -> dict:
    return {
        "accuracy": accuracy,
        "accuracy_ci95": 0.01,
        "loss": 0.3,
        "macs": macs,
        "params_nonzero": 40,
    }


def two_commits(study: Study) -> None:
    study.write("plots/tradeoff.png", "old picture")
    study.write("plots/tradeoff.svg", "<svg>old</svg>")
    study.write("plots/same.png", "the same")
    study.write("plots/rows.json", "[1]")
    gone, stays = "metrics/grid/gone-0.5.json", "metrics/grid/stays-0.5.json"
    study.measure(
        {
            "metrics/base.json": cell(0.99),
            "metrics/focus.json": cell(0.9),
            gone: cell(0.5),
            stays: cell(0.8),
        }
    )
    study.commit("before")
    study.params, study.report = {"ratio": 0.6, "name": NASTY}, "1" * 32
    study.write("plots/tradeoff.png", "new picture")
    study.write("plots/tradeoff.svg", "<svg>new</svg>")
    study.write("plots/rows.json", "[2]")
    study.write("plots/focus/added.png", "added")
    new = "metrics/grid/new-0.5.json"
    after = {
        "metrics/base.json": cell(0.985),
        "metrics/focus.json": cell(0.8, 50),
        new: cell(0.7),
        stays: cell(0.8),
    }
    study.measure(after, device="a GPU", numpy="2.1")
    study.commit("after")


def test_command_shows_everything_and_exits_0_if_the_lock_is_fresh(study, tmp_path):
    two_commits(study)
    out, pictures = tmp_path / "review/document.md", tmp_path / "review/pictures"
    result = CliRunner().invoke(
        app, ["review", "HEAD~1", "HEAD", "--out", str(out), "--pictures", str(pictures)]
    )

    assert result.exit_code == 0, result.output

    text = out.read_text()

    assert "dvc.lock is up to date" in text
    assert "**beyond" in rows(text, "focus")[0][4]
    assert "within" in rows(text, "dense")[0][4]
    assert rows(text, "gone-0.5")[0][4] == "gone"
    assert rows(text, "new-0.5")[0][4] == "new"
    assert not rows(text, "stays-0.5")
    assert rows(text, "ratio") == [["`ratio`", "`0.5`", "`0.6`"]]
    assert as_code(NASTY) in rows(text, "name")[0][2]
    assert rows(text, "device") == [["`device`", "`a CPU`", "`a GPU`", "all 3"]]
    assert rows(text, "packages.numpy")[0][1:3] == ["`2.0`", "`2.1`"]
    assert "metrics_sha256" not in text

    shown = re.findall(r"!?\[\w*\]\(([^)]+)\)", text)
    copies = {str(path.relative_to(out.parent)): path.read_text() for path in pictures.rglob("*.*")}

    assert copies == {
        "pictures/before/plots/tradeoff.png": "old picture",
        "pictures/before/plots/tradeoff.svg": "<svg>old</svg>",
        "pictures/after/plots/tradeoff.png": "new picture",
        "pictures/after/plots/tradeoff.svg": "<svg>new</svg>",
        "pictures/after/plots/focus/added.png": "added",
    }
    assert sorted(shown) == sorted(copies)
    assert rows(text, "plots/report.html")[0][1:] == [
        "changed",
        "absent: DVC keeps it, Git does not",
    ]


def test_metrics_are_the_same_whether_they_are_in_one_file_or_divided(study):
    everything = cell(0.9) | {"ratio_asked": 0.5}
    study.write("metrics/grid/a-0.5.json", json.dumps(everything))
    study.write("metrics/details/grid/a-0.5.json", json.dumps({"layers": []}))
    study.commit("one file")

    headline, others = split_metrics(everything)
    study.write("metrics/grid/a-0.5.json", json.dumps(headline))
    study.write("metrics/details/grid/a-0.5.json", json.dumps({"metrics": others, "layers": []}))
    study.write("metrics/table.json", "{}")
    study.commit("divided")

    found, troubles = own_metrics(study.tree("HEAD~1"), study.tree("HEAD"))

    assert found == {"metrics/grid/a-0.5.json": differing(everything, everything)}
    assert troubles == []


def test_a_changed_metric_of_the_details_is_shown_and_a_damaged_file_is_named(study):
    path, details = "metrics/grid/a-0.5.json", "metrics/details/grid/a-0.5.json"
    study.write(path, '{"accuracy": 0.9, "list": [1]}')
    study.write(details, '{"metrics": {"loss": 0.5}}')
    study.commit("before")
    study.write(details, '{"metrics": {"loss": 0.25}}')

    found, _ = own_metrics(study.tree("HEAD"), study.tree())

    assert found[path] == differing({"accuracy": 0.9, "loss": 0.5}, {"accuracy": 0.9, "loss": 0.25})

    for damaged, reason in (("{", "cannot be read as JSON"), ("[1]", "is not a mapping")):
        study.write(details, damaged)
        found, (trouble,) = own_metrics(study.tree("HEAD"), study.tree())
        assert found[path] == differing({"accuracy": 0.9, "loss": 0.5}, {})
        assert trouble.startswith(f"workspace: {details} {reason}")


@pytest.mark.slow
def test_stale_lock_exits_1_after_everything_was_printed(study):
    two_commits(study)
    study.write("code.py", "print()\n")  # every input is here, so DVC itself would end with 0
    result = CliRunner().invoke(app, ["review", "HEAD~1"])

    assert result.exit_code == 1
    assert "**dvc.lock is stale" in result.stdout.splitlines()[2]
    assert "`evaluate_base`" in result.stdout.splitlines()[2]
    assert "**beyond" in rows(result.stdout, "focus")[0][4]
    assert "and 1 file not committed" in result.stdout
    assert result.stdout.rstrip().endswith("</details>")


@pytest.mark.slow
def test_commit_and_workspace_have_locks_of_their_own(study):
    study.measure({"metrics/base.json": cell(0.9)})
    study.commit("good")
    study.params["ratio"] = 0.7
    YAML().dump(study.params, study.folder / "params.yaml")

    assert lock_state(study.tree()).stages == ["evaluate_base"]
    assert not lock_state(study.tree("HEAD")).stale

    study.write("dvc.yaml", "stages: [")

    assert lock_state(study.tree()).trouble


def test_a_commit_without_a_pipeline_has_a_lock_that_cannot_be_checked(study):
    study.commit("without a pipeline")

    state = lock_state(study.tree("HEAD"))

    assert state.stale
    assert state.trouble == "dvc.yaml is missing"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["mian"], ["unknown revision 'mian'", "'main'"]),
        (["main", "HEAED"], ["unknown revision 'HEAED'", "'HEAD'"]),
        (["workspace"], ["BASE: workspace"]),
        (["main", "--pictures", "plots"], ["--pictures: plots exists already", "empty folder"]),
        (["main", "--out", "plots"], ["--out: plots is a folder"]),
    ],
)
def test_bad_arguments_are_refused_before_any_work(study, arguments, named):
    study.write("plots/one.png", "one")
    study.measure({"metrics/base.json": cell(0.9)})
    study.commit("only")
    result = CliRunner().invoke(app, ["review", *arguments])

    assert result.exit_code == 1
    assert result.stdout == ""
    for part in named:
        assert part in result.stderr


def test_review_must_run_in_the_top_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["review", "main"])
    assert result.exit_code == 1
    assert "top folder" in result.stderr


def test_workspace_includes_pictures_not_yet_added_to_git(study):
    study.write("plots/kept.png", "kept")
    study.write("plots/dropped.png", "dropped")
    study.commit("pictures")
    study.write("plots/untracked.png", "new")
    (study.folder / "plots/dropped.png").unlink()
    found = {one.path: one.what for one in changed_pictures(study.tree("HEAD"), study.tree())}

    assert found == {"plots/untracked.png": "new", "plots/dropped.png": "gone"}


def test_environment_of_other_numbers_is_not_compared(study):
    study.measure({"metrics/base.json": cell(0.9), "metrics/focus.json": cell(0.8)})
    study.commit("before")
    study.measure(
        {"metrics/base.json": cell(0.9), "metrics/focus.json": cell(0.8)}, device="another"
    )
    study.write("metrics/focus.json", json.dumps(cell(0.7)))
    found = compare_environments(study.tree("HEAD"), study.tree())

    assert found.differing == {("device", "a CPU", "another"): ["base"]}
    assert found.compared == 1
    assert found.mismatched == ["focus of workspace"]

    for damaged in ("{", "[1]", "3"):
        study.write("metrics/environment/base.json", damaged)
        assert compare_environments(study.tree("HEAD"), study.tree()).mismatched == [
            "base of workspace",
            "focus of workspace",
        ]


def test_workspace_has_the_environment_of_its_last_repetition(study):
    study.measure({"metrics/base.json": cell(0.9), "metrics/focus.json": cell(0.8)})
    study.commit("before")
    last = LAST_ENVIRONMENTS / "base.json"
    noted = json.loads((study.folder / "metrics/environment/base.json").read_text())

    study.write(str(last), json.dumps(noted | {"device": "another"}))
    found = compare_environments(study.tree("HEAD"), study.tree())
    assert found.differing == {("device", "a CPU", "another"): ["base"]}

    other_metrics = {"device": "another", "metrics_sha256": "of other metrics"}
    study.write(str(last), json.dumps(noted | other_metrics))
    found = compare_environments(study.tree("HEAD"), study.tree())
    assert found.differing == {}
    assert not found.mismatched


def test_commits_missing_on_one_side_are_warned_about():
    text = told({}, commits_behind=3)
    assert "`main` has 3 commits that `workspace` lacks" in text
    assert "backwards" not in told({})


@pytest.mark.slow
def test_dvc_accepts_the_lock_of_these_tests_and_reviews_repeat(study, monkeypatch):
    two_commits(study)
    texts = set()
    for seed in range(4):
        monkeypatch.setenv("PYTHONHASHSEED", str(seed))  # of the commands that are started
        texts.add(CliRunner().invoke(app, ["review", "HEAD~1", "HEAD"]).stdout)

    assert len(texts) == 1
    assert "dvc.lock is up to date" in texts.pop()
