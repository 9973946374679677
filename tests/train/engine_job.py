"""A few steps of very small models under the engine, on fixed batches: run by test_engine.py and
test_engine_finetuning.py, one process a rank.

Writes what each step said as JSON, and the state as safetensors; can begin from such a state.
"""

from __future__ import annotations

import functools
import json
import sys
import traceback
from contextlib import ExitStack, contextmanager
from pathlib import Path
from unittest import mock

import torch
from deepspeed.accelerator.cpu_accelerator import CPU_Accelerator
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from tests.memory import Growth
from tests.train.capture import Capture
from train.config.sections import EngineConfig, OptimConfig
from train.core import engine as engine_file
from train.core.engine import Engine
from train.core.graphs import Graphed
from train.core.ranks import RankContext, gather, start_distributed, stop_distributed, wait_for_all
from vatt.clip import InputConfig
from vatt.config import from_dict, override
from vatt.models import Classifier
from vatt.models.config import ClassifierConfig, VATTConfig, VideoConfig
from vatt.objectives.finetuning import Finetuning, TargetConfig
from vatt.objectives.pretraining import Pretraining
from vatt.presets import preset
from vatt.weights.tensors import TensorFile, write_tensors

SMALL = {
    "video": ["d_model=16", "d_kv=8", "d_ff=32", "num_layers=1", "num_heads=2", "max_temporal_buckets=2"],
    "waveform": ["d_model=16", "d_kv=8", "d_ff=32", "num_layers=1", "num_heads=2", "max_temporal_buckets=8"],
    "text": ["d_model=16", "d_kv=8", "d_ff=32", "num_layers=1", "num_heads=2", "vocab_size=30", "d_embedding=12"],
    "unified": [
        *["d_model=16", "d_kv=8", "d_ff=32", "num_layers=1", "num_heads=2", "d_post_proj=16", "txt_vocab_size=30"],
        *["max_vid_temporal_buckets=2", "max_aud_temporal_buckets=8", "txt_embedding_dim=12"],
    ],
    "head": ["d_va=16", "d_vat=8"],
}
BATCH, CLASSES = 8, 3
RATE = 1e-3  # of pretraining
CLIP = 0.75  # of the classifier: the official norm; every gradient here is about ten times as long


def small_model(name: str) -> VATTConfig:
    config = override(preset(name), [f"{part}.{item}" for part, items in SMALL.items() for item in items])
    if name == "vatt-tiny":  # a frozen table, as in the large models: ZeRO 3 shards it, the optimizer has no part
        config.text.trainable_embeddings = False
    else:  # each clip drops patches of its own, by its place in the batch of all ranks and parts
        config.unified.random_patch_sampling = config.unified.sample_per_item = True
    return config


def small_pretraining(name: str = "vatt-tiny") -> Pretraining:
    """The same weights in every process."""
    torch.manual_seed(0)
    return Pretraining(small_model(name))


def small_classifier(frozen: bool = False, labels: str = "single") -> Finetuning:
    """The same weights in every process. No dropout: what is random is not alike on 1 and 2 ranks."""
    torch.manual_seed(0)
    video = VideoConfig(d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2, max_temporal_buckets=2)
    video.dropout_rate = video.position_dropout_rate = 0.0
    video.max_vertical_buckets = video.max_horizontal_buckets = 2
    video.random_patch_sampling = False
    config = ClassifierConfig("small", "video", InputConfig(8, size=32), video, num_classes=CLASSES, dropout=0.0)
    config.labels = labels
    module = Finetuning(Classifier.from_config(config), TargetConfig(smoothing=0.1 if labels == "single" else 0.0))
    module.model.backbone.requires_grad_(not frozen)
    return module


def batch_of(step: int, poison: bool) -> dict[str, torch.Tensor]:
    """Of pretraining. With ``poison`` the sound is not a number."""
    generator = torch.Generator().manual_seed(step)
    return {
        "video": torch.randint(0, 256, (BATCH, 8, 64, 64, 3), generator=generator, dtype=torch.uint8),
        "audio": torch.rand(BATCH, 4096, generator=generator) * (float("nan") if poison else 1.0),
        "text": torch.randint(1, 30, (BATCH, 2, 6), generator=generator),
        "audio_mask": torch.ones(BATCH),
        "text_mask": torch.ones(BATCH),
    }


def labelled_batch(step: int) -> dict[str, torch.Tensor]:
    """x uint8 (8, 8, 32, 32, 3) and target float32 (8, 3)."""
    generator = torch.Generator().manual_seed(step)
    x = torch.randint(0, 256, (BATCH, 8, 32, 32, 3), generator=generator, dtype=torch.uint8)
    return {"x": x, "target": torch.eye(CLASSES)[torch.randint(0, CLASSES, (BATCH,), generator=generator)]}


def tagged_batch(step: int) -> dict[str, torch.Tensor]:
    """As `labelled_batch`, with any number of labels a clip, and unlike numbers of them on two ranks."""
    batch = labelled_batch(step)
    batch["target"][: BATCH // 2, 0] = 1.0
    batch["target"][1, :] = 0.0
    return batch


class Wide(nn.Module):
    """Twelve layers of one MiB each."""

    collectives = False

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(512, 512, bias=False) for _ in range(12))

    def draw(self, batch: dict, seed: int, first: int) -> dict:
        return {}

    def prepare(self, batch: dict) -> dict:
        return batch

    def forward(self, batch: dict, seed: int) -> dict[str, torch.Tensor]:
        x = batch["target"].repeat(1, 200)[:, :512]
        for layer in self.layers:
            x = layer(x)
        return {"loss": x.square().mean()}


