"""Which files a module's digests cover, and which edits change a digest."""

from pathlib import Path

import pytest

from prunelab.core.source_code import code_digests, code_text

FILES = {
    "lab/__init__.py": "VERSION = 1\n",
    "lab/work/__init__.py": "",
    "lab/work/start.py": "import json\nfrom lab.work import tool\nfrom lab.tables import TABLE\n",
    "lab/work/tool.py": "def f():\n    from lab.late import late\n    return late\n",
    "lab/late.py": "import lab.settings.values\nlate = 1\n",
    "lab/tables.py": 'TABLE = {"a": "lab.named.build:a", "text": "lab and others: b"}\n',
    "lab/named/__init__.py": "",
    "lab/named/build.py": "a = 1\n",
    "lab/named/page.html": "<p>\n",
    "lab/settings/__init__.py": "",
    "lab/settings/values.py": "from lab.behind import b\n",
    "lab/behind.py": "b = 1\n",
    "lab/unused.py": "c = 1\n",
}


@pytest.fixture
def source(tmp_path) -> Path:
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def digests(source: Path) -> dict[str, str]:
    return code_digests(["lab.work.start"], {"lab": source}, {"lab.settings"})


def test_digests_cover_imports_at_any_depth_packages_references_and_data(source):
    assert list(digests(source)) == [
        "lab/late.py",
        "lab/named/__init__.py",
        "lab/named/build.py",
        "lab/named/page.html",
        "lab/tables.py",
        "lab/work/__init__.py",
        "lab/work/start.py",
        "lab/work/tool.py",
    ]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("lab/named/build.py", "a = 2\n"),
        ("lab/named/page.html", "<p>\n\n"),
        ("lab/work/__init__.py", "import os\n"),
        ("lab/work/start.py", FILES["lab/work/start.py"] + "import lab.unused\n"),
    ],
)
def test_an_edit_of_code_or_data_changes_a_digest(source, tmp_path, name, text):
    before = code_digests(["lab.work.start"], {"lab": source}, {"lab.settings"})
    edited = tmp_path / "edited"
    for file, old_text in FILES.items():
        (edited / file).parent.mkdir(parents=True, exist_ok=True)
        (edited / file).write_text(text if file == name else old_text)

    after = digests(edited)

    assert after[name] != before[name]
    assert {file for file in before if after[file] != before[file]} == {name}


CODE = '''"""Module."""

import os  # why


class A:
    """Class.

    More.
    """

    text = """
    # no comment

    last"""

    def f(self):
        r"""Function."""
        return f"{self}#"  # why not


def g(): "On the line of its def"
'''
BARE = '''import os
class A:
    text = """
    # no comment

    last"""
    def f(self):
        return f"{self}#"
def g(): "On the line of its def"'''


def test_comments_docstrings_and_blank_lines_do_not_count_and_strings_do():
    assert code_text(CODE) == BARE
    assert code_text(BARE) == BARE


@pytest.mark.parametrize(
    ("old", "new"), [("    # no", "    # yes"), ("\n\n    last", "\n    last")]
)
def test_what_strings_hold_counts_even_if_it_looks_like_a_comment(old, new):
    assert code_text(CODE.replace(old, new)) != BARE
