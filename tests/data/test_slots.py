"""How many batches fit into memory, what is told of it, and what of control groups is read; memory that is pinned."""

from __future__ import annotations

import gc
import os
import weakref

import pytest
import torch

from tests.data.pools import LAYOUT, pool
from train.config.pretraining import sample_gpu
from vatt.data import DataConfig, Source, Tokenizer, TrainLoader, loader
from vatt.data.clips import Clip
from vatt.data.slots import NoRoom, Slots, fit_prefetch
from vatt.memory import free_memory

GB = 10**9


def system(root, meminfo=None, cgroup="", **files):
    """A file tree like that of a system; ``files``: content by path, "/" written as "__"."""
    (root / "proc/self").mkdir(parents=True)
    if meminfo is not None:
        (root / "proc/meminfo").write_text(f"MemTotal: 9999 kB\nMemAvailable: {meminfo} kB\n")
    (root / "proc/self/cgroup").write_text(cgroup)
    for name, content in files.items():
        path = root / "sys/fs/cgroup" / name.replace("__", "/").replace("_DOT_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


def test_what_is_free_is_what_the_machine_and_all_groups_allow(tmp_path):
    assert free_memory() > 0
    assert free_memory(tmp_path / "nothing") is None
    assert free_memory(system(tmp_path / "machine", 1000)) == 1000 * 1024
    two = {
        "a__memory_DOT_max": "max\n",
        "a__memory_DOT_current": "5\n",
        "a__b__memory_DOT_max": "700000\n",
        "a__b__memory_DOT_current": "600000\n",
        "a__b__memory_DOT_stat": "anon 5\ninactive_file 50000\n",
    }
    assert free_memory(system(tmp_path / "two", 1000, "0::/a/b/c\n", **two)) == 150_000
    mounted = {"memory_DOT_max": "300\n", "memory_DOT_current": "400\n"}  # as in a container; more is used than allowed
    assert free_memory(system(tmp_path / "container", 1000, "0::/host/path\n", **mounted)) == 0
    one = {
        "memory__job__memory_DOT_limit_in_bytes": "9000\n",
        "memory__job__memory_DOT_usage_in_bytes": "4000\n",
        "memory__job__memory_DOT_stat": "inactive_file 1\ntotal_inactive_file 1000\n",
        "memory__memory_DOT_limit_in_bytes": "9223372036854771712\n",
        "memory__memory_DOT_usage_in_bytes": "100000\n",
    }
    assert free_memory(system(tmp_path / "one", 1000, "4:cpu,memory:/job\n3:cpuset:/\n0::/\n", **one)) == 6000


def test_fewer_batches_are_kept_ready_where_memory_is_short():
    assert fit_prefetch(4, GB, 0, 1, None) == (4, "")
    assert fit_prefetch(4, GB, 0, 1, 7 * GB) == (4, "")
    fits, note = fit_prefetch(4, GB, 0, 1, 4 * GB)
    assert fits == 2
    assert note.startswith(
        "data.prefetch: 2 in place of 4, because 4 GB of memory are free, too little for 5 batches of 1"
    )
    assert fit_prefetch(4, GB, 0, 2, 8 * GB)[0] == 2  # two ranks share it
    assert fit_prefetch(4, GB, 12, 1, 7 * GB)[0] == 2  # the processes need some themselves
    with pytest.raises(NoRoom) as told:
        fit_prefetch(4, 11 * GB, 8, 2, 21 * GB)
    assert "\n" not in str(told.value)
    for words in ("11 GB", "8 reading processes", "21 GB of memory are free for 2 ranks", "run.batch_size", "--memory"):
        assert words in str(told.value)


def made(config, recipe, **options):
    source = Source("none", [Clip("a.mp4")])
    read = recipe.model.input
    return TrainLoader([source], Tokenizer.train(["a word"]), read, config, batch_size=recipe.run.batch_size, **options)


def test_parts_are_counted_where_a_batch_comes_in_parts():
    assert fit_prefetch(4, GB, 0, 1, 40 * GB, parts=8) == (4, "")
    kept, note = fit_prefetch(4, GB, 0, 1, int(12.6 * GB), parts=8)
    assert kept == 2  # 80% of it hold 10
    assert note.endswith("too little for 12 parts of a batch of 1 GB on each rank")
    with pytest.raises(NoRoom, match="9 parts of a batch of 1 GB and 0 reading processes do not fit"):
        fit_prefetch(4, GB, 0, 1, 10 * GB, parts=8)


@pytest.mark.parametrize("augment_on", ["cpu", "gpu"])
def test_the_recipe_of_a_machine_with_a_gpu_and_16_cores_needs_less_than_4_gb(monkeypatch, augment_on):
    monkeypatch.setattr(loader, "free_memory", lambda: 64 * GB)
    monkeypatch.setattr("os.cpu_count", lambda: 16)
    recipe = sample_gpu()
    assert (recipe.data.workers, recipe.run.batch_size, recipe.data.prefetch) == (12, 64, 4)
    found = made(recipe.data, recipe, augment_on=augment_on)
    assert found.notes == []
    assert found.memory == pytest.approx({"cpu": 3.349e9, "gpu": 3.658e9}[augment_on], rel=1e-3)
    assert found.memory < 4e9


def test_a_run_that_does_not_fit_is_refused_or_holds_less(monkeypatch):
    recipe = sample_gpu()
    recipe.data.workers = 2
    monkeypatch.setattr(loader, "free_memory", lambda: 1_800_000_000)
    found = made(recipe.data, recipe)
    assert found.prefetch == 2
    assert found.notes[0].startswith("data.prefetch: 2 in place of 4")
    assert found.memory < 1.8e9
    with pytest.raises(NoRoom, match=r"1\.8 GB of memory are free for 3 ranks.*run\.batch_size"):
        made(recipe.data, recipe, node_ranks=3)
    assert made(DataConfig(workers=0), recipe, node_ranks=3).memory == pytest.approx(0.3477e9, rel=1e-3)


class Runtime:
    """Stands in for the CUDA runtime of PyTorch."""

    def __init__(self, code):
        self.code, self.calls = code, []

    def cudaHostRegister(self, address, size, flags):
        self.calls.append(("register", address, size))
        return self.code

    def cudaHostUnregister(self, address):
        self.calls.append(("unregister", address))


def test_memory_is_pinned_until_nobody_holds_it(monkeypatch):
    runtime = Runtime(0)
    monkeypatch.setattr(torch.cuda, "cudart", lambda: runtime)
    slots = Slots(LAYOUT, 2, 3, 10)
    slots.pin()
    (call,) = runtime.calls
    assert call[2] >= 3 * 2 * (1 << 16)
    slots.free.popleft()
    batch = slots.hand_out(0, 2)
    assert call[1] < batch["large"].data_ptr() < call[1] + call[2]
    slots.close()
    assert len(runtime.calls) == 1
    del batch
    assert runtime.calls[1:] == [("unregister", call[1])]


def test_a_forked_process_asks_no_gpu_to_free_anything(monkeypatch):
    runtime = Runtime(0)
    monkeypatch.setattr(torch.cuda, "cudart", lambda: runtime)
    slots = Slots(LAYOUT, 2, 3, 10)
    slots.pin()
    slots.free.popleft()
    batch = slots.hand_out(0, 2)
    slots.close()
    process = os.fork()
    if process == 0:
        del batch
        os._exit(len(runtime.calls))
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 1
    del batch
    assert [call[0] for call in runtime.calls] == ["register", "unregister"]


def test_memory_that_is_mapped_anew_keeps_the_old_map():
    """To unmap it could unmap the new one, where the driver has kept it from forked processes."""
    slots = Slots(LAYOUT, 2, 3, 10)
    old = weakref.ref(slots._map)
    slots.attach()
    gc.collect()
    assert old() is not None
    assert old() is not slots._map


def test_memory_that_cannot_be_pinned_is_told(monkeypatch):
    monkeypatch.setattr(torch.cuda, "cudart", lambda: Runtime(801))
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)

    def reports(*size, device):
        assert device == "cuda"
        raise RuntimeError("CUDA error: operation not supported")  # that of the attempt, which is over

    monkeypatch.setattr(torch, "zeros", reports)
    made = pool()
    made.close()
    assert made.note == "the memory of the loader could not be pinned (CUDA error 801); batches are copied once more"
