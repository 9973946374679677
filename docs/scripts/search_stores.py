"""Measures where an index may keep its vectors, and fills the table of docs/search.md.

``python docs/scripts/search_stores.py measure --out bench/results/search_stores.csv`` needs lancedb and qdrant-client
(``pip install lancedb qdrant-client``); ``python docs/scripts/search_stores.py table`` writes the table.

Each store is measured in a process of its own. Times are CPU seconds of all its threads, which a busy machine changes
less than it changes the time that passes. Memory is what the process has at the end, without files that are mapped.
"""

from __future__ import annotations

import argparse
import csv
import json
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
ROWS = ROOT / "bench" / "results" / "search_stores.csv"
PAGE = ROOT / "docs" / "search.md"
COUNTS, WIDTH, QUERIES, TOP = (10_000, 1_000_000), 256, 50, 10
FIELDS = [
    "store",
    "windows",
    "build_s",
    "disk_mb",
    "memory_mb",
    "open_s",
    "p50_ms",
    "p99_ms",
    "recall",
    "device",
    "versions",
]
MARK = "<!-- table: python docs/scripts/search_stores.py table -->"
Ask = Callable[[np.ndarray], Any]


def make_vectors(count: int, seed: int) -> np.ndarray:
    """Unit vectors in clusters, as embeddings lie: 2,000 centres, 40 directions of spread, and noise."""
    centres = np.random.default_rng(0).standard_normal((2000, WIDTH)).astype(np.float32)
    ways = np.random.default_rng(1).standard_normal((40, WIDTH)).astype(np.float32)
    rng = np.random.default_rng(seed)
    found = np.empty((count, WIDTH), np.float32)
    for first in range(0, count, 50_000):
        rows = min(50_000, count - first)
        x = (
            centres[rng.integers(0, len(centres), rows)]
            + 0.15 * rng.standard_normal((rows, 40)).astype(np.float32) @ ways
        )
        x += 0.1 * rng.standard_normal(x.shape).astype(np.float32)
        found[first : first + rows] = x / np.linalg.norm(x, axis=1, keepdims=True)
    return found


def exact(kind: Any) -> Callable[[np.ndarray, Path], tuple[Callable[[], Ask], Path]]:
    """A memory map of ``kind``, multiplied in float32 block by block."""
    sys.path.insert(0, str(ROOT))
    from vatt.search.exact import best_first, dot_products

    def build(x_ND: np.ndarray, folder: Path) -> tuple[Callable[[], Ask], Path]:
        path = folder / "x.npy"
        np.save(path, x_ND.astype(kind))
        allowed = np.ones(len(x_ND), bool)

        def connect() -> Ask:
            stored = np.load(path, mmap_mode="c")
            return lambda q: best_first(dot_products(stored, q), allowed, TOP)

        return connect, path

    return build


def exact_half(x_ND: np.ndarray, folder: Path) -> tuple[Callable[[], Ask], Path]:
    """A memory map of float16, multiplied by PyTorch in float16."""
    import torch

    path = folder / "x.npy"
    np.save(path, x_ND.astype(np.float16))

    def connect() -> Ask:
        stored = torch.from_numpy(np.load(path, mmap_mode="c"))
        return lambda q: (stored @ torch.from_numpy(q).half()).topk(TOP).indices.numpy()

    return connect, path


def lance(index: dict[str, Any] | None) -> Callable[[np.ndarray, Path], tuple[Callable[[], Ask], Path]]:
    """LanceDB: a table, with an index of these arguments or none."""

    def build(x_ND: np.ndarray, folder: Path) -> tuple[Callable[[], Ask], Path]:
        import lancedb
        import pyarrow as pa

        def batches() -> Any:
            for first in range(0, len(x_ND), 50_000):
                part = x_ND[first : first + 50_000]
                vectors = pa.FixedSizeListArray.from_arrays(pa.array(part.ravel()), WIDTH)
                yield pa.record_batch([pa.array(np.arange(first, first + len(part))), vectors], schema=schema)

        schema = pa.schema([("id", pa.int64()), ("vector", pa.list_(pa.float32(), WIDTH))])
        table = lancedb.connect(str(folder)).create_table("x", pa.RecordBatchReader.from_batches(schema, batches()))
        if index:
            table.create_index(metric="cosine", **index)

        def connect() -> Ask:
            opened = lancedb.connect(str(folder)).open_table("x")

            def ask(q: np.ndarray) -> Any:
                asked = opened.search(q).distance_type("cosine").select(["id"]).limit(TOP)
                asked = asked.nprobes(20).refine_factor(10) if index else asked
                return asked.to_arrow()["id"].to_numpy()

            return ask

        return connect, folder

    return build


