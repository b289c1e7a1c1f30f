"""dvc.lock as text: which cut-off files DVC still reads."""

from dvc.schema import COMPILED_LOCKFILE_SCHEMA
from dvc.utils.serialize import parse_yaml
from helpers.params import PROJECT

from prunelab.project.dvc_lock import HEADER, ends_whole, split_entries


def entries_of_this_project() -> list[str]:
    entries = split_entries((PROJECT / "dvc.lock").read_text())
    assert entries
    return list(entries.values())


def test_the_lock_of_this_project_ends_whole():
    assert ends_whole((PROJECT / "dvc.lock").read_text())


def test_a_file_that_ends_whole_is_one_that_dvc_reads():
    longest = max(entries_of_this_project(), key=len)
    text = HEADER + longest
    whole = [length for length in range(len(text) + 1) if ends_whole(text[:length])]

    for length in whole:
        COMPILED_LOCKFILE_SCHEMA(parse_yaml(text[:length], "dvc.lock"))
    assert len(whole) > 10
    assert len(text) in whole


def test_a_file_that_ends_within_a_line_or_in_parameters_is_not_known_to_be_whole():
    (entry, *_) = [entry for entry in entries_of_this_project() if "    params:\n" in entry]
    text = HEADER + entry

    assert not ends_whole(text[:-1])
    assert not ends_whole(text[: text.index("      params.yaml:\n") + len("      params.yaml:\n")])
    assert not ends_whole(HEADER)
    assert not ends_whole("")
