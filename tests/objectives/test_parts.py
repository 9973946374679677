"""A step in parts against the step in one, in float64 on the CPU: losses, gradients, batch norms, dropout, patches."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from tests.train.engine_job import BATCH, batch_of, small_model
from tests.train.ranks import run_ranks
from vatt.kernels import registry
from vatt.objectives.parts import losses_in_parts, refusals
from vatt.objectives.pretraining import Pretraining

CLOSE = 1e-10  # relative to the largest gradient of a weight
CPU = torch.device("cpu")


def module_of(name="vatt-tiny", dropout=0.0, per_item=False, head="fac", checkpointing=False):
    config = small_model(name)
    for part in (config.video, config.waveform, config.text, config.unified):
        part.dropout_rate = part.position_dropout_rate = dropout
        part.sample_per_item = per_item
    config.head.kind = head
    if head == "joint":
        config.loss.aud_txt_weight = 1.0
    torch.manual_seed(0)
    module = Pretraining(config).double().train()
    module.vatt.activation_checkpointing = checkpointing
    return module


def batch(masked=True):
    """Sound is missing in some clips, text in others, if so wanted, of the first part and of the last one; a clip has
    two sentences."""
    found = batch_of(0, poison=False)
    if masked:
        found["audio_mask"][[1, -1]] = found["text_mask"][[0, 1, -2]] = 0
    return {name: x.double() if x.is_floating_point() else x for name, x in found.items()}


def step_in_parts(module, count, seed=3, given=None, first=0):
    """The losses of a step, with gradients and buffers in the module."""
    given = batch() if given is None else given
    size, taken = len(given["video"]) // count, []

    def part(number):
        own = {name: x[number * size : (number + 1) * size] for name, x in given.items()}
        return own | module.draw(own, seed, first + number * size)

    def backward(loss, last):
        taken.append(last)
        loss.backward()

    parts = (partial(part, number) for number in range(count))
    losses = losses_in_parts(parts, count, lambda x, how, cached: module(x, seed, how, cached), backward, CPU)
    assert taken == [False] * (count - 1) + [True]
    return losses


def state(module):
    gradients = {name: p.grad for name, p in module.named_parameters() if p.grad is not None}
    return gradients | {name: buffer.clone() for name, buffer in module.named_buffers()}


def assert_equal_steps(found, expected):
    for part, whole in zip(found, expected, strict=True):
        assert part.keys() == whole.keys()
        largest = max(x.abs().max() for x in whole.values())
        for name, x in whole.items():
            assert (part[name] - x).abs().max() <= CLOSE * largest, name


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"per_item": True},
        {"head": "joint"},
        {"name": "vatt-ma-tiny", "per_item": True},
        {"checkpointing": True},
    ],
    ids=str,
)
def test_parts_have_the_loss_and_the_gradient_of_the_whole(options):
    """With DropToken, masks and several sentences; batch norms move once, by the statistics of the whole batch."""
    module = module_of(**options)
    losses = module(batch(), 3)
    losses["loss"].backward()
    expected = {name: x.detach() for name, x in losses.items()}, state(module)
    assert any("running_mean" in name for name in expected[1])
    for count in (1, 2, 8):
        module = module_of(**options)
        assert_equal_steps((step_in_parts(module, count), state(module)), expected)


@pytest.mark.slow
def test_two_ranks_have_them_too(tmp_path):
    """One, two and four parts on two ranks: alike, also with masks; and without them as on one rank (with masks, each
    rank takes the mean over its own clips)."""
    run_ranks(2, "-m", "tests.objectives.parts_job", str(tmp_path / "found"))
    by_job = {}
    for name, x in load_file(tmp_path / "found").items():
        by_job.setdefault(name.partition("/")[0], {})[name.partition("/")[2]] = x
    assert len(by_job) == 6
    module = module_of(per_item=True)
    losses = step_in_parts(module, 1, given=batch(masked=False))
    whole = {name: x for name, x in (losses | state(module)).items() if not name.endswith("_cosine")}
    for name, found in by_job.items():
        one = by_job[f"{name.partition(' ')[0]} 1"]
        assert_equal_steps([found], [one])
        if name.startswith("False"):
            assert_equal_steps([{key: found[key] for key in whole}], [whole])


def in_one_graph(module, count, seed=3):
    """The same parts, drawing in the same order, in one graph."""
    given, size = batch(), BATCH // count
    found = []
    for number in range(count):
        own = {name: x[number * size : (number + 1) * size] for name, x in given.items()}
        found.append(module(own | module.draw(own, seed, number * size), seed, "features"))
    joined = {name: torch.cat([x[name] for x in found]) for name in found[0]}
    losses = module.losses({name: joined[name] for name in ("video", "audio", "text")}, joined)
    losses["loss"].backward()
    return {name: x.detach() for name, x in losses.items()}


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("count", [2, 4])
def test_dropout_is_that_of_the_same_parts_in_one_graph(count, checkpointing):
    """Also what is drawn after the step."""
    options = {"dropout": 0.3, "checkpointing": checkpointing}
    module = module_of(**options)
    torch.manual_seed(5)
    expected = in_one_graph(module, count), state(module)
    after = torch.rand(3)
    module = module_of(**options)
    torch.manual_seed(5)
    found = step_in_parts(module, count), state(module)
    assert_equal_steps(found, expected)
    assert torch.equal(torch.rand(3), after)
    module = module_of()
    assert not torch.allclose(step_in_parts(module, count)["loss"], expected[0]["loss"])  # dropout did something


def test_a_step_that_is_given_up_while_it_takes_its_parts_leaves_no_trace():
    module, given = module_of(dropout=0.3), batch()
    before, random = state(module), torch.get_rng_state()

    def parts():
        yield lambda: {name: x[:4] for name, x in given.items()}
        raise KeyboardInterrupt

    def call(x, how, cached):
        return module(x, 3, how, cached)

    with pytest.raises(KeyboardInterrupt):
        losses_in_parts(parts(), 2, call, lambda loss, last: loss.backward(), CPU)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(x, before[name]) for name, x in state(module).items())
    with pytest.raises(ValueError, match="a step of 3 parts: got 1"):
        losses_in_parts([lambda: given], 3, call, lambda loss, last: None, CPU)


def test_a_part_is_let_go_once_it_was_used_and_holds_one_row_of_features_until_then():
    module, given = module_of(), batch()
    held, most = [], []

    class Held:
        def __init__(self, number):
            self.number = number
            held.append(number)

        def __call__(self):
            own = {name: x[self.number * 2 : self.number * 2 + 2] for name, x in given.items()}
            return own | module.draw(own, 3, 2 * self.number)

        def __del__(self):
            held.remove(self.number)

    def backward(loss, last):
        loss.backward()
        most.append(sorted(held))

    losses_in_parts(
        (Held(number) for number in range(4)), 4, lambda x, how, cached: module(x, 3, how, cached), backward, CPU
    )
    assert most == [[0, 1, 2], [0, 1, 2], [1, 2], [2]]
    assert held == []


def test_both_passes_take_the_same_backends():
    """A backend may draw its dropout otherwise, and one that serves no gradient is another problem to be decided."""
    module, given = module_of(), batch()
    found = {}

    def calls(key):
        return lambda op, call: found.setdefault(key, []).append((op, call.facts))

    with registry.listening(calls("graph")):
        module(given, 3, "features")
    with torch.no_grad(), registry.as_with_gradient(), registry.listening(calls("none")):
        module(given, 3, "features")
    assert found["none"] == found["graph"] != []
    found.clear()
    with torch.no_grad(), registry.listening(calls("plain")):
        module(given, 3, "features")
    assert any(facts.get("gradient") is False for _, facts in found["plain"])
    with registry.listening(calls("step")):
        step_in_parts(module, 2)
    assert not any(facts.get("gradient") is False for _, facts in found["step"])


def test_a_batch_norm_in_front_of_the_heads_is_refused_by_name():
    module = module_of()
    assert refusals(module) == []
    module.vatt.video.encoder.layers[0].norm = nn.BatchNorm1d(4)
    assert refusals(module) == [
        "vatt.video.encoder.layers.0.norm is a batch norm in front of the heads, which would see one part at a time"
    ]
