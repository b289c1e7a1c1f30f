"""Names that others gave: what they are made of is neither markup nor a command to a terminal."""

import io
import re
from contextlib import redirect_stderr
from html.parser import HTMLParser

import pytest
import typer
from helpers.data import write_image_folder
from helpers.page import report_data
from helpers.params import PROJECT, edit_params
from helpers.repository import Clone, stages_run
from hypothesis import given, settings
from hypothesis import strategies as st

from prunelab.commands.common import report_failures, reporting_errors
from prunelab.commands.sweep.axes import read_axes, resolve_sweep
from prunelab.core.errors import InputError, one_line
from prunelab.core.escape import as_code, escape_markdown
from prunelab.page.page import page
from prunelab.project.experiments import stage_closure
from prunelab.project.revisions import RevisionResult
from prunelab.report import text_table
from prunelab.report.markdown import escaped_table
from prunelab.report.pareto import NEEDED, compare, comparison_table, notes

HOSTILE = (
    "<script>alert(1)</script>",
    "a|b",
    "`",
    "``a`",
    "](http://a.b)",
    "![x](http://a.b)",
    "@somebody",
    "#1",
    "\n# a",
    "\x1b[31mred",
    "\x1b]0;title\x07",
    "\u202eabc",
    "$x^2$",
    "*a*",
    "_a_",
    "__a__",
    "~~a~~",
    "http://a.b",
    "www.a.b",
    "a@b.c",
    "&amp;",
    "\\",
    "\\|",
    "<!--",
    "-->",
    "'\"",
    "--help",
    "../x",
    "a b",
    "\u00fc\u4e2d",
    "\x00",
    "]]>",
    "</title>",
    "{{ 7 * 7 }}",
    "%{x}",
)
NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=10) | st.lists(
    st.sampled_from(HOSTILE), min_size=1, max_size=3
).map("".join)
MARKUP = re.compile(r"[<>`|@#*\\\[\]!&~]|//|www\.|(?<!\w)_|_(?!\w)")


def bare(markdown: str) -> str:
    """What of a text is outside code, where markup would mean something."""
    return re.sub(r"`[^`|\\\n]*`|<code>(?:[\w ]|&#\d+;)*</code>", "", markdown)


@given(NAMES)
def test_markdown_shows_every_name_as_text_or_code(name):
    for shown in (escape_markdown(name), as_code(name)):
        assert shown.isprintable()
        assert not MARKUP.search(bare(shown)), shown


@given(st.lists(st.tuples(NAMES, NAMES), min_size=1, max_size=3))
def test_table_has_exactly_the_given_cells(lines):
    rows = escaped_table(["one", "two"], lines).split("\n")

    assert len(rows) == 2 + len(lines)
    assert all(row.count("|") == 3 for row in rows)

    plain = text_table.aligned_table(["one", "two"], list(map(list, lines)), 10**6)

    assert len(plain.split("\n")) == 2 + len(lines)
    assert plain.replace("\n", "").isprintable()


@given(NAMES, NAMES, NAMES)
def test_revisions_with_hostile_names_are_compared(name, key, value):
    metrics = dict.fromkeys(NEEDED, 1)
    named = [
        RevisionResult(
            "workspace", None, {"method": "l1_channel", "ratio": 0.5}, metrics, metrics, []
        ),
        RevisionResult(
            name,
            None,
            {"method": value, "ratio": value, f"data.{key}": value},
            metrics,
            metrics,
            [key],
        ),
    ]
    rows = compare(named, "macs")
    drawn = escaped_table(*comparison_table(rows, "macs")).split("\n")

    assert len(drawn) == 4
    assert len({row.count("|") for row in drawn}) == 1
    for note in notes(rows, {name: value}, "macs", escape_markdown)[1:]:
        assert not MARKUP.search(bare(note).replace("`dvc repro`", "")), note


@given(NAMES)
def test_no_name_reaches_the_terminal_unescaped(name):
    assert one_line(name).isprintable()

    shown = io.StringIO()
    for error in (InputError([f"a: {name}", name]), OSError(2, name)):
        with redirect_stderr(shown), pytest.raises(typer.Exit), reporting_errors():
            raise error
    with redirect_stderr(shown), pytest.raises(typer.Exit):
        report_failures({name: f"one\n{name}"}, 1)

    assert shown.getvalue().replace("\n", "").isprintable()


