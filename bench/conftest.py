"""Options of ``pytest bench``, and what they select."""

from __future__ import annotations

import pytest
import torch

from bench.cases import SIZES
from bench.measure.session import MODES
from bench.subjects import Request


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("bench", "benchmarks of VATT")
    group.addoption("--bench-device", choices=("cuda", "cpu"), help="default: a GPU where there is one")
    group.addoption("--bench-size", choices=tuple(SIZES), help="of the cases; default: that of the device")
    group.addoption("--bench-rounds", type=int, default=10, help="calls of each case (default: %(default)s)")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    # pyproject.toml sets --dist for the tests, and pytest-benchmark measures nothing where that is set.
    if not config.getoption("numprocesses", None):
        config.option.dist = "no"


def selected(config: pytest.Config) -> tuple[torch.device, str]:
    """Device and size of this run."""
    cuda = torch.cuda.is_available()
    device = config.getoption("--bench-device") or ("cuda" if cuda else "cpu")
    if device == "cuda" and not cuda:
        raise pytest.UsageError("--bench-device cuda: PyTorch finds no CUDA device here")
    return torch.device(device), config.getoption("--bench-size") or ("gpu" if device == "cuda" else "cpu")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "work" not in metafunc.fixturenames:
        return
    device, size = selected(metafunc.config)
    found = Request(size).subjects(device)
    modes = {"ops": MODES[:2], "steps": MODES}
    work = [(s, provider, mode) for s in found for provider in s.providers for mode in modes[s.about["suite"]]]
    metafunc.parametrize("work", work, ids=[f"{s.name} {provider} {mode}" for s, provider, mode in work])
