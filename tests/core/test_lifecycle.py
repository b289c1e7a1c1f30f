"""The process of a stage: when it collects garbage."""

import json
import os
import subprocess
import sys

from helpers.params import PROJECT

SHOW_HELP = """
import atexit, gc, json, runpy, sys

sys.argv = sys.argv[1:]
atexit.register(lambda: print(json.dumps([gc.isenabled(), gc.get_freeze_count()])))
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


def collections_of(module: str) -> tuple[bool, int]:
    """Whether a module run as a command ends with collections on, and what they leave out."""
    process = subprocess.run(
        [sys.executable, "-c", SHOW_HELP, module, "--help"],
        env=os.environ | {"PYTHONPATH": str(PROJECT / "src")},
        capture_output=True,
        text=True,
        check=True,
    )
    enabled, frozen = json.loads(process.stdout.splitlines()[-1])
    return enabled, frozen


def test_a_stage_collects_garbage_but_not_among_its_imports():
    enabled, frozen = collections_of("prunelab.stages.prepare")

    assert enabled
    assert frozen > 10_000


def test_a_command_collects_garbage_among_everything():
    assert collections_of("prunelab") == (True, 0)
