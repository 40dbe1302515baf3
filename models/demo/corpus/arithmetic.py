"""Sums and differences of the numbers 0 to 20, in digits and in words."""

import random

MAX_OPERAND = 20

LIMIT_ANSWER = "I can only add and subtract numbers from 0 to 20."

_WORDS = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
    "twenty",
]

_ADD = (
    "{a} + {b}", "{a} + {b}", "{a}+{b}", "{a}+{b}", "{a}+{b}", "{a} plus {b}", "{a} plus {b}",
    "the sum of {a} and {b}", "{a} and {b} together", "{a} added to {b}", "{a} with {b} added",
    "{a} and {b} added up", "the total of {a} and {b}", "{a} and {b} in sum", "{a} + {b}",
    "{a} plus {b}",
)  # fmt: skip
_SUBTRACT = (
    "{a} - {b}", "{a} - {b}", "{a}-{b}", "{a}-{b}", "{a}-{b}", "{a} minus {b}", "{a} minus {b}",
    "{a} less {b}", "the difference between {a} and {b}", "the difference of {a} and {b}",
    "{a} take away {b}", "{a} with {b} taken away", "{a} without {b}", "{a} reduced by {b}",
    "{a} - {b}", "{a} minus {b}",
)  # fmt: skip
_ADD_ORDERS = (
    "add {a} and {b}", "add {b} to {a}", "add up {a} and {b}", "sum {a} and {b}",
    "put {a} and {b} together", "what do I get if I add {a} and {b}",
    "what happens when you add {b} to {a}", "sum up {a} and {b}",
    "I have {a} and get {b} more, how many do I have",
    "I had {a} chips and bought {b}, how many are there", "if you add {a} and {b} what do you get",
    "what do {a} and {b} make", "add the numbers {a} and {b}",
    "{a} cards and {b} more cards are how many", "can you add {a} and {b}",
    "what number is {b} more than {a}", "start with {a} and add {b}", "increase {a} by {b}",
    "please add {a} and {b}", "could you add {a} to {b}", "what do I get from {a} and {b}",
    "hey, add {a} and {b}", "count {a} and {b} together", "{a} and {b} is what",
    "{a} plus {b} gives how much", "how much do {a} and {b} give",
    "what does {a} plus {b} come to",
)  # fmt: skip
_SUBTRACT_ORDERS = (
    "subtract {b} from {a}", "take {b} from {a}", "take {b} away from {a}", "remove {b} from {a}",
    "what do I get if I subtract {b} from {a}", "what is left if you take {b} from {a}",
    "I have {a} and lose {b}, how many do I have",
    "I had {a} chips and sold {b}, how many are left",
    "if you subtract {b} from {a} what do you get", "can you subtract {b} from {a}",
    "decrease {a} by {b}", "{a} cards without {b} cards are how many",
    "what number is {b} less than {a}", "please subtract {b} from {a}",
    "could you take {b} from {a}", "hey, subtract {b} from {a}", "{a} minus {b} gives how much",
    "how much does {a} minus {b} give", "what does {a} minus {b} come to",
    "what remains of {a} without {b}", "how far is it from {b} to {a}",
    "what do I get from {a} minus {b}", "start with {a} and take away {b}", "reduce {a} by {b}",
    "deduct {b} from {a}",
)  # fmt: skip
_FRAMES = (
    "what is {x}", "what's {x}", "{x}", "{x} =", "how much is {x}", "calculate {x}", "compute {x}",
    "tell me {x}", "please calculate {x}", "can you compute {x}", "do you know {x}", "{x} is",
    "and {x}", "work out {x}", "can you tell me what {x} is", "give me {x}", "what does {x} make",
    "{x} equals", "what does {x} equal", "hey, what is {x}", "solve {x}", "how many is {x}",
    "{x} please", "so {x}", "what do you get for {x}", "I need {x}", "find {x}", "quick: {x}",
    "what would {x} be", "now {x}", "evaluate {x}", "what comes out of {x}",
    "how much does {x} give", "what is the value of {x}", "hi, {x}", "could you compute {x}",
    "I want to know {x}", "I would like to know {x}", "let me see, {x}", "then {x}",
    "please add it up: {x}", "can you do {x}", "{x} gives", "what number is {x}",
    "could you tell me {x}", "ok, {x}", "the result of {x}", "what is the result of {x}",
    "the answer to {x}", "help me with {x}",
)  # fmt: skip
_TOO_HARD = (
    "{p} * {q}", "{p} x {q}", "{p} times {q}", "{p} / {q}", "{p} divided by {q}",
    "multiply {p} by {q}", "divide {p} by {q}", "{r} + {p}", "{p} + {r}", "{r} plus {s}",
    "{r} - {p}", "{r} minus {s}", "{r} + {s}", "the product of {p} and {q}", "the square of {p}",
    "add {r} and {s}", "subtract {p} from {r}", "{r}-{p}", "{r}+{s}", "half of {r}",
    "the sum of {r} and {p}",
)  # fmt: skip


def in_words(number: int) -> str:
    """The English word of a number from 0 to 20."""
    return _WORDS[number]


def answer(a: int, sign: str, b: int) -> str:
    """`sign` is "+" or "-"."""
    return f"{a} {sign} {b} = {a + b if sign == '+' else a - b}."


def draw(rng: random.Random) -> tuple[str, str]:
    """A question and its answer; every pair of operands and both signs are equally likely."""
    a, b = rng.randint(0, MAX_OPERAND), rng.randint(0, MAX_OPERAND)
    sign = rng.choice("+-")
    spell = rng.random() < 0.30
    names = {"a": _WORDS[a], "b": _WORDS[b]} if spell else {"a": str(a), "b": str(b)}
    if rng.random() < 0.3:
        orders = _ADD_ORDERS if sign == "+" else _SUBTRACT_ORDERS
        question = rng.choice(orders).format(**names)
    else:
        terms = _ADD if sign == "+" else _SUBTRACT
        question = rng.choice(_FRAMES).format(x=rng.choice(terms).format(**names))
    return question, answer(a, sign, b)


def draw_too_hard(rng: random.Random) -> tuple[str, str]:
    """A calculation outside of what the model learns, and the answer that says so."""
    small = {"p": rng.randint(0, 20), "q": rng.randint(1, 20)}
    large = {
        "r": rng.choice((rng.randint(21, 99), rng.randint(100, 9999))),
        "s": rng.randint(21, 999),
    }
    question = rng.choice(_TOO_HARD).format(**small, **large)
    return rng.choice(_FRAMES).format(x=question), LIMIT_ANSWER


def patterns() -> tuple[str, ...]:
    """All wordings without their numbers, for the check that held-out questions are new."""
    framed = tuple(frame.format(x=term) for frame in _FRAMES for term in (*_ADD, *_SUBTRACT))
    return (*framed, *_ADD_ORDERS, *_SUBTRACT_ORDERS)
