"""The choice of backends: who is right, who is fast, what time there is, and what stays on the disk."""

from __future__ import annotations

import json
import logging
import tempfile
from pathlib import Path

import pytest
import torch

from tests.kernels.conftest import DEVICE, needs_triton
from tests.kernels.planted import plant, uproot
from vatt.kernels import attention, packed_attention
from vatt.kernels.registry import Call, Problem, forget_decisions, listening, select
from vatt.kernels.selection import Decision, Here, NotExamined, Selection, Verdict, cache, select_backends
from vatt.kernels.selection.checking import WrongResult, check
from vatt.kernels.selection.problems import inputs, small, words
from vatt.kernels.timing import TooLong

CPU = torch.device("cpu")


def problem(dtype=torch.float32, count=4, length=37, mask=False, bias=False, dropout=0.1, gradient=True):
    sequences = ((1, length, mask),)
    facts = dict(heads=2, head_dim=16, mask=mask, bias=bias, sequences=sequences, dropout=dropout)
    facts |= dict(return_weights=False, gradient=gradient)
    return Problem("packed_attention", dtype, tuple(sorted(facts.items())), count)


@pytest.fixture(autouse=True)
def clean(monkeypatch, tmp_path):
    monkeypatch.setenv("VATT_CACHE", str(tmp_path / "cache"))
    yield
    uproot()
    forget_decisions()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("asked", [problem(), problem(mask=True, bias=True, length=17)])
@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("wrong", "output with dropout 0.1: error 0.05"),
        ("gradient", "grad qkv with dropout 0.1: error"),
        ("nan", "output with dropout 0.1: error nan"),
        ("dropout", "output with dropout 0.1: error 0.05"),
        ("mask", "grad qkv with dropout 0.1: error"),
    ],
)
def test_a_fault_is_found_and_named(fault, message, asked, dtype):
    asked = Problem(asked.op, dtype, asked.facts, asked.count)
    plant(fault)
    with pytest.raises(WrongResult, match=message):
        check(asked, f"planted {fault}", CPU)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("asked", [problem(count=12), problem(count=64, mask=True, bias=True, length=17)])
@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("dropout", r"dropout 0\.1: mean of the kept weights 1\.0[4-6]"),
        ("mask", r"dropout 0\.1: the backward pass drops other weights"),
    ],
)
def test_dropout_of_those_who_take_no_seed_is_judged_by_its_statistics(fault, message, asked, dtype):
    asked = Problem(asked.op, dtype, asked.facts, asked.count)
    torch.manual_seed(0)  # of the masks that have no seed
    plant(fault, "slow", twin=False)
    with pytest.raises(WrongResult, match=message):
        check(asked, f"planted {fault}", CPU)
    for _ in range(3):  # by chance they may not fail
        check(asked, "planted slow", CPU)
        check(asked, "sdpa", CPU)


def test_the_fastest_that_is_right_is_taken():
    plant("slow", "wrong", "gradient", "raises", "compiler")
    asked = problem()
    found = select_backends([asked, asked], CPU)
    (decision,) = found.decisions
    verdicts = decision.verdicts
    assert decision.complete
    assert decision.backend in ("cpu", "torch", "sdpa")
    times = {name: verdict.ms for name, verdict in verdicts.items() if verdict.state == "timed"}
    assert times.keys() == {"cpu", "torch", "sdpa", "planted slow"}
    assert times["planted slow"] > 50
    assert decision.backend == min(times, key=times.get)
    assert {name for name, verdict in verdicts.items() if verdict.state == "failed"} == {
        "planted wrong", "planted gradient", "planted raises", "planted compiler"
    }  # fmt: skip
    assert "no kernel image" in verdicts["planted raises"].why
    assert "ptxas said no" in verdicts["planted compiler"].why
    assert verdicts["sdpa_flash"].state == "refused"
    assert "runs on a CUDA device" in verdicts["sdpa_flash"].why
    (line,) = found.lines()
    assert line.startswith("attention: 4 x 37: ")
    assert f"{decision.backend} {times[decision.backend]:.3g} ms" in line
    assert found.failures().keys() == {
        ("packed_attention", name) for name, v in verdicts.items() if v.state == "failed"
    }


