"""Batches on their way to the device and numbers on their way back. No GPU is here: streams are stood in for."""

from __future__ import annotations

import weakref
from contextlib import contextmanager
from typing import ClassVar

import numpy as np
import pytest
import torch

from train.core.transfer import Later, Uploader


class Stream:
    def __init__(self, events, name):
        self.events, self.name = events, name

    def wait_stream(self, other):
        self.events.append((self.name, "waits for", other.name))


class Event:
    """Of copies, which are all done or all not done."""

    done = False
    waited: ClassVar[list[int]] = []
    made = 0

    def __init__(self, blocking=False):
        Event.made += 1
        self.number = Event.made

    def record(self, stream=None):
        pass

    def synchronize(self):
        Event.waited.append(self.number)

    def query(self):
        return Event.done


@pytest.fixture
def events(monkeypatch):
    """What is done, in order: copies with the stream they are on, and whether their source is pinned."""
    log, stack = [], ["compute"]

    @contextmanager
    def on(stream):
        stack.append(stream.name)
        yield
        stack.pop()

    def pin(value):
        pinned = value.clone()
        pinned.pinned = True
        return pinned

    def copy(value, device, non_blocking):
        assert non_blocking
        log.append((stack[-1], "copies", tuple(value.shape), value.is_pinned()))
        return value

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: Stream(log, "side"))
    monkeypatch.setattr(torch.cuda, "stream", on)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stream(log, "compute"))
    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    monkeypatch.setattr(torch.Tensor, "is_pinned", lambda value: getattr(value, "pinned", False))
    monkeypatch.setattr(torch.Tensor, "to", copy)
    monkeypatch.setattr(
        torch.Tensor, "record_stream", lambda value, stream: log.append((stream.name, "uses", tuple(value.shape)))
    )
    return log


def test_a_batch_is_copied_beside_the_computation_which_waits_for_it(events):
    video = torch.zeros(4, 3).pin_memory()
    sent = Uploader(torch.device("cuda", 0))({"video": video, "kept": torch.zeros(2), "skipped": []})
    assert sent.keys() == {"video", "kept"}
    assert events == [
        ("side", "copies", (4, 3), True),
        ("side", "copies", (2,), True),  # pinned on the way
        ("compute", "waits for", "side"),
        ("compute", "uses", (4, 3)),  # or the side stream would fill the memory again too early
        ("compute", "uses", (2,)),
    ]


def test_what_is_copied_is_held_until_it_has_arrived(events, monkeypatch):
    """Or the loader would fill its memory again, of which PyTorch does not know that it is read."""
    upload, gone = Uploader(torch.device("cuda", 0)), []
    memory = np.zeros(4, np.float32)
    weakref.finalize(memory, gone.append, True)
    video = torch.from_numpy(memory)
    video.pinned = True
    monkeypatch.setattr(torch.Tensor, "to", lambda value, device, non_blocking: torch.empty_like(value))
    upload({"video": video})
    del memory, video
    upload.let_go()
    assert not gone
    monkeypatch.setattr(Event, "done", True)
    upload.let_go()
    assert gone


def test_the_host_sends_one_batch_ahead_of_the_one_in_use(events, monkeypatch):
    """A step in parts would fill the device with all of them."""
    monkeypatch.setattr(Event, "waited", [])
    monkeypatch.setattr(Event, "made", 0)
    upload = Uploader(torch.device("cuda", 0))
    for number in range(4):
        upload({"video": torch.zeros(1)})
        assert Event.waited == [1, 3, 5][:number]  # two events a batch: what was issued before it, and its copy


def test_on_a_cpu_nothing_is_copied():
    batch = {"video": torch.zeros(2), "skipped": ["record"]}
    sent = Uploader(torch.device("cpu"))(batch)
    assert sent.keys() == {"video"}
    assert sent["video"] is batch["video"]


def test_numbers_are_those_of_the_moment():
    values = torch.tensor([1.0, 2.0])
    later = Later(values)
    values.zero_()
    assert later.read() == later.read() == [1.0, 2.0]
    assert Later(torch.tensor(True)).read() is True
