"""Freed memory is used again: seen by how often the system must provide fresh pages."""

import json
import subprocess
import sys

import pytest

SCRIPT = """
import json, resource, sys
from detseg.train.memory import keep_freed_memory
import torch
kept = keep_freed_memory() if sys.argv[1] == "keep" else None
def faults(times):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(times):
        torch.ones(16_000_000)  # 64 MB; settles after some rounds
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults(20)
print(json.dumps([kept, faults(5)]))
"""


def run(mode):
    child = subprocess.run([sys.executable, "-c", SCRIPT, mode], capture_output=True, text=True, check=True)
    return json.loads(child.stdout)


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems' allocators are left alone")
def test_freed_memory_is_used_again():
    kept, faults = run("keep")
    if not kept:
        pytest.skip("the C library has no mallopt")
    assert faults < run("as it is")[1] / 10
