"""The optimizers of a run, on one rank: the official numbers, what is clipped, and what is left alone."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from torch import nn

from tests.golden.golden import assert_close, load
from train.config.sections import OptimConfig
from train.core.optimizers import make_optimizer
from train.core.transfer import Later
from vatt.optim import cosine


@pytest.fixture(autouse=True)
def alone(tmp_path):
    """A group of one process: the optimizers ask all ranks whether gradients are finite."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def module_of(backbone, classifier=(1.0, 2.0)):
    module = nn.Module()
    module.backbone, module.classifier = nn.Module(), nn.Module()
    module.backbone.weight = nn.Parameter(torch.as_tensor(backbone).clone())
    module.classifier.weight = nn.Parameter(torch.as_tensor(classifier))
    return module


@pytest.mark.parametrize("name", ["adam", "sgd_momentum", "sgd_momentum_clip"])
def test_official_numbers(name):
    """optimizers.npz; the classification layer has a large gradient of its own, which must not count for the clip."""
    golden = load("optimizers")
    settings, schedule = golden.config["optimizers"][name], golden.config["schedule"]
    module = module_of(golden.inputs["w0"])
    optim = OptimConfig(kind=settings["kind"], clip_backbone=settings.get("clip", 0.0))
    optimizer = make_optimizer(module, optim, on_gpu=False)
    for step, gradient in enumerate(golden.inputs["grads"]):
        module.backbone.weight.grad = torch.from_numpy(gradient.copy())
        module.classifier.weight.grad = torch.tensor([30.0, -40.0])
        for group in optimizer.param_groups:
            group["lr"] = cosine(
                step,
                base=schedule["init_learning_rate"],
                total_steps=schedule["total_steps"],
                warmup_steps=schedule["warmup_steps"],
                warmup_rate=schedule["warmup_learning_rate"],
            )
        optimizer.step()
        assert_close(module.backbone.weight, golden.outputs[name][step], name=f"{name} step {step}")
    assert optimizer.steps_done() == optimizer.updates == len(golden.inputs["grads"])


@pytest.mark.parametrize(("gradient", "moved"), [([3.0, 4.0], [0.45, 0.6]), ([0.3, 0.4], [0.3, 0.4])])
def test_only_a_long_gradient_of_the_backbone_is_clipped(gradient, moved):
    module = module_of([0.0, 0.0], [0.0, 0.0])
    optimizer = make_optimizer(module, OptimConfig(kind="sgd", lr=1.0, clip_backbone=0.75), on_gpu=False)
    module.backbone.weight.grad = torch.tensor(gradient)
    module.classifier.weight.grad = torch.tensor([30.0, 40.0])
    optimizer.step()
    torch.testing.assert_close(module.backbone.weight.detach(), -torch.tensor(moved))
    assert module.classifier.weight.tolist() == [-30.0, -40.0]


def test_a_gradient_that_two_tables_share_is_scaled_once():
    """Autograd gives position tables of one row each one and the same tensor."""
    module = module_of([0.0], [0.0])
    module.backbone.other = nn.Parameter(torch.zeros(1))
    optimizer = make_optimizer(module, OptimConfig(kind="sgd", lr=1.0, clip_backbone=1.0), on_gpu=False)
    module.backbone.weight.grad = module.backbone.other.grad = torch.tensor([2.0])
    optimizer.step()
    expected = -(0.5**0.5)
    assert [module.backbone.weight.item(), module.backbone.other.item()] == pytest.approx([expected, expected])


