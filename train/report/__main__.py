"""``vatt report RUN_DIR``, ``python -m train.report RUN_DIR``: writes the page of a run again from the files there."""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[2])  # the checkout itself, in place of this folder

from train.report.page import main  # noqa: E402

sys.exit(main(sys.argv[1:]))