def lance_copy(x_ND: np.ndarray, folder: Path) -> tuple[Callable[[], Ask], Path]:
    """LanceDB as ``vatt index --store`` has it: candidates, which are compared with a memory map."""
    sys.path.insert(0, str(ROOT))
    import lancedb
    import pyarrow as pa

    from vatt.search.candidates import LEAST
    from vatt.search.exact import best_first, dot_products
    from vatt.search.lance import make_partitions, probes

    path = folder / "x.npy"
    np.save(path, x_ND.astype(np.float16))
    schema = pa.schema([("id", pa.int64()), ("vector", pa.list_(pa.float16(), WIDTH))])

    def batches() -> Any:
        for first in range(0, len(x_ND), 50_000):
            part = x_ND[first : first + 50_000].astype(np.float16)
            vectors = pa.FixedSizeListArray.from_arrays(pa.array(part.ravel()), WIDTH)
            yield pa.record_batch([pa.array(np.arange(first, first + len(part))), vectors], schema=schema)

    table = lancedb.connect(str(folder)).create_table("x", pa.RecordBatchReader.from_batches(schema, batches()))
    make_partitions(table, WIDTH)

    def connect() -> Ask:
        opened, stored = lancedb.connect(str(folder)).open_table("x"), np.load(path, mmap_mode="c")

        def ask(q: np.ndarray) -> Any:
            asked = opened.search(q).distance_type("cosine").nprobes(probes(len(x_ND)))
            asked = asked.select(["id", "_distance"]).limit(LEAST)
            ids = np.sort(asked.to_arrow()["id"].to_numpy())
            return ids[best_first(dot_products(stored[ids], q), np.ones(len(ids), bool), TOP)]

        return ask

    return connect, folder


def qdrant(x_ND: np.ndarray, folder: Path) -> tuple[Callable[[], Ask], Path]:
    """The local mode of qdrant-client."""
    from qdrant_client import QdrantClient, models

    client = QdrantClient(path=str(folder / "q"))
    client.create_collection("x", vectors_config=models.VectorParams(size=WIDTH, distance=models.Distance.COSINE))
    for first in range(0, len(x_ND), 1000):
        part = x_ND[first : first + 1000]
        client.upsert("x", models.Batch(ids=list(range(first, first + len(part))), vectors=part.tolist()))
    client.close()

    def connect() -> Ask:
        opened = QdrantClient(path=str(folder / "q"))
        return lambda q: np.array([point.id for point in opened.query_points("x", query=q.tolist(), limit=TOP).points])

    return connect, folder


STORES: dict[str, Callable[[np.ndarray, Path], tuple[Callable[[], Ask], Path]]] = {
    "exact, float16 map (the default)": exact(np.float16),
    "exact, float32 map": exact(np.float32),
    "exact, float16 map multiplied in float16": exact_half,
    "LanceDB, no index (exact)": lance(None),
    "LanceDB, IVF_PQ, 20 probes, refined 10": lance({"index_type": "IVF_PQ"}),
    "LanceDB, IVF_HNSW_SQ, 20 probes, refined 10": lance({"index_type": "IVF_HNSW_SQ"}),
    "LanceDB as --store has it": lance_copy,
    "qdrant-client, local mode": qdrant,
}


def measure_one(name: str, count: int, folder: Path) -> dict[str, Any]:
    """One store, in this process."""
    x_ND, queries = np.load(folder / f"{count}.npy", mmap_mode="r"), np.load(folder / "queries.npy")
    right = np.load(folder / f"{count}.right.npy")
    with TemporaryDirectory(dir=folder) as own:
        return _measured(name, x_ND, queries, right, Path(own))


def _measured(name: str, x_ND: np.ndarray, queries: np.ndarray, right: np.ndarray, folder: Path) -> dict[str, Any]:
    begun = time.process_time()
    connect, where = STORES[name](x_ND, folder)
    built = time.process_time() - begun
    begun = time.process_time()
    ask = connect()
    ask(queries[0])
    opened = time.process_time() - begun
    times, hits = [], 0
    for query, wanted in zip(queries, right, strict=True):
        begun = time.process_time()
        found = ask(query)
        times.append(1000 * (time.process_time() - begun))
        hits += len(set(np.asarray(found).tolist()) & set(wanted.tolist()))
    files = [where] if where.is_file() else [path for path in where.rglob("*") if path.suffix != ".npy"]
    status = {
        line.split(":")[0]: line.split()[1]
        for line in Path("/proc/self/status").read_text().splitlines()
        if "kB" in line
    }
    return {
        "store": name,
        "windows": len(x_ND),
        "build_s": round(built, 2),
        "disk_mb": round(sum(path.stat().st_size for path in files if path.is_file()) / 1e6),
        "memory_mb": round(int(status["RssAnon"]) / 1e3),
        "open_s": round(opened, 3),
        "p50_ms": round(float(np.percentile(times, 50)), 2),
        "p99_ms": round(float(np.percentile(times, 99)), 2),
        "recall": round(hits / right.size, 4),
    }


