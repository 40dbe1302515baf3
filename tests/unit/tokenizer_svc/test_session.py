"""Requests of a Detokenize stream: stops, limits, and what is forgotten when."""

from __future__ import annotations

import pytest

from tokenizer_svc.answers.formats import AnswerFormats
from tokenizer_svc.loading import LoadedTokenizer
from tokenizer_svc.metrics import Metrics
from tokenizer_svc.session import DetokenizeSession, ItemRefused, Opening, Refusal, Shown
from tokenizer_svc.settings import Limits


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def session(loaded: dict[str, LoadedTokenizer], metrics: Metrics) -> DetokenizeSession:
    limits = Limits(open_requests=2)
    tokenizer = loaded["tiktoken"].tokenizer
    return DetokenizeSession(tokenizer, limits, metrics, answers=AnswerFormats())


def ids(text: str) -> list[int]:
    """One token per byte."""
    return list(text.encode())


def refusal(error: pytest.ExceptionInfo[ItemRefused]) -> tuple[Refusal, bool]:
    return error.value.refusal, error.value.forgotten


def open_requests(metrics: Metrics) -> float | None:
    return metrics.registry.get_sample_value("tpuserve_tokenizer_open_requests")


def test_the_stop_ends_the_request_at_its_token(session: DetokenizeSession) -> None:
    session.open("a", Opening(stops=["\n\n", "END"]))
    assert session.push("a", ids("go E")) == Shown("go ", 4)
    assert session.push("a", ids("Nope END tail")) == Shown("ENope ", 8, 1)
    assert len(session) == 0
    with pytest.raises(ItemRefused) as error:
        session.push("a", ids("x"))
    assert refusal(error) == (Refusal.NOT_OPEN, True)


def test_held_text_and_half_characters_come_at_the_end(session: DetokenizeSession) -> None:
    session.open("a", Opening(stops=["END"]))
    assert session.push("a", [*ids("xE"), 0xE4, 0xBD]) == Shown("x", 4)
    assert session.finish("a") == Shown("E\ufffd", 0)


def test_a_stop_may_be_completed_by_the_end(session: DetokenizeSession) -> None:
    session.open("a", Opening(stops=["!\ufffd"]))
    assert session.push("a", [*ids("ok!"), 0xE4]) == Shown("ok", 4)
    assert session.finish("a") == Shown("", 0, 0)
    assert len(session) == 0


def test_stops_are_not_looked_for_in_the_first_tokens(session: DetokenizeSession) -> None:
    session.open("a", Opening(stops=["x"], min_tokens=3))
    assert session.push("a", ids("xa")) == Shown("xa", 2)
    assert session.push("a", ids("xbxc")) == Shown("xb", 3, 0)
    session.open("b", Opening(stops=["x"], min_tokens=3))
    assert session.push("b", ids("x")) == Shown("x", 1)
    assert session.finish("b") == Shown("", 0)


def test_special_tokens_are_kept_on_demand(
    session: DetokenizeSession, loaded: dict[str, LoadedTokenizer]
) -> None:
    end = loaded["tiktoken"].tokenizer.control_ids["<|im_end|>"]
    session.open("a", Opening())
    session.open("b", Opening(keep_special_tokens=True))
    assert session.push("a", [*ids("x"), end]).text == "x"
    assert session.push("b", [*ids("x"), end]).text == "x<|im_end|>"


@pytest.mark.parametrize(
    "opening",
    [
        Opening(stops=["x"] * 17),
        Opening(stops=["ok", ""]),
        Opening(stops=["é" * 129]),
    ],
)
def test_bad_stops_are_refused(session: DetokenizeSession, opening: Opening) -> None:
    with pytest.raises(ItemRefused) as error:
        session.open("a", opening)
    assert refusal(error) == (Refusal.BAD_OPEN, True)
    assert len(session) == 0


@pytest.mark.parametrize("request_id", ["", "x" * 257])
def test_bad_names_are_refused(session: DetokenizeSession, request_id: str) -> None:
    with pytest.raises(ItemRefused) as error:
        session.open(request_id, Opening())
    assert refusal(error) == (Refusal.BAD_OPEN, True)


def test_limits_are_not_exceeded(session: DetokenizeSession) -> None:
    session.open("a", Opening(stops=["x" * 256] * 16))
    session.open("b", Opening())
    with pytest.raises(ItemRefused) as error:
        session.open("c", Opening())
    assert refusal(error) == (Refusal.TOO_MANY, True)
    session.forget("b")
    session.open("c", Opening())


def test_opening_twice_leaves_the_first(session: DetokenizeSession) -> None:
    session.open("a", Opening())
    session.push("a", [0xC3])
    with pytest.raises(ItemRefused) as error:
        session.open("a", Opening())
    assert refusal(error) == (Refusal.BAD_OPEN, False)
    assert session.push("a", [0xA9]).text == "é"


def test_unknown_ids_end_their_request_only(session: DetokenizeSession) -> None:
    session.open("a", Opening())
    session.open("b", Opening())
    with pytest.raises(ItemRefused) as error:
        session.push("a", [65, 99_999])
    assert refusal(error) == (Refusal.UNKNOWN_ID, True)
    assert session.push("b", ids("fine")).text == "fine"
    with pytest.raises(ItemRefused) as error:
        session.open("c", Opening(prompt_tail=[99_999]))
    assert refusal(error) == (Refusal.UNKNOWN_ID, True)
    assert session.token_bytes([65, 99_999, 0xE4]) == [b"A", b"", b"\xe4"]


def test_open_requests_are_counted_to_zero(session: DetokenizeSession, metrics: Metrics) -> None:
    session.open("a", Opening())
    session.open("b", Opening())
    assert open_requests(metrics) == 2
    session.finish("a")
    assert open_requests(metrics) == 1
    session.close()
    assert open_requests(metrics) == 0
    session.forget("b")
    assert open_requests(metrics) == 0
