"""``python -m train.report RUN_DIR`` writes the page of a run again from the files of its folder."""

import sys

from train.report.page import main

sys.exit(main(sys.argv[1:]))
