"""What `tests.memory` says of the memory of a process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

# Six freed blocks below one that is held: a hole of 120 MB that malloc hands out again. In a process of its own, small
# and new. The first block is freed, so that glibc takes the next ones from the heap.
HOLE = """
import numpy as np
from tests.memory import Growth
np.ones(30 << 20, np.uint8)
blocks = [np.ones(20 << 20, np.uint8) for _ in range(6)]
held = np.ones(1 << 20, np.uint8)
del blocks
growth = Growth()
np.ones(50 << 20, np.uint8)
print(growth.megabytes())
"""


def test_memory_that_malloc_held_free_counts_when_it_is_taken():
    root = Path(__file__).parents[1]
    found = subprocess.run([sys.executable, "-c", HOLE], cwd=root, capture_output=True, text=True, check=True).stdout
    assert found.strip() == "None" or 45 < float(found) < 100
