from __future__ import annotations

import numpy as np

from device_svc.engine_api import ModelShape, Sampling
from device_svc.request import Request
from device_svc.resident import Resident
from device_svc.waiting import AGE_S, Waiter, WaitingRoom
from tests.support.fake_core import FakeSampler

SHAPE = ModelShape(512, 511, 64, 1024, argmax=False, features=("history", "logits"))


def waiter(key: int, *, priority: int, since_s: float = 0.0, preempted: bool = False) -> Waiter:
    prompt = np.array([1], dtype=np.int32)
    request = Request(key, prompt, FakeSampler(Sampling(), 1024), 4, priority=priority)
    return Waiter(request, since_s, Resident(request, SHAPE) if preempted else None)


def first(room: WaitingRoom, now_s: float = 0.0) -> int:
    found = room.first(now_s)
    assert found is not None
    return found.request.key


def test_class_then_arrival_decide() -> None:
    room = WaitingRoom()
    for key, priority in ((1, 1), (2, 2), (3, 2)):
        room.add(waiter(key, priority=priority, since_s=float(key)))
    order = []
    while room:
        order.append(first(room, 3.0))
        room.pop(order[-1])
    assert order == [2, 3, 1]


def test_age_raises_by_classes_and_the_older_goes_first() -> None:
    room = WaitingRoom()
    room.add(waiter(1, priority=1))
    room.add(waiter(2, priority=2, since_s=AGE_S))
    assert first(room, AGE_S - 0.1) == 2
    assert first(room, AGE_S) == 1
    highest = room.highest()
    assert highest is not None
    assert highest.request.key == 2


def test_a_preempted_request_is_before_those_that_never_ran() -> None:
    room = WaitingRoom()
    room.add(waiter(1, priority=1))
    room.add(waiter(2, priority=1, since_s=5.0, preempted=True))
    assert first(room) == 2
    assert [w.request.key for w in room] == [2, 1]


def test_an_unknown_key_is_not_there() -> None:
    room = WaitingRoom()
    assert room.pop(3) is None
    assert room.first(0.0) is None
    assert not room