@pytest.mark.parametrize("kind", ["adam", "sgd"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_one_bad_gradient_leaves_everything(kind, bad):
    module = module_of([1.0, 2.0])
    optimizer = make_optimizer(module, OptimConfig(kind=kind, lr=1.0, clip_backbone=0.75), on_gpu=False)
    module.backbone.weight.grad = torch.tensor([bad, 1.0])
    module.classifier.weight.grad = torch.tensor([1.0, 1.0])
    optimizer.step()
    assert [p.tolist() for p in module.parameters()] == [[1.0, 2.0], [1.0, 2.0]]
    assert (optimizer.updates, len(optimizer.state)) == (0, 0)


def stepped(kind, deferred, spoil, **options):
    """Five steps, some of them with a gradient that is not finite; deferred as on a GPU, where only the device knows
    which. Weights, states and counts after each step."""
    torch.manual_seed(0)
    module = module_of(torch.randn(3), [1.0, 2.0])
    settings = {"lr": 0.1, "epsilon": 0.1, "beta2": 0.9, **options}  # so large that the count of updates shows
    optimizer = make_optimizer(module, OptimConfig(kind=kind, **settings), on_gpu=deferred)
    assert optimizer.deferred == deferred
    log = []
    for step in range(5):
        for index, parameter in enumerate(module.parameters()):
            parameter.grad = torch.randn(parameter.shape)
            if (step, index) in spoil:
                parameter.grad[0] = float("nan")
        optimizer.made = []
        optimizer.step()
        (made,) = optimizer.made
        log.append(made.read() == 1 if deferred else made)
    states = [x for p in module.parameters() for name, x in optimizer.state[p].items() if name != "step"]
    return log, [*map(torch.Tensor.detach, module.parameters()), *states], optimizer


@pytest.mark.parametrize("options", [{}, {"weight_decay": 0.1, "clip_norm": 0.5}, {"clip_backbone": 0.75}])
@pytest.mark.parametrize("kind", ["adam", "sgd"])
def test_an_update_that_only_the_device_refuses_is_the_same_in_every_bit(kind, options):
    """Of the steps 0 to 4, step 1 is spoilt in the backbone and step 3 in the classification layer."""
    spoil = {(1, 0), (3, 1)}
    waited, expected, optimizer = stepped(kind, False, spoil, **options)
    deferred, found, other = stepped(kind, True, spoil, **options)
    assert waited == deferred == [True, False, True, False, True]
    assert optimizer.steps_done() == other.steps_done() == 3
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_nothing_is_read_before_the_next_update(monkeypatch):
    """The host asks whether an update was made when it issues the next one, not before."""
    reads, steps, read = [], [], Later.read
    monkeypatch.setattr(Later, "read", lambda self: reads.append(len(steps)) or read(self))
    module = module_of([1.0], [1.0])
    optimizer = make_optimizer(module, OptimConfig(), on_gpu=True)
    for step in range(3):
        for parameter in module.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        steps.append(step)
    assert reads == [1, 2]


@pytest.mark.parametrize("on_gpu", [False, True])
def test_parts_of_a_group_that_come_one_by_one_are_one_update(on_gpu):
    """As ZeRO 3 shows a model of more than ``sub_group_size`` parameters."""
    settings = OptimConfig(kind="adam", lr=0.1, epsilon=0.1, beta2=0.9)  # so large that the count of updates shows
    whole, parted = module_of([1.0, 2.0]), module_of([1.0, 2.0])
    expected, found = (make_optimizer(module, settings, on_gpu) for module in (whole, parted))
    (group,) = found.param_groups
    for step in range(3):
        for module in (whole, parted):
            for parameter in module.parameters():
                parameter.grad = torch.full_like(parameter, 1.0 + step)
        expected.step()
        for parameter in parted.parameters():
            group["params"] = [parameter]
            found.step()
            group["params"] = []
    assert found.steps_done() == expected.steps_done() == 3
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), parted.parameters(), strict=True))


def test_what_is_frozen_has_no_state():
    module = module_of([1.0])
    module.backbone.requires_grad_(False)
    optimizer = make_optimizer(module, OptimConfig(kind="sgd", clip_backbone=0.75), on_gpu=False)
    (group,) = optimizer.param_groups
    assert (len(group["params"]), group["clip_norm"]) == (1, 0.0)
