"""A small run that can be started, disturbed and gone on with at will, and compared with one that nothing disturbed."""

from __future__ import annotations

import ctypes
import importlib
import itertools
import json
import os
import re
import shutil
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
from safetensors.numpy import load_file

from bench.faults.inject import Act, at_file_operation, at_step, kill, mount_memory, private_mounts
from vatt.errors import UserError
from vatt.files import TREE

STEPS, EVERY = 12, 3  # of a run, and from one checkpoint to the next
LIMIT = 300.0  # seconds after which a job counts as hung
PATIENCE = 60.0  # seconds that processes may outlive the one that started them
NEAR = 1e-3  # relative, where another order of sums is all that differs
SCRIPT = "train.pretrain"
_SUBREAPER = 36  # of <sys/prctl.h>
# Nothing that a job needs is imported in it: it is forked from a process that has it all.
PRELOADED = (SCRIPT, "torch._dynamo", "torch.distributed.fsdp", "matplotlib.figure", "matplotlib.backends.backend_agg")
WORDS = [
    *["--config", "paper", "--model", "vatt-tiny", "--steps", str(STEPS), "--batch-size", "4"],
    *["model.input.size=32", "model.input.frames=4", "model.input.fps=4", "model.input.sample_rate=8000"],
    *[f"model.video.max_{axis}_buckets=2" for axis in ("temporal", "vertical", "horizontal")],
    *["model.waveform.temporal_patch_size=512", "model.waveform.max_temporal_buckets=16"],
    *(
        f"model.{part}.{name}"
        for part in ("video", "waveform", "text")
        for name in ("num_layers=1", "d_model=16", "d_kv=8", "num_heads=2", "d_ff=16")
    ),
    *["model.video.dropout_rate=0.1", "model.head.d_va=16", "model.head.d_vat=16"],
    *["data.workers=1", "data.prefetch=2", "data.max_bad_share=0.5", "engine.threads=1", "engine.kernels=torch"],
    *["optim.lr=1e-3", "optim.warmup_steps=2", "run.log_every=1", f"run.save_every={EVERY}", "run.keep=2"],
    *["run.eval_every=6", "run.max_skipped_steps=3", "evaluation.windows=1"],
]


class PromiseBroken(UserError, RuntimeError):
    """What came of a fault is below its promise; the message says what it was."""


class NotInjected(UserError, RuntimeError):
    """A fault that this machine does not allow; the message says why."""


@dataclass
class Job:
    """Processes that were started together; ``codes``: how they ended, by their number. Negative: by that signal."""

    out: Path
    log: Path
    pids: list[int]
    codes: dict[int, int]
    cpu: float = 0.0  # seconds of the first one, as far as it was watched

    @property
    def text(self) -> str:
        """What they have printed so far."""
        return self.log.read_text(errors="replace")

    @property
    def running(self) -> list[int]:
        """Those that have not ended."""
        self.codes.update(_ended())
        return [pid for pid in self.pids if pid not in self.codes]

    def until(self, happened: Callable[[], object]) -> None:
        """Waits until this is so, or all have ended. Raises PromiseBroken for a job that hangs."""
        until = time.monotonic() + LIMIT
        while self.running and not happened():
            with suppress(OSError):  # the clock of another process, see clock_getcpuclockid(3)
                self.cpu = time.clock_gettime(~self.pids[0] << 3 | 2)
            if time.monotonic() > until:
                raise PromiseBroken(f"hangs: {LIMIT:.0f} s, and has not ended")
            time.sleep(0.003)

    def wait(self) -> list[int]:
        """How each of them ended."""
        self.until(lambda: False)
        return [self.codes[pid] for pid in self.pids]

    def signal(self, number: signal.Signals, place: int = 0) -> None:
        """Sends it to one of them, if that still runs."""
        if self.pids[place] in self.running:
            os.kill(self.pids[place], number)

    def expect(self, code: int, *words: str) -> None:
        """Raises PromiseBroken: another exit status, or output that lacks one of the words or has a traceback."""
        codes = self.wait()
        if codes != [code] * len(codes) or "Traceback" in self.text:
            raise PromiseBroken(f"exit status {codes} in place of {code}: {_last_line(self.text)}")
        for word in words:
            if not re.search(word, self.text, re.I | re.M):
                raise PromiseBroken(f"the message does not name {word}: {_last_line(self.text)}")


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return next((line for line in lines if line.startswith("error: ")), lines[-1] if lines else "no output")[:300]


@dataclass
class Outcome:
    """``lost``: steps that were done before the fault and had to be done again. ``equal``: losses, final weights and
    moments; None where nothing is to compare."""

    lost: int = 0
    equal: bool | None = None
    why: str = ""  # what is not equal