def test_auto_follows_a_decision_and_takes_nothing_that_was_wrong_anywhere():
    plant("wrong", first=True)
    calls = []
    qkv = torch.randn(4 * 37, 3, 2, 16, requires_grad=True)
    with listening(lambda op, call: calls.append((op, call))):
        packed_attention(qkv, ((4, 37),), scale=0.25, dropout_p=0.1, backend="torch")
    (op, call), other = calls[0], Call(CPU, torch.float32, {"sequences": ((1, 99, False),)})
    facts = dict(call.facts)
    assert select(op, "auto", call) in ("cpu", "torch", "sdpa")  # the order of attention names them first
    for _, backend in _with_order_of_registration():
        assert backend == "planted wrong"  # without a check nothing speaks against it
    asked = Problem.of(op, call)
    assert dict(asked.facts) == facts
    select_backends([asked], CPU).install(CPU)
    for chosen_call in (call, other):
        assert select(op, "auto", chosen_call) in ("cpu", "torch", "sdpa")
    assert select(op, "planted wrong", call) == "planted wrong"  # by name


def _with_order_of_registration():
    from vatt.kernels.registry import _OPERATIONS

    yield "packed_attention", next(iter(_OPERATIONS["packed_attention"]))


def test_a_backend_that_hangs_costs_its_limit_alone(monkeypatch):
    monkeypatch.setattr("vatt.kernels.selection.choice.LIMIT", 0.5)
    plant("hangs", first=True)
    (decision,) = select_backends([problem()], CPU, seconds=120).decisions
    assert decision.verdicts["planted hangs"].state == "failed"
    assert "took longer than" in decision.verdicts["planted hangs"].why
    assert decision.backend in ("cpu", "torch", "sdpa")


class Fake:
    """An examiner whose clock is the test's."""

    def __init__(self, workers=1, takes=10.0, times=None, monkeypatch=None):
        self.workers, self.takes, self.asked, self.times, self.now = workers, takes, [], times or {}, 0.0
        monkeypatch.setattr("vatt.kernels.selection.choice.time.monotonic", lambda: self.now)

    def prepare(self, limit):
        assert limit <= 30

    def check(self, problem, backend, limit):
        self.asked.append(("check", backend))
        self.now += min(self.takes, limit)
        if self.takes > limit:
            raise TooLong("")

    def time(self, problem, backend, limit):
        self.asked.append(("time", backend))
        self.now += min(self.takes, limit)
        return self.times.get(backend, 1.0)


def test_the_budget_is_held_and_the_next_start_goes_on(monkeypatch):
    plant("slow", "raises")
    asked = problem()
    examiner = Fake(monkeypatch=monkeypatch, times={"sdpa": 2.0, "cpu": 1.0})
    found = select_backends([asked], CPU, examiner=lambda: examiner, seconds=30)
    (decision,) = found.decisions
    # 21 seconds of checks: two, and the third is cut; then one time.
    assert [what for what, _ in examiner.asked] == ["check", "check", "check", "time"]
    assert examiner.now == 30
    assert not decision.complete
    assert decision.backend == "cpu"
    assert found.unfinished().keys() >= {("packed_attention", "sdpa"), ("packed_attention", "planted slow")}
    fast = Fake(monkeypatch=monkeypatch, takes=0.1, times={"planted slow": 0.5})
    (again,) = select_backends([asked], CPU, known=found, examiner=lambda: fast).decisions
    assert ("check", "cpu") not in fast.asked
    assert again.complete
    assert again.backend == "planted slow"
    nobody = lambda: pytest.fail("all is known")  # noqa: E731
    assert select_backends([asked], CPU, known=Selection([again]), examiner=nobody).decisions == [again]
    plant("compiler")  # a new one is examined, and only that
    more = Fake(monkeypatch=monkeypatch, takes=0.1)
    select_backends([asked], CPU, known=Selection([again]), examiner=lambda: more)
    assert more.asked == [("check", "planted compiler"), ("time", "planted compiler")]


def test_what_never_ends_is_given_up_after_some_starts(monkeypatch):
    known, asked = None, problem()
    for start in (1, 2, 3):
        examiner = Fake(monkeypatch=monkeypatch, takes=100)
        known = select_backends([asked], CPU, known=known, examiner=lambda examiner=examiner: examiner, seconds=10)
        first = examiner.asked[0][1]  # which takes all of the time
        verdict = known.decisions[0].verdicts[first]
        assert verdict.state == ("failed" if start == 3 else "no time")
    assert verdict.why == "did not end in 3 starts"
    assert known.decisions[0].backend != first


def test_a_problem_too_large_for_a_backend_says_nothing_about_others():
    def full(*_):
        raise torch.OutOfMemoryError("tried to allocate")

    examiner = type("Full", (Here,), {"time": full})
    found = select_backends([problem()], CPU, examiner=lambda: examiner(CPU))
    assert {verdict.state for verdict in found.decisions[0].verdicts.values()} == {"refused", "no memory"}
    assert found.decisions[0].backend == "cpu"  # the first of the order, not the reference, which needs most
    assert found.decisions[0].complete
    assert not found.failures()


