"""Where a completion goes: prefixes, load, keys; and whom a lost device is blamed on."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest

from gateway import blame
from gateway.prefix_index import BLOCK_TOKENS, BlockChain, ResidentPrefixes
from gateway.router import Candidate, pick

CHUNK = 64
SYSTEM = list(range(1000, 1200))


def chain(*parts: Sequence[int]) -> BlockChain:
    return BlockChain([token for part in parts for token in part])


def test_chains_agree_up_to_the_first_block_that_differs() -> None:
    one = chain(range(100))
    assert len(one.hashes) == 100 // BLOCK_TOKENS
    for differing in (0, 1, 15, 16, 17, 50, 95, 96, 99):
        ids = list(range(100))
        ids[differing] = -1
        blocks = min(differing // BLOCK_TOKENS, 6)
        assert one.common_blocks(chain(ids)) == blocks
    assert one.common_blocks(chain(range(500))) == 6
    assert one.common_blocks(chain([])) == 0
    # The same block elsewhere is another one.
    assert one.common_blocks(chain(range(16, 100))) == 0


def test_what_is_held_is_matched_in_whole_chunks_and_never_to_the_last_token() -> None:
    prefixes = ResidentPrefixes(4, CHUNK)
    prefixes.hold("a", chain(SYSTEM, range(7)))
    assert prefixes.matched_tokens(chain(SYSTEM, range(500, 600))) == 192
    assert prefixes.matched_tokens(chain(SYSTEM[:128])) == 64
    assert prefixes.matched_tokens(chain(SYSTEM[:129])) == 128
    assert prefixes.matched_tokens(chain(SYSTEM[:60])) == 0
    assert prefixes.matched_tokens(chain(range(200))) == 0
    assert prefixes.matched_tokens(chain([])) == 0


def test_slots_limit_what_is_held_and_running_ones_stay() -> None:
    prefixes = ResidentPrefixes(2, CHUNK)
    prompts = [chain(range(start, start + 65)) for start in (0, 1000, 2000)]
    prefixes.hold("running", prompts[0])
    for number in (1, 2):
        prefixes.hold(f"r{number}", prompts[number])
        prefixes.release(f"r{number}")
    assert [prefixes.matched_tokens(prompt) for prompt in prompts] == [64, 0, 64]
    prefixes.release("running")
    prefixes.release("never there")
    assert [prefixes.matched_tokens(prompt) for prompt in prompts] == [64, 0, 64]


def test_a_prompt_that_goes_on_takes_the_place_of_its_beginning() -> None:
    prefixes = ResidentPrefixes(2, CHUNK)
    other = chain(range(5000, 5100))
    prefixes.hold("other", other)
    prefixes.release("other")
    for turn in (80, 160, 240, 320):
        prefixes.hold(str(turn), chain(range(turn)))
        prefixes.release(str(turn))
    assert prefixes.matched_tokens(other) == 64
    assert prefixes.matched_tokens(chain(range(400))) == 320


def test_a_use_keeps_a_prefix_alive() -> None:
    prefixes = ResidentPrefixes(3, CHUNK)
    for name, start in (("a", 0), ("b", 1000), ("a2", 0), ("c", 2000)):
        prefixes.hold(name, chain(range(start, start + 128), range(9000 + start, 9020 + start)))
        prefixes.release(name)
    # "a" was used again by "a2": "b" is the oldest.
    prefixes.hold("d", chain(range(3000, 3100)))
    assert prefixes.matched_tokens(chain(range(128), range(70))) == 128
    assert prefixes.matched_tokens(chain(range(1000, 1200))) == 0


def test_a_device_that_had_forgotten_is_believed() -> None:
    prefixes = ResidentPrefixes(4, CHUNK)
    prefixes.hold("a", chain(SYSTEM))
    prefixes.release("a")
    prefixes.reported(chain(SYSTEM, [1]), 192)
    assert prefixes.matched_tokens(chain(SYSTEM, [1])) == 192
    prefixes.reported(chain(SYSTEM, [1]), 0)
    assert prefixes.matched_tokens(chain(SYSTEM, [1])) == 0


def device(name: str, requests: int = 0, matched: int = 0, **more: Any) -> Candidate:
    return Candidate(name, matched, requests, more.get("slots", 8), more.get("kv_share", 0.0))


@pytest.mark.parametrize(
    ("candidates", "expected"),
    [
        ([device("a"), device("b", 1, matched=64)], "b"),
        ([device("a", matched=64), device("b", 1, matched=128)], "b"),
        # Half of its slots more than the emptiest: just so. More: the prefix is computed again.
        ([device("a"), device("b", 4, matched=64)], "b"),
        ([device("a"), device("b", 5, matched=64)], "a"),
        ([device("a", 6), device("b", 7, matched=64)], "b"),
        # No slot is free there, and one elsewhere.
        ([device("a", 7), device("b", 8, matched=64)], "a"),
        # Two with the prefix: the less loaded, by requests, then by KV.
        ([device("a", 2, matched=64), device("b", 1, matched=64), device("c")], "b"),
        ([device("a", matched=64, kv_share=0.3), device("b", matched=64)], "b"),
        ([device("a", 8), device("b", 9)], "a"),
    ],
)
def test_a_prefix_counts_before_load_within_bounds(
    candidates: list[Candidate], expected: str
) -> None:
    for seed in range(20):
        assert pick(candidates, "", random.Random(seed)).name == expected


def test_of_two_drawn_at_random_the_less_loaded() -> None:
    fleet = [device(str(requests), requests) for requests in range(8)]
    draw = random.Random(7)
    counts = [0] * 8
    for _ in range(2800):
        counts[int(pick(fleet, "", draw).name)] += 1
    # Of the 28 pairs, 7 have device 0 as the less loaded, 6 device 1, …, none the last.
    assert counts[7] == 0
    for index, count in enumerate(counts):
        assert count == pytest.approx(100 * (7 - index), abs=100)


def test_a_key_goes_to_one_device_while_that_has_a_slot() -> None:
    fleet = [device(name) for name in "abc"]
    home = pick(fleet, "chat", random.Random(1)).name
    busy = [device(name, 4 if name == home else 0) for name in "abc"]
    fuller = [device(name, 5 if name == home else 0) for name in "abc"]
    for seed in range(10):
        assert pick(busy, "chat", random.Random(seed)).name == home
        assert pick(fuller, "chat", random.Random(seed)).name != home
    homes = {pick(fleet, f"chat{n}", random.Random(1)).name for n in range(20)}
    assert homes == set("abc")


class Orphan:
    """What `blame` reads of a completion."""

    def __init__(self, *, seated: bool = True, ids: int = 0, new: int = 0) -> None:
        self.seated = seated
        self.ids = [0] * (ids + new)
        self.moved = new > 0
        self.losses = 0


@pytest.mark.parametrize(
    ("orphans", "expected"),
    [
        ([], None),
        ([Orphan(seated=False)], None),
        ([Orphan(new=5)], 0),
        ([Orphan(new=5), Orphan(new=3)], None),
        ([Orphan(new=5), Orphan(), Orphan(seated=False)], 1),
        # Both are replaying: who has less to replay was first at a new step.
        ([Orphan(ids=40), Orphan(ids=12), Orphan(ids=3, new=1)], 1),
    ],
)
def test_who_is_accused(orphans: list[Any], expected: int | None) -> None:
    accused = blame.suspect(orphans)
    assert accused is (None if expected is None else orphans[expected])


def test_the_accused_ends_at_two_devices_and_others_much_later() -> None:
    poison: Any = Orphan()
    bystander: Any = Orphan(new=1)
    for losses, ends in ((1, False), (2, True)):
        poison.losses = losses
        assert blame.given_up(poison, poison) is ends
    for losses in range(1, 5):
        bystander.losses = losses
        assert not blame.given_up(bystander, poison)
    bystander.losses = 5
    assert blame.given_up(bystander, poison)