class Harness:
    """Everything lies in ``folder``. This process is the parent of all that it starts, and adopts what that leaves."""

    def __init__(self, folder: Path, base: str) -> None:
        self.folder, self.base = folder, base
        self.codes: dict[int, int] = {}
        self.text = ""  # of the last start that went on with a run
        self._count, self._kept = itertools.count(), dict[Any, Path]()
        os.environ.update(OMP_NUM_THREADS="1", CUDA_VISIBLE_DEVICES="", TMPDIR=str(folder / "tmp"))
        (folder / "tmp").mkdir()
        ctypes.CDLL(None).prctl(_SUBREAPER, 1)
        self.mounts = private_mounts()
        if self.mounts:
            mount_memory("/dev/shm", 1 << 29)
        for module in PRELOADED:
            importlib.import_module(module)
        # Drawing the page's plots would take half of the time, and says nothing here.
        sys.modules["matplotlib.figure"].Figure.savefig = lambda *_, **__: None
        self.data = self.clips("clips")
        self.cpu, self.operations = 0.0, 0  # of a run that nothing disturbs: seconds, and how often it changes files
        self.reference()

    def clips(self, name: str, nan: int | None = None) -> Path:
        """A data set of 24 clips of 1 s; in the sound of clip number ``nan`` are some NaN."""
        folder = self.folder / name
        folder.mkdir()
        for number in range(24):
            _write(folder / f"{number}.mov", number, number == nan)
            (folder / f"{number}.txt").write_text(f"number {number} of a few clips of noise\n")
        rows = [f"{number}.mov,{'train' if number < 12 else 'val'}\n" for number in range(24)]
        (folder / "clips.csv").write_text("video,split\n" + "".join(rows))
        return folder / "clips.csv"

    def new(self) -> Path:
        """The path of a new run."""
        return self.folder / f"run-{next(self._count)}"

    def command(self, out: Path, *words: str, data: Path | None = None) -> list[str]:
        """The arguments that start a run, or go on with it."""
        return ["--data", str(data or self.data), "--out", str(out), *WORDS, "--resume", "auto", *words]

    def start(self, out: Path, *words: str, ranks: int = 1, before: Act | None = None, data: Path | None = None) -> Job:
        """Starts a run or goes on with it, in one process for each rank. ``before`` is called in that of rank 0."""
        log, command = self.folder / f"log-{next(self._count)}", self.command(out, *words, data=data)
        shared = dict(WORLD_SIZE=str(ranks), MASTER_ADDR="127.0.0.1", MASTER_PORT=free_port()) if ranks > 1 else {}
        own = [dict(shared, RANK=str(rank), LOCAL_RANK=str(rank)) if shared else {} for rank in range(ranks)]
        pids = [self._fork(log, one, None if number else before, command) for number, one in enumerate(own)]
        return Job(out, log, pids, self.codes)

    def execute(self, out: Path, command: Sequence[str], cwd: Path = TREE) -> Job:
        """Any command, in a process of its own."""
        log = self.folder / f"log-{next(self._count)}"

        def become() -> None:
            os.chdir(cwd)
            os.execvp(command[0], list(command))

        return Job(out, log, [self._fork(log, {"PYTHONPATH": str(cwd)}, become, [])], self.codes)

    def _fork(self, log: Path, own: dict[str, str], before: Act | None, words: list[str]) -> int:
        sys.stdout.flush()
        if pid := os.fork():
            return pid
        code: Any = 1
        try:
            os.setsid()
            handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(handle, 1)
            os.dup2(handle, 2)
            for number in (signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            os.environ.update(own)
            sys.argv[:] = ["train/pretrain.py", *words]
            if before is not None:
                before()
            code = importlib.import_module(SCRIPT).main(words)
        except SystemExit as end:
            code = end.code
        except BaseException:
            traceback.print_exc()
        finally:
            with suppress(OSError, ValueError):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code if isinstance(code, int) else 1)

    def cut_at(self, step: int) -> Path:
        """A run that was killed in this step, which is not to be changed."""
        if step not in self._kept:
            self._kept[step] = self.new()
            self.start(self._kept[step], before=lambda: at_step(step, kill)).wait()
            self.check_orphans()
        return self._kept[step]

    def clear(self) -> None:
        """Removes what is not needed any more."""
        for path in (*self.folder.glob("run-*"), *self.folder.glob("log-*")):
            if path not in self._kept.values():
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink()

    def reference(self, *words: str, ranks: int = 1) -> Path:
        """The run with these words that nothing disturbs."""
        if (words, ranks) not in self._kept:
            self._kept[words, ranks] = out = self.new()
            log = self.folder / "operations" if (words, ranks) == ((), 1) else None
            job = self.start(out, *words, ranks=ranks, before=lambda: at_file_operation(out, -1, print, log))
            job.expect(0)
            self.check_left(out)
            if log is not None:
                self.cpu, self.operations = job.cpu, len(log.read_text().splitlines())
        return self._kept[words, ranks]

    def go_on(self, out: Path, *words: str, of: Path | None = None, near: float = 0.0, **how: Any) -> Outcome:
        """Waits for the rest of what was disturbed to end, starts the command again, and compares with the run ``of``.

        Raises:
            PromiseBroken: processes or temporary files are left, or it does not come to its end.
        """
        self.check_orphans()
        done = max(read_losses(out), default=0)
        job = self.start(out, *words, **how)
        job.expect(0)
        self.check_orphans()
        self.check_left(out)
        self.text = job.text
        first = re.search(r"training from step (\d+) on", job.text)
        begun = int(first[1]) - 1 if first else done
        why = difference(out, of or self.reference(), near)
        return Outcome(max(0, done - begun), not why, why)

    def check_orphans(self) -> None:
        """Ends what still runs. Raises PromiseBroken if something does after PATIENCE."""
        until = time.monotonic() + PATIENCE
        while (left := children(os.getpid())) and time.monotonic() < until:
            self.codes.update(_ended())
            time.sleep(0.02)
        if left:
            names = [Path(f"/proc/{pid}/comm").read_text().strip() for pid in left]
            while left := children(os.getpid()):  # those of the ended are adopted
                for pid in left:
                    os.kill(pid, signal.SIGKILL)
                self.codes.update(_ended())
            raise PromiseBroken(f"processes are left after {PATIENCE:.0f} s: {', '.join(names)}")

    def check_left(self, out: Path) -> None:
        """Raises PromiseBroken if there are temporary files."""
        found = [path for path in out.rglob("*") if path.name.startswith(".") or path.name.endswith(".partly")]
        found += [*(self.folder / "tmp").iterdir(), *(Path("/dev/shm").iterdir() if self.mounts else ())]
        if found:
            names = ", ".join(path.name for path in found[:5])
            for path in found:
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
            raise PromiseBroken(f"temporary files are left: {names}")


