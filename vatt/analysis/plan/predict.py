"""A whole plan: memory of a GPU, its communication, time of a step and of the run."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from vatt.analysis.memory import Activations, activation_bytes, traffic_bytes
from vatt.analysis.plan.communication import Collective, loss_collectives, state_collectives
from vatt.analysis.plan.compute import Speed, speed
from vatt.analysis.plan.data import Supply, supply
from vatt.analysis.plan.request import ASSUMED, CONFIGURATION, Assumption, Request
from vatt.analysis.plan.zero import Buckets, States, effective_stage, state_bytes, weights
from vatt.models.config import VATTConfig
from vatt.presets import preset

GIB = 2**30
DAY = 86_400
MAX_LOCAL_BATCH = 1 << 16  # samples a GPU, where the search for the largest batch ends


@dataclass(frozen=True)
class Plan:
    """What `predict` found; bytes of one GPU, times in seconds.

    ``memory``: by part, in the backward pass; ``update``: while the optimizer runs, without activations;
    ``largest_batch``: samples a GPU that fit, 0 if none do; ``traffic``: bytes that both passes read and write at least
    (see `vatt.analysis.memory.traffic_bytes`); ``collectives``: with the seconds of each.
    """

    request: Request
    memory: dict[str, int]
    update: int
    largest_batch: int
    traffic: int
    collectives: list[tuple[Collective, float]]
    speed: Speed
    supply: Supply
    assumptions: list[Assumption]

    @property
    def needed(self) -> int:
        """Bytes at the peak of a step."""
        return max(sum(self.memory.values()), self.update)

    @property
    def fits(self) -> bool:
        """Whether the memory of a GPU is enough."""
        return self.needed <= self.request.memory_gib * GIB

    @property
    def communication(self) -> float:
        """Seconds of a step that all collectives take."""
        return sum(seconds for _, seconds in self.collectives)

    @property
    def gpus_alone(self) -> dict[str, float]:
        """Seconds of a step whose clips are always there: if nothing is sent while the GPU computes, and if all that
        can overlap does."""
        compute, sent = self.speed.seconds, self.communication
        return {"no overlap": compute + sent, "full overlap": max(compute, sent)}

    @property
    def loading(self) -> dict[str, float]:
        """Seconds in which decoding and storage give the clips of a step, where that is known. They work ahead."""
        return self.supply.seconds(self.request.batch)

    @property
    def step(self) -> dict[str, float]:
        """Seconds of a step, by the overlap as in `gpus_alone`."""
        loading = max(self.loading.values(), default=0.0)
        return {name: max(seconds, loading) for name, seconds in self.gpus_alone.items()}

    @property
    def bottleneck(self) -> dict[str, str]:
        """What the step waits for: computation, communication, decoding or storage, by the overlap."""
        found, loading = {}, self.loading
        for name, alone in self.gpus_alone.items():
            slow = {"computation": self.speed.seconds, "communication": self.communication}
            if max(loading.values(), default=0.0) > alone:
                slow = loading
            found[name] = max(zip(slow.values(), slow, strict=True))[1]
        return found

    @property
    def cores_needed(self) -> dict[str, float] | None:
        """Cores of a GPU that decode as fast as it takes clips; None where their speed is not known."""
        if self.supply.per_core is None:
            return None
        each = self.request.local_batch / self.supply.per_core
        return {name: each / seconds for name, seconds in self.gpus_alone.items()}

    @property
    def storage_needed(self) -> dict[str, float] | None:
        """Bytes per second that a node must read for that; None where the bytes of a clip are not known."""
        if self.supply.clip_bytes is None:
            return None
        each = self.request.local_batch * self.request.per_node * self.supply.clip_bytes
        return {name: each / seconds for name, seconds in self.gpus_alone.items()}

    @property
    def share(self) -> dict[str, float]:
        """Share of the step in which the GPU waits for other GPUs."""
        return {name: (alone - self.speed.seconds) / self.step[name] for name, alone in self.gpus_alone.items()}

    @property
    def waiting(self) -> dict[str, float]:
        """Share of the step in which the GPU waits for clips."""
        return {name: 1 - alone / self.step[name] for name, alone in self.gpus_alone.items()}

    @property
    def days(self) -> dict[str, float]:
        """Days of the whole run, by the overlap as in `step`."""
        return {name: self.request.steps * seconds / DAY for name, seconds in self.step.items()}


def predict(request: Request) -> Plan:
    """The plan of a checked request.

    Raises:
        ConfigError: an unknown model. ValueError: an unknown GPU or stage. ResultsError: unreadable results.
        ShardError: shards without an index.
    """
    config, links = preset(request.model), request.links()
    parts = request.contrastive_parts
    states = state_bytes(config, request.zero, request.gpus, request.type, parts=parts)
    count = weights(config)
    collectives = state_collectives(count, request.zero, request.type, Buckets(), parts)
    collectives += loss_collectives(config, request.local_batch, request.gpus)
    computed, fed = speed(request, config), supply(request, config)
    one = replace(request, batch=request.batch // parts, contrastive_parts=1)
    return Plan(
        request,
        memory(request, config, states),
        update_bytes(request, states),
        largest_batch(request, config, states),
        parts * traffic_bytes(_activations(one, config), request.type, sum(count.trained)),
        [(collective, collective.seconds(links)) for collective in collectives],
        computed,
        fed,
        [*computed.assumptions, *fed.assumptions, *_assumptions(request)],
    )


def memory(request: Request, config: VATTConfig, states: States) -> dict[str, int]:
    """Bytes of one GPU in the backward pass, by part. Their sum is an upper bound: as if all were full at once."""
    kept = _activations(request, config)
    return {
        "parameters": states.parameters,
        "fp32 weights": states.master,
        "Adam's moments": states.moments,
        "gradients": states.gradients,
        "gathered parameters": states.gathered,
        "gradient bucket": states.buckets,
        "its copy, reduced": states.copies,
        "batch and the next one": 2 * request.part * sample_bytes(config),  # copied while this one is computed
        "activations": sum(kept.samples.values()) + kept.constant,
        "recomputed layer": kept.recomputed,
        "embeddings of all GPUs": kept.gathered,
        "similarities": kept.pairs,
        "features of all parts": kept.features,
        "reserve": round(request.reserve_gib * GIB),
    }


def _activations(request: Request, config: VATTConfig) -> Activations:
    options: dict[str, Any] = dict(checkpointing=request.checkpointing, backend=request.kernels, ranks=request.gpus)
    options["parts"] = request.contrastive_parts
    return activation_bytes(config, request.type, request.local_batch, **options)  # type: ignore[arg-type]


def update_bytes(request: Request, states: States) -> int:
    """Bytes of one GPU while the optimizer runs."""
    return states.updating + round(request.reserve_gib * GIB)


def sample_bytes(config: VATTConfig) -> int:
    """Bytes of a clip as the engine gets it: uint8 pixels, float32 sound, int64 words, two float32 masks."""
    spec = config.input
    return 3 * spec.frames * spec.size**2 + 4 * spec.samples + 8 * spec.candidates * spec.words + 8


def largest_batch(request: Request, config: VATTConfig, states: States) -> int:
    """The most samples a GPU that its memory holds, with as many GPUs and parts; found by bisection."""
    low, high = 0, MAX_LOCAL_BATCH // request.contrastive_parts

    def fits(samples: int) -> bool:
        asked = replace(request, batch=samples * request.contrastive_parts * request.gpus)
        needed = max(sum(memory(asked, config, states).values()), update_bytes(asked, states))
        return needed <= request.memory_gib * GIB

    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low * request.contrastive_parts


def fewest_parts(request: Request) -> int | None:
    """The fewest parts in which the memory of a GPU holds the batch; None where not even single samples fit, and for
    convolutional networks, whose batch norms must see the whole batch."""
    config = preset(request.model)
    if config.backbone == "convolutional":
        return None
    for parts in range(1, request.local_batch + 1):
        if request.local_batch % parts == 0:
            asked = replace(request, contrastive_parts=parts)
            states = state_bytes(config, request.zero, request.gpus, request.type, parts=parts)
            needed = max(sum(memory(asked, config, states).values()), update_bytes(asked, states))
            if needed <= request.memory_gib * GIB:
                return parts
    return None


def _assumptions(request: Request) -> list[Assumption]:
    stage = effective_stage(request.zero, request.type, request.contrastive_parts)
    buckets = Buckets()
    given = request.assumption
    found = [
        given("gpu", "GPU", request.gpu),
        given("memory_gib", "memory of a GPU", f"{request.memory_gib:g} GiB"),
        given("reserve_gib", "CUDA context, gaps, temporaries", f"{request.reserve_gib:g} GiB"),
        given("intra_gbps", "within a node", f"{request.intra_gbps:g} GB/s a GPU, one direction"),
        given("inter_gbps", "between nodes", f"{request.inter_gbps:g} GB/s a GPU, one direction"),
        given("gpus_per_node", "GPUs of a node", str(request.per_node)),
        given("latency_us", "start of a collective", f"{request.latency_us:g} us"),
        given("steps", "steps", f"{request.steps:,}", CONFIGURATION),
        given("dtype", "type", request.dtype),
        given("kernels", "kernels", f"{request.kernels}; what they save was checked without a GPU"),
        Assumption("bucket of gradients", f"{buckets.reduce_bucket_size:,} elements", "DeepSpeed's default"),
        Assumption("links", "a rate is reached in full, levels one after the other", ASSUMED),
        Assumption("not counted", "evaluation, checkpoints, a slow rank", ASSUMED),
    ]
    in_parts = " with parts" if request.contrastive_parts > 1 else ""
    if stage != request.zero:
        runs = f"stage {request.zero} in bf16{in_parts} runs as stage {stage}"
        found.append(Assumption("ZeRO", runs, "train/core/engine.py"))
    return found
