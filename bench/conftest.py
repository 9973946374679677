"""Options of ``pytest bench``, and what they select."""

from __future__ import annotations

import pytest
import torch

from bench.shapes import SIZES
from bench.suite.catalogue import Wish, subjects
from bench.suite.prepared import BOTH, FORWARD, STEP, Subject

MODES = {"ops": (FORWARD, BOTH), "steps": (FORWARD, BOTH, STEP)}


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("bench", "benchmarks of VATT")
    group.addoption("--bench-device", choices=("cuda", "cpu"), help="default: a GPU where there is one")
    group.addoption("--bench-size", choices=tuple(SIZES), help="shapes; default: those of the device")
    group.addoption("--bench-rounds", type=int, default=10, help="calls of each case (default: %(default)s)")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    # pyproject.toml sets --dist for the tests, and pytest-benchmark measures nothing where that is set.
    if not config.getoption("numprocesses", None):
        config.option.dist = "no"


def selected(config: pytest.Config) -> tuple[torch.device, str, list[Subject]]:
    """Device, size and subjects of this run."""
    cuda = torch.cuda.is_available()
    device = torch.device(config.getoption("--bench-device") or ("cuda" if cuda else "cpu"))
    if device.type == "cuda" and not cuda:
        raise pytest.UsageError("--bench-device cuda: PyTorch finds no CUDA device here")
    size = config.getoption("--bench-size") or ("gpu" if device.type == "cuda" else "cpu")
    return device, size, subjects(Wish(size), device, kernels=device.type == "cuda")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "work" not in metafunc.fixturenames:
        return
    _, _, found = selected(metafunc.config)
    work = [
        (subject, provider, mode)
        for subject in found
        for provider in subject.providers
        for mode in MODES[subject.about["suite"]]
    ]
    metafunc.parametrize("work", work, ids=[f"{s.name} {provider} {mode}" for s, provider, mode in work])
