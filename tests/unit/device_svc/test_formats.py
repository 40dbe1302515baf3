"""Output formats on the device: which tokens may come next, until nothing may."""

from __future__ import annotations

import itertools
import json
from collections.abc import AsyncIterator
from typing import Any, Final

import jsonschema
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from device_svc import _core
from device_svc.engine_api import ModelShape
from device_svc.format_metrics import FormatMetrics
from device_svc.formats import Formats, GrammarMatcher
from device_svc.request import Refused, RejectReason
from device_svc.token_masks import Complete, Stuck
from tpuserve.errors import InvalidArgument
from tpuserve.output_format import FormatKind, OutputFormat
from tpuserve.vocabulary import Vocabulary

END, TURN, EXTRA = 256, 257, 258
PIECES: Final = (b'{"', b'": ', b'", "', b'"}', b"true", b"null", b" a", b"ab", b"abc", b"\xe2\x82")
TOKENS: Final = [
    *(bytes([value]) for value in range(256)),
    b"<|end|>",
    b"<|turn|>",
    b"<|extra|>",
    *PIECES,
    # An id without text, and one with the bytes of another.
    b"",
    b"abc",
]
VOCABULARY: Final = Vocabulary(TOKENS, (END, TURN, EXTRA), (END,))
# Rows of the head behind the vocabulary.
ROWS: Final = 290


def shape(*, argmax: bool = False, rows: int = ROWS) -> ModelShape:
    return ModelShape(512, 511, 64, rows, argmax, ())


@pytest.fixture
async def formats() -> AsyncIterator[Formats]:
    made = Formats(shape(), FormatMetrics(CollectorRegistry()))
    await made.put(VOCABULARY)
    yield made
    made.close()


async def matcher(
    formats: Formats,
    kind: FormatKind,
    text: str = "",
    *,
    choices: tuple[str, ...] = (),
    stop_ids: tuple[int, ...] = (END,),
    resume_ids: tuple[int, ...] = (),
) -> GrammarMatcher:
    output_format = OutputFormat(kind, text, choices)
    formats.check(output_format)
    return await formats.matcher(output_format, stop_ids=frozenset(stop_ids), resume_ids=resume_ids)


