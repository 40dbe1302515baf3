"""Stop texts, against a definition that looks at every prefix of the text."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenizer_svc.stop import StopFinder


def feed(stops: Sequence[str], chunks: Sequence[str]) -> tuple[list[str], int | None]:
    finder = StopFinder(stops)
    shown: list[str] = []
    for chunk in chunks:
        result = finder.push(chunk)
        shown.append(result.text)
        if result.stop_index is not None:
            return shown, result.stop_index
    return [*shown, finder.finish()], None


def by_definition(stops: Sequence[str], text: str) -> tuple[str, int | None]:
    for end in range(1, len(text) + 1):
        met = [i for i, stop in enumerate(stops) if text[:end].endswith(stop)]
        if met:
            index = max(met, key=lambda i: len(stops[i]))
            return text[: end - len(stops[index])], index
    return text, None


LETTERS = st.text(alphabet="ab", max_size=12)


@given(
    stops=st.lists(st.text(alphabet="ab", min_size=1, max_size=5), min_size=1, max_size=5),
    chunks=st.lists(LETTERS, max_size=8),
)
@settings(max_examples=1000, deadline=None)
def test_any_stops_in_any_chunks(stops: list[str], chunks: list[str]) -> None:
    shown, index = feed(stops, chunks)
    assert ("".join(shown), index) == by_definition(stops, "".join(chunks))


@given(
    stops=st.lists(st.text(alphabet="ab", min_size=1, max_size=5), min_size=1, max_size=4),
    text=LETTERS,
)
@settings(max_examples=1000, deadline=None)
def test_no_more_is_held_back_than_could_begin_a_stop(stops: list[str], text: str) -> None:
    finder = StopFinder(stops)
    result = finder.push(text)
    if result.stop_index is None:
        begins = [n for n in range(len(text) + 1) if any(s.startswith(text[n:]) for s in stops)]
        assert result.text == text[: min(begins)]


def test_a_stop_across_chunks_is_dropped_with_what_follows() -> None:
    assert feed(["</end>"], ["hello <", "/en", "d> more"]) == (["hello ", "", ""], 0)


def test_what_only_looked_like_a_stop_is_shown_again() -> None:
    assert feed(["</end>"], ["a</", "enx", "b"]) == (["a", "</enx", "b", ""], None)


def test_the_first_completed_stop_counts_not_the_leftmost() -> None:
    for chunks in (["abcd"], list("abcd")):
        shown, index = feed(["bcd", "c"], chunks)
        assert ("".join(shown), index) == ("ab", 1)


@pytest.mark.parametrize(("stops", "index"), [(["c", "bc", "bc"], 1), (["abc", "c"], 0)])
def test_of_stops_that_end_together_the_longest_counts(stops: list[str], index: int) -> None:
    assert feed(stops, ["zabc"])[1] == index


def test_held_text_comes_out_at_the_end() -> None:
    assert feed(["stop"], ["we sto"]) == (["we ", "sto"], None)