def rate(kind: str, step: int) -> float:
    """The rate of the classifier changes from step to step, for it is part of SGD's velocity."""
    return (0.01 if kind == "sgd" else 0.001) / (step + 1)


@contextmanager
def infinite_gradient(parameter: nn.Parameter):
    handle = parameter.register_hook(lambda gradient: gradient * float("inf"))
    yield
    handle.remove()


class HostReads(TorchDispatchMode):
    """Where the host reads a number of a tensor, or waits for the device: file and function of the caller. Operations
    may read on a CPU: test_no_waits.py looks at what they do on a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def note(self) -> None:
        callers = [x for x in traceback.extract_stack() if "/torch/" not in x.filename and x.filename != __file__]
        file, name = Path(callers[-1].filename), callers[-1].name
        collected = name == "destroy"  # the engine of an earlier job, at whatever time
        if not collected and "kernels" not in file.parts:
            self.found.append(f"{file.name} {name}")

    def note_wait(self, device_index: int | None = None) -> None:
        self.note()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.overloadpacket.__name__ in ("_local_scalar_dense", "nonzero", "masked_select"):
            self.note()
        return function(*args, **(kwargs or {}))


@contextmanager
def as_on_a_gpu():
    """Engines made inside have the optimizer of a GPU; the reads of their steps, as far as the CPU shows them, are
    collected. What the loop reads one step late (`Later`) is not among them."""
    reads = HostReads()
    with ExitStack() as stack:
        made = engine_file.make_optimizer
        stack.enter_context(mock.patch.object(engine_file, "make_optimizer", lambda *a, **b: made(*a[:2], True, **b)))
        stack.enter_context(mock.patch.object(CPU_Accelerator, "synchronize", reads.note_wait))
        yield reads


@contextmanager
def with_graphs():
    """Engines made inside have the graphs that no CPU has."""
    graphed = functools.partial(Graphed, capture=Capture())
    with (
        mock.patch.object(engine_file, "refusals", return_value=[]),
        mock.patch.object(engine_file, "Graphed", graphed),
    ):
        yield


def run(job: dict, context: RankContext) -> None:
    """Steps ``first`` to ``last`` of a job; on the last rank alone, ``poison`` spoils the input of that step and
    ``poison_gradient`` a gradient, that of a classifier's layer with ``spoil_head``."""
    kind, labelled = job.get("kind", "sgd"), job.get("model") in ("classifier", "tags", "wide")
    if job.get("model") == "wide":
        module, optim, spoilt = Wide(), OptimConfig(lr=RATE), None
    elif labelled:
        labels = "multi" if job["model"] == "tags" else "single"
        module = small_classifier(job.get("frozen", False), labels)
        optim = OptimConfig(kind=kind, lr=rate(kind, 0), clip_backbone=CLIP)
        backbone = module.model.backbone.encoder.layers[0].mlp.in_weight
        spoilt = module.model.classifier.weight if job.get("frozen") or job.get("spoil_head") else backbone
    else:
        module = small_pretraining(job.get("model", "vatt-tiny"))
        module.vatt.activation_checkpointing = job["engine"].get("activation_checkpointing", False)
        optim = OptimConfig(lr=RATE, clip_norm=job.get("clip", 0.0))
        spoilt = next(p for p in module.parameters() if p.requires_grad)
    rows = slice(context.rank * BATCH // context.ranks, (context.rank + 1) * BATCH // context.ranks)
    on_gpu = ExitStack()
    if job.get("graphs"):
        on_gpu.enter_context(with_graphs())
    reads = on_gpu.enter_context(as_on_a_gpu()) if job.get("as_on_gpu") else None
    engine = Engine(module, from_dict(EngineConfig, job["engine"]), optim, BATCH // context.ranks, context.device)
    if job.get("load"):
        engine.load(*(TensorFile(Path(f"{job['load']}.{name}")) for name in ("model", "optimizer")))
    log = []
    for step in range(job.get("first", 0), job.get("last", 4)):
        last = context.rank == context.ranks - 1
        if labelled:
            batch = tagged_batch(step) if job["model"] == "tags" else labelled_batch(step)
        else:
            batch = batch_of(step, last and step == job.get("poison"))
        with ExitStack() as stack:
            if last and step == job.get("poison_gradient"):
                stack.enter_context(infinite_gradient(spoilt))
            if reads:
                reads.found.clear()
                stack.enter_context(reads)
            own = {key: value[rows].chunk(engine.parts) for key, value in batch.items()}
            parts = ({key: chunks[number] for key, chunks in own.items()} for number in range(engine.parts))
            result = engine.train_step(parts, rate(kind, step) if labelled else optim.lr, step)
        log.append({"loss": result.losses["loss"], "applied": result.applied})
        log[-1] |= {"reads": list(reads.found)} if reads else {}
    growth = Growth()
    for name, tensors in {"model": engine.model_tensors(), "optimizer": engine.optimizer_tensors()}.items():
        if context.first:
            write_tensors(Path(job["out"]).with_name(f"{Path(job['out']).name}.{name}"), tensors)
        tensors.skip()
    grown = gather(growth.megabytes())
    if context.first:
        Path(job["out"]).write_text(json.dumps([{"growth": grown}] if job.get("model") == "wide" else log))
    engine.close()
    on_gpu.close()
    wait_for_all()


def main(jobs: list[dict]) -> None:
    """The jobs one after the other: starting the processes costs more than what they do."""
    torch.set_num_threads(1)
    context = start_distributed()
    for job in jobs:
        run(job, context)
    stop_distributed()


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