def allowed(one: GrammarMatcher) -> set[int]:
    mask = one.next_tokens()
    assert isinstance(mask, np.ndarray)
    assert mask.dtype == np.uint32
    assert mask.shape == ((ROWS + 31) // 32,)
    return set(np.flatnonzero(np.unpackbits(mask.view(np.uint8), bitorder="little")).tolist())


def ids_of(*texts: bytes) -> set[int]:
    return {i for i, token in enumerate(TOKENS) if token in texts}


async def test_every_way_to_write_a_text_is_open(formats: Formats) -> None:
    one = await matcher(formats, FormatKind.REGEX, "abc|abd")
    assert allowed(one) == ids_of(b"a", b"ab", b"abc")
    assert not one.accept(ord("a"))
    assert allowed(one) == ids_of(b"b")
    assert not one.accept(ord("b"))
    assert one.accept(ord("d"))
    assert isinstance(one.next_tokens(), Complete)


async def test_the_end_is_open_where_the_text_may_end(formats: Formats) -> None:
    one = await matcher(formats, FormatKind.REGEX, "a+", stop_ids=(END, TURN, ord("z")))
    assert allowed(one) == ids_of(b"a")
    assert not one.accept(ord("a"))
    assert allowed(one) == {ord("a"), END, TURN}
    # What ends no answer of this request is not drawn, as when it goes on past its end.
    endless = await matcher(formats, FormatKind.REGEX, "a+", stop_ids=())
    endless.accept(ord("a"))
    assert allowed(endless) == {ord("a")}


async def test_a_format_that_costs_too_much_gets_stuck_in_time(formats: Formats) -> None:
    text = "(.*a.{300}|.*b.{301}|.*c.{302}){3}"
    one = await matcher(formats, FormatKind.REGEX, text)
    tokens = itertools.cycle(b"abc")
    while not isinstance(found := one.next_tokens(), Stuck):
        one.accept(next(tokens))
    assert found.reason.startswith("output_format: lexer error: too many")
    assert "verbose" not in found.reason


@pytest.mark.parametrize(
    "output_format",
    [
        OutputFormat(FormatKind.CHOICE, choices=tuple(f"choice {i} of many" for i in range(1000))),
        OutputFormat(
            FormatKind.JSON_SCHEMA,
            json.dumps(
                {
                    "type": "object",
                    "properties": {f"property {i}": {"type": "integer"} for i in range(300)},
                    "additionalProperties": False,
                }
            ),
        ),
    ],
    ids=["choices", "properties"],
)
async def test_large_formats_stay_within_the_limits(
    formats: Formats, output_format: OutputFormat
) -> None:
    one = await formats.matcher(output_format, stop_ids=frozenset(), resume_ids=())
    for token in {
        "choice": b"choice 999 of many",
        "json_schema": b'{"property 7":12,"property 9":3}',
    }[output_format.kind.value]:
        assert token in allowed(one)
        done = one.accept(token)
    assert done


async def test_special_tokens_come_where_a_grammar_names_them(formats: Formats) -> None:
    text = 'start: "a" <|turn|> ("b" | <[258]>) <|end|>'
    one = await matcher(formats, FormatKind.GRAMMAR, text)
    for token, following in ((ord("a"), {TURN}), (TURN, {ord("b"), EXTRA}), (EXTRA, {END})):
        assert not one.accept(token)
        assert allowed(one) == following
    assert one.accept(END)


async def test_half_characters_follow_each_other(formats: Formats) -> None:
    one = await matcher(formats, FormatKind.CHOICE, choices=("€", "é"))
    assert allowed(one) == ids_of(b"\xe2", b"\xe2\x82", b"\xc3")
    one.accept(TOKENS.index(b"\xe2\x82"))
    assert allowed(one) == {0xAC}


async def test_gbnf_and_lark_mean_the_same(formats: Formats) -> None:
    gbnf = await matcher(formats, FormatKind.GRAMMAR, 'root ::= "a" [bc]+')
    lark = await matcher(formats, FormatKind.GRAMMAR, 'start: "a" /[bc]+/')
    for token in b"abc":
        assert allowed(gbnf) == allowed(lark)
        assert not gbnf.accept(token)
        assert not lark.accept(token)


async def test_a_matcher_begins_behind_what_was_delivered(formats: Formats) -> None:
    whole = await matcher(formats, FormatKind.JSON_OBJECT)
    text = list(b'{"a": [1, true]}')
    for count, token in enumerate(text):
        resumed = await matcher(formats, FormatKind.JSON_OBJECT, resume_ids=tuple(text[:count]))
        assert allowed(resumed) == allowed(whole)
        assert whole.accept(token) == (count == len(text) - 1)
    done = await matcher(formats, FormatKind.JSON_OBJECT, resume_ids=tuple(text))
    assert isinstance(done.next_tokens(), Complete)


async def test_resume_ids_outside_of_the_format_are_refused(formats: Formats) -> None:
    with pytest.raises(
        Refused, match=r"resume_ids\[2\] is 120, which output_format does not allow"
    ):
        await matcher(formats, FormatKind.REGEX, "abc", resume_ids=tuple(b"abx"))


async def test_requests_do_not_share_their_place(formats: Formats) -> None:
    first = await matcher(formats, FormatKind.REGEX, "abc")
    first.accept(ord("a"))
    second = await matcher(formats, FormatKind.REGEX, "abc")
    assert allowed(second) == ids_of(b"a", b"ab", b"abc")
    assert allowed(first) == ids_of(b"b")


async def test_a_token_that_does_not_fit_leaves_it_stuck(formats: Formats) -> None:
    one = await matcher(formats, FormatKind.REGEX, "abc")
    assert not one.accept(ord("x"))
    found = one.next_tokens()
    assert isinstance(found, Stuck)
    assert found.reason.startswith("output_format: ")


@pytest.mark.parametrize(
    ("kind", "text", "said"),
    [
        (FormatKind.GRAMMAR, "start: <|nobody|>", "unknown special token"),
        (FormatKind.JSON_SCHEMA, '{"type": "text"}', "json_schema: Invalid type: text"),
        (FormatKind.REGEX, "(", "regex: "),
        (FormatKind.REGEX, "", "regex has 0 bytes"),
    ],
)
async def test_a_format_that_cannot_be_is_refused_every_time(
    formats: Formats, kind: FormatKind, text: str, said: str
) -> None:
    for _ in range(2):
        with pytest.raises(Refused, match=said) as caught:
            await matcher(formats, kind, text)
        assert caught.value.reason is RejectReason.INVALID


async def test_what_the_device_lacks_is_named() -> None:
    wanted = OutputFormat(FormatKind.JSON_OBJECT)
    for one, said in (
        (Formats(shape(argmax=True), FormatMetrics(CollectorRegistry())), "needs logits"),
        (Formats(shape(), FormatMetrics(CollectorRegistry())), "needs a vocabulary: none is put"),
    ):
        with pytest.raises(Refused, match=said) as caught:
            one.check(wanted)
        assert caught.value.reason is RejectReason.UNSUPPORTED
        assert one.vocabulary_sha256 == ""
        one.close()


async def test_control_tokens_behind_the_head_are_never_drawn() -> None:
    image = len(TOKENS)
    with_image = Vocabulary([*TOKENS, b"<|image|>"], (*VOCABULARY.special_ids, image), (END,))
    formats = Formats(shape(rows=image), FormatMetrics(CollectorRegistry()))
    await formats.put(with_image)
    assert formats.vocabulary_sha256 == with_image.sha256()
    made = await matcher(formats, FormatKind.REGEX, "ab")
    first = made.next_tokens()
    assert isinstance(first, np.ndarray)
    assert len(first) == (image + 31) // 32
    assert not first[-1] >> np.uint32(image % 32)
    formats.close()
    text = Vocabulary([*TOKENS, b"text"], VOCABULARY.special_ids, (END,))
    refusing = Formats(shape(rows=image), FormatMetrics(CollectorRegistry()))
    with pytest.raises(InvalidArgument, match="the model's head "):
        await refusing.put(text)
    refusing.close()


async def test_a_vocabulary_must_fit_the_head() -> None:
    small = Formats(shape(rows=len(TOKENS) - 1), FormatMetrics(CollectorRegistry()))
    with pytest.raises(InvalidArgument, match=f"has {len(TOKENS)} tokens, the model's head "):
        await small.put(VOCABULARY)
    with pytest.raises(InvalidArgument, match="has 0 tokens"):
        await small.put(Vocabulary([], (), ()))
    small.close()
    exact = Formats(shape(rows=len(TOKENS)), FormatMetrics(CollectorRegistry()))
    await exact.put(VOCABULARY)
    assert exact.vocabulary_sha256 == VOCABULARY.sha256()
    exact.close()


async def test_formats_are_counted_and_compiled_once() -> None:
    registry = CollectorRegistry()
    made = Formats(shape(), FormatMetrics(registry))
    await made.put(VOCABULARY)
    for _ in range(3):
        await matcher(made, FormatKind.REGEX, "abc")
    made.close()
    asked = registry.get_sample_value("tpuserve_device_formats_total", {"kind": "regex"})
    compiled = registry.get_sample_value("tpuserve_device_format_compile_seconds_count")
    assert (asked, compiled) == (3, 1)


def draw(one: GrammarMatcher, *, seed: int) -> bytes:
    """What a model with random logits says; the sampler is the real one."""
    random = np.random.default_rng(seed)
    params = _core.SamplingParams(temperature=1.5, top_k=20 * (seed % 3), seed=seed)
    sampler = _core.Sampler(params, ROWS, np.zeros(0, np.int32))
    text = b""
    for _ in range(2000):
        mask = one.next_tokens()
        if isinstance(mask, Complete):
            return text
        assert isinstance(mask, np.ndarray), mask
        row = random.normal(size=(1, ROWS)).astype(np.float32) * 4
        [drawn] = _core.sample(row, [sampler], [mask])
        if drawn.token == END:
            return text
        text += TOKENS[drawn.token]
        if one.accept(drawn.token):
            return text
    raise AssertionError(text)


def leaves() -> st.SearchStrategy[dict[str, Any]]:
    return st.one_of(
        st.builds(
            lambda low, span: {"type": "integer", "minimum": low, "maximum": low + span},
            st.integers(-50, 50),
            st.integers(0, 200),
        ),
        st.builds(lambda n: {"type": "string", "maxLength": n}, st.integers(0, 6)),
        st.builds(
            lambda values: {"enum": values},
            st.lists(st.sampled_from([1, "x y", None, True, "ü", [1]]), min_size=1, max_size=3),
        ),
        st.just({"type": "boolean"}),
        st.just({"type": "string", "pattern": "^[a-c]{2,4}$"}),
        st.just({"type": "string", "format": "date"}),
    )


def schemas() -> st.SearchStrategy[dict[str, Any]]:
    """Of values whose texts have an end."""
    return st.recursive(
        leaves(),
        lambda inner: st.one_of(
            st.builds(
                lambda items, n: {"type": "array", "items": items, "minItems": 1, "maxItems": n},
                inner,
                st.integers(1, 3),
            ),
            st.builds(
                lambda properties, required: {
                    "type": "object",
                    "properties": properties,
                    "required": sorted(properties)[:required],
                    "additionalProperties": False,
                },
                st.dictionaries(st.sampled_from(["a", "b", "long name", "ö"]), inner, max_size=3),
                st.integers(0, 3),
            ),
            st.builds(lambda one, other: {"anyOf": [one, other]}, inner, inner),
        ),
        max_leaves=5,
    )


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(schema=schemas(), seed=st.integers(0, 2**32))
async def test_whatever_is_drawn_under_a_schema_is_valid(
    formats: Formats, schema: dict[str, Any], seed: int
) -> None:
    one = await matcher(formats, FormatKind.JSON_SCHEMA, json.dumps(schema))
    value = json.loads(draw(one, seed=seed))
    jsonschema.validate(value, schema)