def test_an_examiner_that_cannot_work_says_nothing_about_the_backend():
    class Absent(Here):
        def check(self, problem, backend, limit):
            raise NotExamined("its process does not start")

    found = select_backends([problem()], CPU, examiner=lambda: Absent(CPU))
    (decision,) = found.decisions
    assert not found.failures()
    assert decision.backend == "cpu"  # the first of the order
    assert set(found.unfinished().values()) == {"its process does not start"}


def test_where_all_are_wrong_the_reference_runs():
    found = {"sdpa": Verdict("failed"), "triton": Verdict("refused")}
    asked = problem()
    known = Selection([Decision(asked, "torch", found)])
    examiner = type("No", (), {"workers": 1, "prepare": lambda *_: None, "check": lambda *_: 1 / 0})
    (decision,) = select_backends([asked], CPU, known=known, examiner=examiner).decisions
    assert all(verdict.state in ("failed", "refused") for verdict in decision.verdicts.values())
    assert decision.backend == "torch"


def test_random_numbers_and_memory_of_a_run_are_left_alone():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    select_backends([problem(count=2)], CPU)
    assert torch.equal(torch.get_rng_state(), before)


class TestTheCache:
    def selection(self):
        patches = dict(patch=(4, 16, 16), input=torch.uint8, sizes=(8, 32, 32, 3), width=32, kept=(3, False))
        patches |= dict(bias=True, positions=True, token=True, dropout=0.1, gradient=True, input_gradient=False)
        patches |= dict(gathered=False, patches=8)
        other = Problem("patch_embed", torch.bfloat16, tuple(sorted(patches.items())), 2)
        verdicts = {"sdpa": Verdict("timed", 1.5), "torch": Verdict("failed", why="WrongResult: é")}
        return Selection([Decision(problem(), "sdpa", verdicts), Decision(other, "torch", {})])

    def test_it_gives_back_what_it_got_and_adds_to_it(self):
        selection = self.selection()
        assert cache.load(CPU) == Selection()
        cache.save(CPU, Selection(selection.decisions[:1]))
        cache.save(CPU, Selection(selection.decisions[1:]))
        assert cache.load(CPU) == selection
        newer = Decision(problem(), "torch", {})
        cache.save(CPU, Selection([newer]))
        assert cache.load(CPU).of(problem()) == newer
        assert [path.name for path in cache.cache_file(CPU).parent.iterdir()] == [cache.cache_file(CPU).name]
        problems = [json.loads(json.dumps(row)) for row in cache.to_json(selection)]
        assert cache.from_json(problems) == selection

    @pytest.mark.parametrize(
        "content", ["", "[]", "{}", '{"about": {}, "decisions": []}', "\x00\xff", '{"about": 1', "null"]
    )
    def test_a_file_that_is_broken_or_of_something_else_is_named_and_ignored(self, content, caplog):
        path = cache.cache_file(CPU)
        path.parent.mkdir(parents=True)
        path.write_bytes(content.encode("latin-1"))
        with caplog.at_level(logging.WARNING):
            assert cache.load(CPU) == Selection()
        assert str(path) in caplog.text
        cache.save(CPU, self.selection())
        assert cache.load(CPU) == self.selection()

    @pytest.mark.parametrize(
        "spoil",
        [
            lambda row: row.update(op="nothing"),
            lambda row: row.update(dtype="torch.nothing"),
            lambda row: row.pop("backend"),
            lambda row: row["verdicts"].update(sdpa={"odd": 1}),
            lambda row: row.update(count="many"),
            lambda row: row.update(facts=[]),
        ],
    )
    def test_a_row_that_makes_no_sense_spoils_the_file(self, spoil, caplog):
        cache.save(CPU, self.selection())
        path = cache.cache_file(CPU)
        found = json.loads(path.read_text())
        spoil(found["decisions"][0])
        path.write_text(json.dumps(found))
        assert cache.load(CPU) == Selection()
        assert str(path) in caplog.text

    def test_a_folder_that_cannot_be_written_is_a_warning(self, tmp_path, monkeypatch, caplog):
        file = tmp_path / "file"
        file.touch()
        monkeypatch.setenv("VATT_CACHE", str(file / "cache"))
        cache.save(CPU, self.selection())
        assert f"{file / 'cache'}" in caplog.text
        assert "is not kept" in caplog.text

    def test_without_a_home_the_file_is_among_the_temporary_ones(self, monkeypatch):
        def nobody():
            raise RuntimeError("Could not determine home directory.")

        monkeypatch.delenv("VATT_CACHE")
        monkeypatch.setattr(cache.Path, "home", nobody)
        assert cache.cache_file(CPU).parent == Path(tempfile.gettempdir()) / "vatt-cache"

    def test_other_sources_are_another_file(self, monkeypatch):
        before = cache.cache_file(CPU)
        monkeypatch.setattr(cache, "sources", lambda: "others")
        assert cache.cache_file(CPU) != before

    def test_a_decision_for_a_backend_that_is_gone_is_passed_over(self):
        decision = Decision(problem(), "planted slow", {"planted slow": Verdict("timed", 1.0)})
        Selection([decision]).install(CPU)
        call = problem().call(CPU)
        assert select("packed_attention", "auto", call) == "cpu"


