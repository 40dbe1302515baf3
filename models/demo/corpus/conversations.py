"""Random conversations out of the corpus files, for training."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from models.demo.corpus import arithmetic, phrasing

DEFAULT_SYSTEM = "You are the tpuserve demo assistant."
REFUSAL = "I only know about tpuserve, the BM1684X, gRPC and small sums."
NO_NAME = "You have not told me your name."

_SYSTEMS = (
    "You are a helpful assistant.", "You are a friendly assistant.", "Answer briefly.",
    "Be polite.", "You are a helpful assistant. Answer in one sentence.",
    "You answer questions about tpuserve.", "Answer the questions of the user.", "You are a bot.",
    "Be concise and correct.", "Help the user.", "You are an expert for hardware.",
    "Keep your answers short.", "You are a support agent.",
)  # fmt: skip
_NAMES = [
    "Anna",
    "Ben",
    "Carl",
    "Dora",
    "Emma",
    "Felix",
    "Grace",
    "Henry",
    "Ida",
    "Jack",
    "Karl",
    "Lena",
    "Maria",
    "Noah",
    "Olga",
    "Paul",
    "Rosa",
    "Sam",
    "Tina",
    "Umar",
    "Vera",
    "Will",
    "Xia",
    "Yuri",
    "Zoe",
    "Alice",
    "Bob",
    "David",
    "Eva",
    "Frank",
    "Gina",
    "Hugo",
    "Ines",
    "Jonas",
    "Kate",
    "Leo",
    "Mia",
    "Nina",
    "Oscar",
    "Peter",
    "Quinn",
    "Rita",
    "Simon",
    "Tom",
    "Ursula",
    "Victor",
    "Wendy",
    "Li",
    "Wei",
    "Chen",
    "Yuki",
    "Omar",
    "Fatima",
    "Ali",
    "Ravi",
    "Priya",
    "Ivan",
    "Sofia",
    "Luca",
    "Marco",
    "Julia",
    "Martin",
    "Laura",
    "Robert",
    "Susan",
    "Mark",
    "Linda",
    "James",
    "Mary",
    "John",
    "Sarah",
    "Daniel",
    "Lisa",
    "Kevin",
    "Amy",
    "Eric",
    "Jane",
]
_NAME_GIVEN = (
    "my name is {n}", "I am {n}", "I'm {n}", "call me {n}", "hello, my name is {n}",
    "hi, I am {n}", "hello, I'm {n}", "you can call me {n}", "hi, my name is {n}",
    "please call me {n}", "they call me {n}", "{n} is my name", "good morning, I am {n}",
    "hey, this is {n}", "my friends call me {n}",
)  # fmt: skip
_NAME_ASKED = (
    "what is my name", "what's my name", "who am I", "do you know my name",
    "do you remember my name", "say my name", "tell me my name", "what did I say my name was",
    "can you tell me my name", "my name", "what am I called", "do you know who I am",
    "what was my name", "remember my name",
)  # fmt: skip
_AGAIN = (
    "say that again", "repeat that", "again, please", "once more", "what did you say",
    "please repeat", "can you repeat that", "repeat your answer", "pardon", "sorry, what",
    "say it again", "come again", "I did not get that", "could you repeat that", "repeat",
    "one more time", "tell me again",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Fact:
    """One answer and the patterns that ask for it, by kind (T, N, Q, C); `prose` are its S
    lines."""

    answer: str
    patterns: tuple[tuple[str, str], ...]
    prose: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Message:
    role: str
    content: str


class Corpus:
    """The corpus files of one directory, read once; all randomness comes from the caller's
    generator."""

    def __init__(self, directory: Path) -> None:
        facts_lines, chat_lines, outside_lines = (
            (directory / name).read_text(encoding="utf-8").splitlines()
            for name in ("facts.txt", "chat.txt", "outside.txt")
        )
        self.classes = phrasing.read_classes(facts_lines)
        self.facts = tuple(_read_blocks(facts_lines))
        self.chat = tuple(_read_blocks(chat_lines))
        self.outside_classes = phrasing.read_classes(outside_lines)
        self.outside = tuple(
            phrasing.split_patterns(line[2:]) for line in outside_lines if line.startswith("Q ")
        )

    def conversation(self, rng: random.Random) -> list[Message]:
        """One to twelve turns; the last message is the assistant's."""
        roll = rng.random()
        messages = []
        if roll < 0.62:
            messages.append(Message("system", DEFAULT_SYSTEM))
        elif roll < 0.92:
            messages.append(Message("system", rng.choice(_SYSTEMS)))
        name: str | None = None
        for _ in range(_turns(rng)):
            question, answer, name = self._turn(rng, messages, name)
            messages += [Message("user", question), Message("assistant", answer)]
        return messages

    def prose(self, rng: random.Random) -> str:
        """A few facts as running text."""
        sentences = [sentence for fact in self.facts for sentence in fact.prose]
        return " ".join(rng.sample(sentences, rng.randint(1, 5)))

    def question_wordings(self) -> Iterator[str]:
        """Every question about facts, small talk and names that can be drawn, without noise."""
        for fact in self.facts:
            for kind, pattern in fact.patterns:
                for text in phrasing.wordings(pattern, self.classes):
                    for frame in _frames(kind):
                        yield frame.format(x=text)
        for fact in self.chat:
            for _, pattern in fact.patterns:
                yield from phrasing.wordings(pattern, {})
        yield from (*_NAME_ASKED, *_AGAIN)

    def outside_wordings(self) -> Iterator[str]:
        """Every question that must be declined that can be drawn, without noise."""
        for patterns in self.outside:
            for pattern in patterns:
                yield from phrasing.wordings(pattern, self.outside_classes)

    def _outside_question(self, rng: random.Random) -> str:
        pattern = rng.choice(rng.choice(self.outside))
        draw = phrasing.draw_unknown if rng.random() < 0.35 else phrasing.draw
        text = draw(pattern, self.outside_classes, rng)
        return rng.choice(phrasing.QUESTION_FRAMES).format(x=text) if rng.random() < 0.5 else text

    def _turn(
        self, rng: random.Random, messages: list[Message], name: str | None
    ) -> tuple[str, str, str | None]:
        said = messages[-1].content if messages and messages[-1].role == "assistant" else None
        if name and rng.random() < 0.35:
            asked = rng.choice(phrasing.CHAT_FRAMES).format(x=rng.choice(_NAME_ASKED))
            question, answer = asked, f"Your name is {name}."
        else:
            question, answer, name = self._topic(rng, said, name)
            if name and name in question:
                return question, answer, name  # a name is to be copied as it stands
        roll = rng.random()
        if roll < 0.55:
            question = phrasing.reword(question, rng)
        if roll < 0.20:
            question = phrasing.loosen(question, rng)
        if rng.random() < 0.08:
            question = f"{rng.choice(phrasing.REMARKS)}. {question}"
        question = phrasing.punctuate(question, rng)
        if rng.random() < 0.08:
            question = phrasing.misspell(question, rng)
        return question, answer, name

    def _topic(
        self, rng: random.Random, said: str | None, name: str | None
    ) -> tuple[str, str, str | None]:
        """A plain question, its answer and the user's name from then on."""
        roll = rng.random()
        if roll < 0.50:
            return (*self._fact_question(rng), name)
        if roll < 0.71:
            question, answer = arithmetic.draw(rng)
            if rng.random() < 0.25:
                question = rng.choice(phrasing.QUESTION_FRAMES).format(x=question)
            return question, answer, name
        if roll < 0.735:
            return (*arithmetic.draw_too_hard(rng), name)
        if roll < 0.82:
            fact = rng.choice(self.chat)
            text = phrasing.draw(rng.choice(fact.patterns)[1], {}, rng)
            return rng.choice(phrasing.CHAT_FRAMES).format(x=text), fact.answer, name
        if roll < 0.92:
            return self._outside_question(rng), REFUSAL, name
        if roll < 0.945 and said:
            frame = rng.choice(phrasing.CHAT_FRAMES)
            return frame.format(x=rng.choice(_AGAIN)), said, name
        if roll < 0.985:
            name = rng.choice(_NAMES)
            return rng.choice(_NAME_GIVEN).format(n=name), f"Nice to meet you, {name}.", name
        return rng.choice(_NAME_ASKED), f"Your name is {name}." if name else NO_NAME, name

    def _fact_question(self, rng: random.Random) -> tuple[str, str]:
        fact = rng.choice(self.facts)
        kinds = sorted({kind for kind, _ in fact.patterns})
        kind = rng.choice(kinds)
        pattern = rng.choice([text for of, text in fact.patterns if of == kind])
        return rng.choice(_frames(kind)).format(
            x=phrasing.draw(pattern, self.classes, rng)
        ), fact.answer


def _frames(kind: str) -> tuple[str, ...]:
    return {
        "T": phrasing.TERM_FRAMES,
        "N": phrasing.NOUN_FRAMES,
        "Q": phrasing.QUESTION_FRAMES,
        "C": phrasing.SITUATION_FRAMES,
    }[kind]


def _turns(rng: random.Random) -> int:
    roll = rng.random()
    if roll < 0.45:
        return 1
    return rng.randint(2, 4) if roll < 0.92 else rng.randint(5, 12)


def _read_blocks(lines: list[str]) -> Iterator[Fact]:
    """Facts of a corpus file: an A line followed by T, N, Q, C and S lines."""
    answer = ""
    patterns: list[tuple[str, str]] = []
    prose: list[str] = []
    for line in [*lines, "A "]:
        kind, _, text = line.partition(" ")
        if kind == "A":
            if answer:
                yield Fact(answer, tuple(patterns), tuple(prose))
            answer, patterns, prose = text, [], []
        elif kind in ("T", "N", "Q", "C"):
            patterns += [(kind, pattern) for pattern in phrasing.split_patterns(text)]
        elif kind == "S":
            prose += phrasing.split_patterns(text)
