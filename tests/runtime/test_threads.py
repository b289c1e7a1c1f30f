"""The number of threads that compute: as many as asked for, or a line."""

import json
import os
import subprocess
import sys

import pytest

SHOW = """
import json, sys
import torch
from prunelab.core.errors import InputError
from prunelab.runtime import threads

try:
    threads.set_threads(int(sys.argv[1]))
except InputError as error:
    print(json.dumps(error.problems))
    sys.exit()
openmp = threads._openmp()
if openmp is None:
    print(json.dumps(None))
else:
    print(json.dumps([torch.get_num_threads(), openmp.omp_get_dynamic()]))
"""


def shown(count: int, **variables: str) -> list:
    """The threads of a process and whether OpenMP may take fewer, or why it is refused."""
    paths = os.pathsep.join(path for path in sys.path if path)
    output = subprocess.check_output(
        [sys.executable, "-c", SHOW, str(count)],
        env=os.environ | {"PYTHONPATH": paths} | variables,
        text=True,
    )
    answer = json.loads(output)
    if answer is None:
        pytest.skip("torch's OpenMP cannot be asked here")
    return answer


def test_more_threads_than_cores_compute_even_on_a_busy_machine():
    assert shown(3, OMP_NUM_THREADS="1", OMP_DYNAMIC="true") == [3, 0]


def test_a_limit_of_openmp_is_refused_if_it_is_lower():
    assert shown(2, OMP_THREAD_LIMIT="2") == [2, 0]
    (refusal,) = shown(2, OMP_THREAD_LIMIT="1")
    assert "OMP_THREAD_LIMIT allows 1" in refusal
    assert "set runtime.threads to 1" in refusal