def _ended() -> Iterator[tuple[int, int]]:
    """Children that have ended, and how: also those that were adopted, their own parent having gone."""
    with suppress(ChildProcessError):
        while (found := os.waitpid(-1, os.WNOHANG))[0]:
            yield found[0], os.waitstatus_to_exitcode(found[1])


def free_port() -> str:
    """A port of this machine that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def children(pid: int) -> list[int]:
    """The processes that a process has started or adopted, and that run."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, parent = path.read_text().rpartition(") ")[2].split()[:2]
            found += [int(path.parent.name)] if int(parent) == pid and state != "Z" else []
    return found


def read_losses(out: Path) -> dict[int, list[float]]:
    """Step -> its losses, as far as the run has recorded them."""
    found: dict[int, list[float]] = {}
    path = out / "metrics.jsonl"
    for line in path.read_text().splitlines() if path.is_file() else ():
        with suppress(ValueError):  # a line that was cut off
            record = json.loads(line)
            if record["kind"] == "train":
                found.setdefault(record["step"], []).extend(v for k, v in record.items() if k.endswith("loss"))
    return found


def checkpoints(out: Path) -> list[Path]:
    """The oldest first."""
    return sorted((out / "checkpoints").glob("step-*"))


def difference(out: Path, of: Path, near: float = 0.0) -> str:
    """What differs between two runs: losses of a step, a file of weights or moments. Empty if nothing does."""
    losses, wanted = read_losses(out), read_losses(of)
    if losses.keys() != wanted.keys():
        return f"records of steps {sorted(losses)}"
    for step, values in wanted.items():
        if len(losses[step]) != len(values) or not np.allclose(losses[step], values, near, near):
            return f"losses of step {step}: {losses[step]}, not {values}"
    pairs = [(out / "model", of / "model"), (checkpoints(out)[-1], checkpoints(of)[-1])]
    for found, other in pairs:
        for path in sorted(other.glob("*.safetensors")):
            if near == 0 and (found / path.name).read_bytes() != path.read_bytes():
                return f"{found.name}/{path.name}"
            one, two = ({n: x.astype(float) for n, x in load_file(p / path.name).items()} for p in (found, other))
            far = sum(np.square(one[name] - x).sum() for name, x in two.items() if near)
            if far > near**2 * sum(np.square(x).sum() for x in two.values()):
                return f"{found.name}/{path.name}: tensors differ by {far**0.5}"
    return ""


def _write(path: Path, seed: int, nan: bool) -> None:
    """Half a second more than a window of noise, with sound in float32."""
    random = np.random.default_rng(seed)
    with av.open(str(path), "w") as container:
        video = cast(av.VideoStream, container.add_stream("mpeg4", rate=8))
        video.height = video.width = 48
        video.pix_fmt, video.thread_count = "yuv420p", 1
        audio = cast(av.AudioStream, container.add_stream("pcm_f32le", rate=8000, layout="mono"))
        for _ in range(12):
            picture = random.integers(0, 256, (6, 6, 3), np.uint8).repeat(8, 0).repeat(8, 1)
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        sound = (random.standard_normal((1, 12000)) / 8).astype(np.float32)
        sound[0, 6000 : 6010 if nan else 6000] = np.nan
        frame = av.AudioFrame.from_ndarray(sound, format="flt", layout="mono")
        frame.sample_rate = 8000
        container.mux(audio.encode(frame))
        container.mux(video.encode(None))
        container.mux(audio.encode(None))
