"""Published annotation files of data sets to manifests. A set is a file here and a line in `ADAPTERS`.

``vatt data NAME --annotations FILE ... --videos DIR --out NAME.jsonl``; docs/datasets.md has a section for each.

Files that are not in the folder (deleted from the web, not downloaded) are counted and listed, not fatal.
"""

from vatt.data.datasets.adapted import Adapted, write_lines, write_manifest
from vatt.data.datasets.table import ADAPTERS, Adapter, Flag, adapt

__all__ = ["ADAPTERS", "Adapted", "Adapter", "Flag", "adapt", "write_lines", "write_manifest"]