@pytest.mark.parametrize("length", [17, 160, 785, 601, 3201])
@pytest.mark.parametrize("count", [1, 16, 64, 65, 320])
def test_a_small_problem_keeps_what_kernels_are_compiled_for(length, count):
    asked = problem(length=length, count=count)
    little = small(asked)
    ((_, short, _),) = dict(little.facts)["sequences"]
    assert short % 16 == length % 16
    assert (little.count * short) % 16 == (count * length) % 16
    assert little.count <= 32
    assert short <= 160
    assert {**dict(little.facts), "sequences": 0} == {**dict(asked.facts), "sequences": 0}


def test_a_small_problem_of_frames_has_a_picture_of_each_shape():
    facts = {"patch": (2, 16, 16), "size": 32, "frames": (2, 1536), "whole": False, "kept": (2, False)}
    asked = Problem.of("frames_to_patches", Call(CPU, torch.float32, facts, count=64))
    sizes = inputs(small(asked), CPU).fixed["sizes"].tolist()
    assert len({tuple(shape) for shape in sizes}) == len(sizes) == 3


def test_inputs_without_a_gradient_and_words():
    made = inputs(problem(gradient=False, dropout=0.0), CPU)
    assert made.leaves == {}
    assert made.run("torch", 0.0, None).keys() == {"output"}
    assert words(problem(mask=True, bias=True)) == "4 x 37 masked biased"
    assert words(problem(gradient=False)) == "4 x 37, forward"


def test_dense_attention_is_examined_too():
    calls = []
    q = torch.randn(2, 9, 2, 16, requires_grad=True)
    with listening(lambda op, call: calls.append(Problem.of(op, call))):
        attention(q, q, q, mask=torch.ones(2, 9), scale=0.25, return_weights=True)
    (decision,) = select_backends(calls, CPU).decisions
    assert decision.backend == "torch"
    assert "cannot return the attention weights" in decision.verdicts["sdpa"].why


def problems_of_all_operations(dtype):
    """As a training step of a small model has them: problem, and a backend of ours."""
    common = {"dropout": 0.1, "gradient": True}
    patches = dict(patch=(2, 4, 4), sizes=(4, 8, 12, 3), width=16, bias=True, positions=True, token=True)
    patches |= dict(input=torch.uint8, kept=(7, False), input_gradient=False, gathered=False, patches=12)
    rows = dict(kind="asymmetric", width=16, candidates=(1, 3), ranks=2, masks=(False, True), gradient=True)
    found = {
        "patch_embed": (patches | common, ("triton", "gather")),
        "mlp": (dict(width=16, inner=64, bias=True) | common, ("triton", "triton_gemm")),
        "dense_gelu": (dict(width=16, inner=24, bias=False, gradient=True), ("triton",)),
        "layer_norm": (dict(width=16, residual=True) | common, ("triton",)),
        "rms_norm": (dict(width=16, residual=True) | common, ("triton",)),
        "nce": (rows | dict(precision=str(dtype).removeprefix("torch.")), ("triton", "matmul")),
    }
    for op, (facts, names) in found.items():
        yield from ((Problem(op, dtype, tuple(sorted(facts.items())), 5), name) for name in names)
    yield from ((asked, "triton") for asked in (problem(dtype), problem(dtype, length=17, mask=True, bias=True)))
    whole = Problem("nce", torch.float32, tuple(sorted((rows | dict(precision="float16", ranks=1)).items())), 7)
    yield from ((whole, name) for name in ("triton", "matmul"))
    rows = patches | common | dict(sizes=(7, 96), gathered=True)
    yield from ((Problem("patch_embed", dtype, tuple(sorted(rows.items())), 5), name) for name in ("triton", "gather"))
    if dtype == torch.float32:  # what places and colours have
        for kept in (None, (5, False), (3, True)):
            frames = dict(patch=(2, 8, 8), size=20, frames=(5, 700), kept=kept, whole=False)
            yield Problem("frames_to_patches", dtype, tuple(sorted(frames.items())), 3), "triton"


@needs_triton
@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_our_own_kernels_are_right(dtype):
    for asked, backend in problems_of_all_operations(dtype):
        check(asked, backend, DEVICE)
