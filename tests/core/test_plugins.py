"""Names in plugins/ are read without an import, entries are imported when they are used."""

import os
import subprocess
import sys

import pytest
from helpers.params import PROJECT
from helpers.plugins import CRITERION, METHOD, NETWORK, write_plugins

from prunelab.core import plugins
from prunelab.core.errors import InputError
from prunelab.core.registry import Table, pick

METHOD_LINE = 'from prunelab.pruning.methods import METHODS\nMETHODS.register("{}", {})\n'


@pytest.fixture
def letters(project, monkeypatch) -> Table[str]:
    """A table of strings that stands in for that of the methods."""
    table = Table("method", {"a": "A"}, instance_of=str)
    monkeypatch.setattr("prunelab.pruning.methods.METHODS", table)
    return table


def problem_of(table: Table[str], name: str) -> str:
    with pytest.raises(InputError) as error:
        table[name]
    (line,) = error.value.problems
    return line


def test_a_table_has_the_entries_of_plugins_behind_its_own(project, letters):
    write_plugins(project, more=METHOD_LINE.format("b", "'B'"))

    assert list(letters) == ["a", "b"]
    assert len(letters) == 2
    assert "b" in letters
    assert letters["b"] == "B"
    assert letters.origin("b").place == "plugins/more.py:2"
    assert letters.origin("a") is None
    assert dict(letters) == {"a": "A", "b": "B"}
    assert letters.own == {"a": "A"}


def test_without_a_folder_a_table_has_its_own_entries_alone(project, letters):
    (project / "plugins").rmdir()

    assert list(letters) == ["a"]
    assert "b" not in letters
    with pytest.raises(InputError, match="unknown method 'b'; valid: a$"):
        pick(letters, "b", "method")


def test_names_are_known_without_running_any_plugin(project, letters):
    write_plugins(project, more="raise SystemExit('ran')\n" + METHOD_LINE.format("b", "'B'"))

    assert list(letters) == ["a", "b"]
    assert letters["a"] == "A"
    assert problem_of(letters, "b").startswith("plugins/more.py:1: SystemExit: ran; correct it")


def test_a_plugin_runs_once_and_may_import_its_neighbours(project, letters):
    write_plugins(
        project,
        values="with open('runs', 'a') as runs:\n    runs.write('.')\nB = 'B'\n",
        more="from plugins.values import B\n" + METHOD_LINE.format("b", "B"),
        others="from .values import B\n" + METHOD_LINE.format("c", "B.lower()"),
    )

    assert [letters["b"], letters["c"], letters["b"]] == ["B", "b", "B"]
    assert (project / "runs").read_text() == "."


def test_plugins_are_those_of_the_working_directory(project, letters, monkeypatch):
    write_plugins(project, more=METHOD_LINE.format("b", "'B'"))
    assert letters["b"] == "B"

    other = project / "other"
    write_plugins(_made(other), more=METHOD_LINE.format("b", "'other'"))
    monkeypatch.chdir(other)

    assert letters["b"] == "other"


def _made(folder):
    folder.mkdir()
    return folder


def test_an_edit_of_the_same_size_in_the_same_second_is_seen(project, letters):
    write_plugins(project, more=METHOD_LINE.format("b", "'B'"))
    file = project / "plugins/more.py"
    before = file.stat()
    assert letters["b"] == "B"

    write_plugins(project, more=METHOD_LINE.format("b", "'C'"))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    plugins.forget()

    assert letters["b"] == "C"
    assert not (project / "plugins/__pycache__").exists()


