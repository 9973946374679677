"""Search: an index of windows over whole films and sounds, and moments found by words, sounds, films and pictures.

``vatt index`` makes an index (`vatt.search.job`), ``vatt search`` asks it. In Python::

    index = Index.open("INDEX")
    for hit in index.search(index.encoder.words("a red circle spins"), top=5):
        print(hit.score, hit.window.file.path, hit.start_s, hit.end_s)
"""

from vatt.search.encoder import Encoder, Query
from vatt.search.format import SearchError
from vatt.search.index import Filter, Index
from vatt.search.job import IndexJob, IndexResult, build_index
from vatt.search.ranking import Hit, IndexedFile, Window

__all__ = [
    "Encoder",
    "Filter",
    "Hit",
    "Index",
    "IndexJob",
    "IndexResult",
    "IndexedFile",
    "Query",
    "SearchError",
    "Window",
    "build_index",
]
