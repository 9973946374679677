"""What the engine uses of DeepSpeed beyond its documented interface. After an upgrade, this test says what broke; then
mend train/core/engine.py and raise the bound in pyproject.toml."""

from __future__ import annotations

import ast
import inspect
import textwrap
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
from deepspeed.accelerator.cpu_accelerator import CPU_Accelerator
from deepspeed.runtime.bf16_optimizer import BF16_Optimizer
from deepspeed.runtime.zero.partition_parameters import Init
from deepspeed.runtime.zero.stage3 import DeepSpeedZeroOptimizer_Stage3
from deepspeed.runtime.zero.stage_1_and_2 import DeepSpeedZeroOptimizer
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
PRIVATE = {
    "fp32_partitioned_groups_flat": [DeepSpeedZeroOptimizer_Stage3],
    "averaged_gradients": [DeepSpeedZeroOptimizer],
    "_use_compact_grad_partition_buffer": [DeepSpeedZeroOptimizer],
    "_lazy_init_hp_params_optimizer_state": [DeepSpeedZeroOptimizer, BF16_Optimizer],
    "_hp_optimizer_states_linked": [DeepSpeedZeroOptimizer, BF16_Optimizer],
    "ds_shape": [Init],  # of a parameter, put there by this class
    "ds_tensor": [Init],
    "get_op_builder": [CPU_Accelerator],
}
DOCUMENTED = {"module", "optimizer", "backward", "step", "destroy", "param_groups"}


def used() -> set[str]:
    """Attributes that the engine takes from DeepSpeed's objects, or overrides."""
    found = set()
    for node in ast.walk(ast.parse((ROOT / "train" / "core" / "engine.py").read_text())):
        match node:
            case ast.Attribute(value=ast.Attribute(value=ast.Name("self"), attr="_engine" | "_wrapper"), attr=name):
                found.add(name)
            case ast.Attribute(attr=name) if name.startswith("ds_"):
                found.add(name)
            case ast.Call(func=ast.Name("getattr"), args=[_, ast.Constant(str(name)), *_]):
                found.add(name)
            case ast.ClassDef(bases=[ast.Name("CPU_Accelerator")], body=body):
                found |= {part.name for part in body if isinstance(part, ast.FunctionDef)}
    return found


def test_the_list_is_what_the_engine_uses():
    assert used() - DOCUMENTED == PRIVATE.keys()


@pytest.mark.parametrize("name", PRIVATE)
def test_the_installed_version_has_it(name):
    for owner in PRIVATE[name]:
        tree = ast.walk(ast.parse(textwrap.dedent(inspect.getsource(owner))))
        made = {x.attr for x in tree if isinstance(x, ast.Attribute) and isinstance(x.ctx, ast.Store)}
        assert name in made or hasattr(owner, name), f"DeepSpeed {version('deepspeed')}: {owner.__name__} has no {name}"


def test_the_shared_memory_collectives_that_the_engine_leaves_out_are_still_named_so():
    assert CPU_Accelerator().get_op_builder("ShareMemCommBuilder") is not None


def test_the_version_is_bounded():
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    bound = next(r for r in map(Requirement, listed) if r.name == "deepspeed").specifier
    assert any(part.operator == "<" for part in bound)
    assert version("deepspeed") in bound