BROKEN = {
    "an import that fails": (
        "\nimport nowhere_at_all\n" + METHOD_LINE.format("b", "'B'"),
        "plugins/more.py:2: ModuleNotFoundError: No module named 'nowhere_at_all'; correct it, or "
        "move the file out of plugins/",
    ),
    "an error at the top": (
        METHOD_LINE.format("b", "'B' + 1"),
        'plugins/more.py:2: TypeError: can only concatenate str (not "int") to str; correct it',
    ),
    "an entry of another kind": (
        METHOD_LINE.format("b", "1"),
        "plugins/more.py:2: method 'b' is a int, not a str",
    ),
    "a name that is made up as it runs": (
        METHOD_LINE.format("b", "'B'") + "(lambda: METHODS)().register('c', 'C')\n",
        "plugins/more.py:3: method 'c' is not in the text of the file. Write "
        'METHODS.register("c", ...) there',
    ),
    "a registration that does not happen": (
        "from prunelab.pruning.methods import METHODS\n"
        "def later():\n    METHODS.register('b', 'B')\n",
        "plugins/more.py:3: method 'b' is not registered when the file is imported; register it at "
        "the top level of the file",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_plugin_is_refused_by_its_line_every_time(project, letters, case):
    text, expected = BROKEN[case]
    write_plugins(project, more=text)

    first = problem_of(letters, "b")

    assert first.startswith(expected)
    assert problem_of(letters, "b") == first
    assert letters["a"] == "A"


UNREADABLE = {
    "no Python": ("def f(:\n", "plugins/more.py:1: SyntaxError: invalid syntax; correct it"),
    "no text": ("\0", "plugins/more.py:1: "),
    "a name that is no string": (
        "name = 'b'\nMETHODS.register(name, 'B')\n",
        "plugins/more.py:2: the first argument must be the name, as a string",
    ),
    "a name with a dash": (
        METHOD_LINE.format("b-c", "'B'"),
        "plugins/more.py:2: 'b-c' cannot be the name of a method; use letters, digits and _",
    ),
    "a name twice": (
        METHOD_LINE.format("b", "'B'") + "METHODS.register('b', 'C')\n",
        "plugins/more.py:3: method 'b' is registered already, in plugins/more.py:2; choose another",
    ),
}


@pytest.mark.parametrize("case", UNREADABLE)
def test_names_that_cannot_be_told_are_refused_when_names_are_listed(project, letters, case):
    text, expected = UNREADABLE[case]
    write_plugins(project, more=text)

    with pytest.raises(InputError) as error:
        list(letters)

    (line,) = error.value.problems
    assert line.startswith(expected)
    assert letters["a"] == "A"  # which no plugin can take away


def test_two_plugins_of_one_name_are_refused_with_both_places(project, letters):
    write_plugins(project, one=METHOD_LINE.format("b", "1"), two=METHOD_LINE.format("b", "2"))

    with pytest.raises(InputError) as error:
        list(letters)

    assert error.value.problems == [
        "plugins/two.py:2: method 'b' is registered already, in plugins/one.py:2; "
        "choose another name"
    ]


def test_a_name_of_this_package_cannot_be_replaced(project, letters):
    write_plugins(project, more=METHOD_LINE.format("a", "'B'"))

    assert problem_of(letters, "a") == (
        "plugins/more.py:2: method 'a' is registered already, in prunelab; choose another name"
    )


def test_a_file_whose_name_cannot_be_imported_is_refused(project, letters):
    (project / "plugins/my-net.py").write_text("")

    with pytest.raises(InputError, match="my-net.py: not a name that Python can import"):
        list(letters)


def test_an_error_is_traced_to_the_plugin_that_was_running(project):
    write_plugins(project, net="def divide(a):\n    return 1 / a\n")
    plugins.load("plugins.net")

    from plugins.net import divide

    with pytest.raises(ZeroDivisionError) as error:
        divide(0)
    assert plugins.failure_lines(error.value) == [
        "plugins/net.py:2: ZeroDivisionError: division by zero; correct it, or move the file out "
        "of plugins/"
    ]
    assert plugins.failure_lines(ValueError("of nobody")) == []


def test_the_hash_of_a_plugin_covers_its_code_and_that_of_its_neighbours(project, monkeypatch):
    net = "from plugins.layers import layer\n" + NETWORK
    hashes = []
    for number, changes in enumerate(
        [{}, {"other": "a = 2\n"}, {"net": f"# Mine.\n{net}"}, {"layers": "layer = 2\n"}]
    ):
        folder = project / str(number)
        folder.mkdir()
        monkeypatch.chdir(folder)
        texts = {"net": net, "layers": "layer = 1\n", "other": "a = 1\n"} | changes
        write_plugins(folder, **texts)
        hashes.append(plugins.code_hash(plugins.current().registrations["model", "tiny"]))

    first, with_other, with_comment, with_layer = hashes
    assert first == with_other == with_comment
    assert with_layer != first


def test_listing_marks_plugins_and_imports_none(project):
    write_plugins(project, net=NETWORK, rules=f"raise RuntimeError\n{CRITERION}", methods=METHOD)
    code = (
        "import sys; from prunelab.cli import app\n"
        "for kind in ('models', 'methods'):\n"
        "    sys.argv = ['prunelab', 'list', kind]\n"
        "    try:\n        app()\n    except SystemExit as end:\n        assert not end.code\n"
        "print({name.split('.')[0] for name in sys.modules} & {'torch', 'plugins'})"
    )

    process = subprocess.run(
        [sys.executable, "-c", code],
        cwd=project,
        env=os.environ | {"PYTHONPATH": str(PROJECT / "src")},
        capture_output=True,
        text=True,
        check=True,
    )

    # The file of a plugin is on a line of its own, below the row.
    rows = [line.split() for line in process.stdout.splitlines()]
    files = dict(zip(map(tuple, rows), rows[1:], strict=False))
    assert files["tiny", "images", "none,", "or", "a", "file"] == ["plugins/net.py"]
    parts = ("squared", "channel", "uniform", "one_shot")
    assert files["squared_channel", *parts] == ["plugins/methods.py"]
    rewind = ("squared", "weight", "global", "one_shot,", "weights")
    assert files["squared_rewind", *rewind] == ["plugins/methods.py"]
    assert rows[-1] == ["set()"]