def measure(out: Path, most: float, counts: list[int], only: str) -> None:
    """Every store in a process of its own, for at most ``most`` seconds."""
    cpus = Path("/proc/cpuinfo").read_text().splitlines()
    device = next((line.split(":")[1].strip() for line in cpus if "model name" in line), "")
    names = ("numpy", "torch", "lancedb", "pyarrow", "qdrant-client")
    versions = ", ".join(f"{name} {version(name)}" for name in names) + f", Python {platform.python_version()}"
    rows = list(csv.DictReader(out.open())) if out.is_file() else []
    for count in counts:
        with TemporaryDirectory() as scratch:
            _make(count, Path(scratch))
            for name in STORES:
                if only in name and not any(row["store"] == name and int(row["windows"]) == count for row in rows):
                    row = _isolated(name, count, Path(scratch), most)
                    rows.append({**row, "device": f"{device}, 1 thread of PyTorch", "versions": versions})
                    with out.open("w", newline="") as file:
                        writer = csv.DictWriter(file, FIELDS)
                        writer.writeheader()
                        writer.writerows(rows)
                    print(row, flush=True)


def _make(count: int, folder: Path) -> None:
    """Vectors, queries, and what exact search in float32 finds."""
    x_ND, queries = make_vectors(count, 2), make_vectors(QUERIES, 3)
    np.save(folder / f"{count}.npy", x_ND)
    np.save(folder / "queries.npy", queries)
    right = [np.argsort(-(x_ND @ query), kind="stable")[:TOP] for query in queries]
    np.save(folder / f"{count}.right.npy", np.stack(right))


def _isolated(name: str, count: int, folder: Path, most: float) -> dict[str, Any]:
    """One store, in a process that ends after ``most`` seconds; a row that says so if it has not come to its end."""
    command = [sys.executable, __file__, "one", name, str(count), str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=most)
    except subprocess.TimeoutExpired:
        return {"store": name, "windows": count, "build_s": f"given up after {most:g} s"}
    if done.returncode:
        print(done.stderr[-2000:], file=sys.stderr)
        return {"store": name, "windows": count, "build_s": "failed"}
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def table(rows: list[dict[str, str]]) -> str:
    """The rows in Markdown."""
    head = ["store", "windows", "build, CPU s", "disk, MB", "memory, MB", "p50, CPU ms", "p99, CPU ms", "recall at 10"]
    names = ["store", "windows", "build_s", "disk_mb", "memory_mb", "p50_ms", "p99_ms", "recall"]
    lines = [head, ["---"] + ["---:"] * (len(head) - 1)]
    for row in sorted(rows, key=lambda row: (int(row["windows"]), list(STORES).index(row["store"]))):
        lines.append([f"{int(row[name]):,}" if name == "windows" else row[name] or "-" for name in names])
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def filled(page: str, rows: list[dict[str, str]]) -> str:
    """The page with the table put at its mark."""
    before, mark, rest = page.partition(f"{MARK}\n")
    after = rest.partition("<!-- end -->")[2]
    return f"{before}{mark}{table(rows)}\n<!-- end -->{after}" if mark else page


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("measure", "table", "one"))
    parser.add_argument("rest", nargs="*")
    parser.add_argument("--out", type=Path, default=ROWS)
    parser.add_argument("--most", type=float, default=3600.0, help="seconds for a store (%(default)s)")
    parser.add_argument("--counts", type=int, nargs="+", default=list(COUNTS))
    parser.add_argument("--only", default="", help="stores with these letters in their name")
    options = parser.parse_args()
    if options.what == "one":
        name, count, folder = options.rest
        print(json.dumps(measure_one(name, int(count), Path(folder))))
    elif options.what == "measure":
        measure(options.out, options.most, options.counts, options.only)
    else:
        with ROWS.open(newline="", encoding="utf-8") as file:
            PAGE.write_text(filled(PAGE.read_text(encoding="utf-8"), list(csv.DictReader(file))), encoding="utf-8")


if __name__ == "__main__":
    main()