class Page(HTMLParser):
    """Which elements a page has, and its words and attributes."""

    def __init__(self):
        super().__init__()
        self.elements, self.words, self.values = [], [], []

    def handle_starttag(self, tag, attributes):
        self.elements.append(tag)
        self.values += [value for _, value in attributes]

    def handle_data(self, data):
        self.words.append(data)


def parsed(text: str) -> Page:
    found = Page()
    found.feed(text)
    return found


ELEMENTS = {}


# A page takes half a second.
@settings(max_examples=max(4, settings.default.max_examples // 20))
@given(NAMES)
def test_page_has_the_same_elements_for_hostile_names(name):
    from dataclasses import replace

    def told(word: str):
        # Not Plotly's own script, of which there are megabytes.
        return parsed(
            page(
                replace(
                    report_data(),
                    title=word,
                    facts={"data": word, word or "x": word, "measured on": word},
                    classes=["cat", word],
                )
            ).partition("<script>")[0]
        )

    if not ELEMENTS:
        ELEMENTS["of a harmless name"] = told("harmless").elements
    found = told(name)

    assert found.elements == ELEMENTS["of a harmless name"]
    assert "script" not in found.elements
    assert (
        name.strip("\n\r") == ""
        or "\x00" in name
        or "\r" in name
        or any(name in each for each in found.words)
    )


def test_all_problems_of_a_sweep_are_reported_at_once():
    used = stage_closure((PROJECT / "dvc.yaml").read_text())

    with pytest.raises(InputError) as refused:
        resolve_sweep(
            read_axes(["ratio=2,0.5", "nosuch=1", "seeds=[-1]"]), PROJECT / "params.yaml", used
        )
    assert len(refused.value.problems) == 3
    assert ["nosuch" in line for line in refused.value.problems] == [True, False, False]

    for many in ("seeds=range(0,1000000000)", "train.epochs=range(0,100000)"):
        with pytest.raises(InputError, match="combinations; valid: up to"):
            resolve_sweep(read_axes([many]), PROJECT / "params.yaml", used)


@pytest.mark.slow
@pytest.mark.parametrize("folder", ['my study\'s "best"', "-rf", "$(touch x); ü #1, 100 %"])
def test_study_works_in_a_folder_with_a_hostile_name(tmp_path, folder):
    clone = Clone(tmp_path / folder / "study")
    data = tmp_path / folder / "-my $photos; 'ä'"
    write_image_folder(data, {"--help": 12, "a b": 12, "`$(x)`|<b>": 12})
    edit_params(
        clone.folder / "params.yaml",
        dataset="imagefolder",
        data__source=str(data),
        data__resize=8,
        data__validation_fraction=0.25,
        seeds=[0],
        grid__methods=["l1_channel"],
        grid__ratios=[0.5],
        train__epochs=1,
        train__batch_size=8,
        finetune__epochs=1,
        finetune__batch_size=8,
        benchmark={"batch_sizes": [1], "backends": ["eager"], "rounds": 2, "seconds": 0.02},
    )
    clone.commit("Tiny configuration")
    clone.run("prunelab", "check")
    clone.run("dvc", "repro")

    assert stages_run(clone.run("dvc", "repro").stdout) == []
    assert (clone.folder / "plots/report.html").exists()

    clone.commit("Results")

    assert "up to date" in clone.run("prunelab", "review", "HEAD").stdout

    clone.run("prunelab", "sweep", "-S", "ratio=0.8")

    assert "0.8" in clone.run("prunelab", "compare").stdout

    said = clone.run("prunelab", "verify", "--stages", "train_base", "--runs", "1").stdout

    assert re.search(r"the commit and run 1: (\d+) of \1 outputs are the same to the bit", said), (
        said
    )

    left = {path.name for path in (tmp_path / folder).iterdir()}

    assert left == {"study", data.name}
    assert "x" not in {path.name for path in clone.folder.iterdir()}
