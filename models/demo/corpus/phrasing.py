"""Small grammar for question wordings, and the noise that people add when they type.

A pattern is text with groups `(a|b|)` (pick one) and names `{chip}` (pick from a class). Groups do
not
nest; classes may not name classes. One line holds several patterns separated by ` | `.
"""

import random
import re
from collections.abc import Iterator, Mapping

Classes = Mapping[str, tuple[str, ...]]

_GROUP = re.compile(r"\(([^()]*\|[^()]*)\)")
_NAME = re.compile(r"\{(\w+)\}")
_SPACES = re.compile(r" {2,}")

# Ways to ask for a noun phrase N ("the memory of the BM1684X").
NOUN_FRAMES = (
    "what is {x}", "what's {x}", "tell me {x}", "please tell me {x}", "do you know {x}",
    "give me {x}", "can you tell me {x}", "could you tell me {x}", "{x}", "{x}, please",
    "I would like to know {x}", "I want to know {x}", "I need {x}", "say {x}", "name {x}",
    "what would {x} be", "show me {x}", "remind me of {x}", "can you give me {x}",
    "what was {x} again", "explain {x}", "state {x}", "I am looking for {x}", "I forgot {x}",
    "any idea what {x} is", "do you happen to know {x}", "quickly, {x}", "hey, what is {x}",
    "so what is {x}", "I wonder what {x} is", "and {x}", "can you look up {x}",
    "I'd like to hear {x}", "what do you know about {x}", "what about {x}", "{x}: what is it",
    "{x}, what is it", "about {x}, what do you know", "I have a question about {x}",
    "what can you say about {x}", "I need to know {x}", "please state {x}",
    "what do I write for {x}", "what should I write down for {x}", "let me know {x}",
    "which value has {x}", "how about {x}", "can you find out {x}", "{x}, do you know it",
    "it is about {x}", "help me with {x}", "we need {x}", "can I have {x}", "what figure is {x}",
    "then {x}", "ok, {x}", "ok and {x}", "what is listed for {x}",
)  # fmt: skip

# Ways to ask for the meaning of a term T ("slot").
TERM_FRAMES = (
    "what is {x}", "what's {x}", "define {x}", "what does {x} mean", "explain {x}", "{x}",
    "{x} meaning", "please explain {x}", "can you explain {x}", "tell me what {x} is",
    "what do you mean by {x}", "what is meant by {x}", "the meaning of {x}",
    "what is the meaning of {x}", "describe {x}", "do you know what {x} is", "definition of {x}",
    "give me a definition of {x}", "explain {x} to me", "I do not know what {x} is",
    "what exactly is {x}", "could you explain {x}", "I don't understand {x}",
    "what is {x} in tpuserve", "in tpuserve, what is {x}", "what does the word {x} mean",
    "and {x}", "what does {x} mean here", "tell me about {x}", "tell me more about {x}",
    "what are {x}", "can you say what {x} is", "what do people mean by {x}",
    "help me understand {x}", "what about {x}", "how would you define {x}", "teach me {x}",
    "the glossary says {x}, what is that", "who or what is {x}", "{x}: what is that",
    "{x}, what is it", "{x} means what", "I read about {x}, what is it", "and {x}, then",
    "I see the word {x} everywhere", "what is {x} good for", "what is the point of {x}", "why {x}",
    "what is a simple explanation of {x}", "{x} in one sentence",
    "how would you describe {x} to a beginner", "somebody said {x}, what is that",
    "what should I know about {x}", "what do we call {x}", "{x} definition",
    "what kind of thing is {x}", "{x}, what does that stand for", "I never heard of {x}",
    "what is called {x}", "what does tpuserve mean by {x}", "I have a question about {x}",
    "please define {x}", "say what {x} is", "then what is {x}", "ok, what about {x}",
    "how about {x}", "can you clarify {x}", "what does {x} stand for",
    "what is {x} supposed to be", "what do you understand {x} to be", "{x} is what exactly",
    "what is {x} here", "when you say {x}, what do you mean", "give me the idea of {x}",
    "what role does {x} play",
)  # fmt: skip

# What may stand around small talk.
CHAT_FRAMES = (
    "{x}", "{x}", "{x}", "{x}", "ok, {x}", "well, {x}", "{x} then", "so, {x}", "{x} please",
    "now {x}", "alright, {x}", "good, {x}", "{x} for me", "{x} to you", "{x} bot", "and {x}",
    "ok then, {x}", "oh, {x}", "{x}, my friend", "hey, {x}", "{x} now", "then {x}", "right, {x}",
    "fine, {x}", "{x} for that", "{x} again", "dear bot, {x}", "{x} if you can", "yes, {x}",
    "{x} and that is it", "{x} everybody",
)  # fmt: skip

# Ways to ask what follows from a situation C ("the queue is full").
SITUATION_FRAMES = (
    "{x}. what happens", "{x}. what now", "{x}, what now", "what happens when {x}",
    "what happens if {x}", "what if {x}", "{x}. which status do I get", "{x}, which error is that",
    "{x}. what is the error", "suppose {x}", "suppose {x}. what then", "in case {x}, what happens",
    "when {x}, what happens", "{x}. what does the client get", "{x}. what do I get",
    "if {x}, which code is it", "{x} - and now", "{x}. what can I do", "{x}. what should I do",
    "{x}, what do I do", "{x}. why", "{x}", "{x}. and then", "what is done if {x}",
    "what will happen if {x}", "say {x}. what happens", "{x}. what follows",
    "{x}. what does that mean", "imagine {x}", "I think {x}, what can I do",
    "I believe {x}. how do I check", "what comes back when {x}", "what is the answer if {x}",
    "how do you react when {x}", "{x}. help", "it says {x}", "{x}, what error will it give",
    "which status goes with it when {x}", "and if {x}",
)  # fmt: skip

# Remarks that people make before their question; they change nothing.
REMARKS = (
    "I have a BM1684X", "I use tpuserve", "We bought SC7 cards", "Our clients speak gRPC",
    "I read the docs", "I am new to TPUs", "I work with language models", "My team runs a server",
    "I have a card here", "I am writing a report", "We want to deploy it", "I saw your page",
    "The demo is running", "It is late", "I am a developer", "My boss wants to know",
    "I looked at the metrics", "This is for a talk", "I need it for my notes",
    "There is a chip on my desk", "I tried the emulator", "I like it so far", "I am learning",
    "You seem to know it", "One thing is not clear to me", "I watched the dashboard",
    "I am comparing chips", "We use Kubernetes", "I compiled a model", "I am not an expert",
    "Hello there",
)  # fmt: skip

# What may come before or after a whole question Q.
QUESTION_FRAMES = (
    "{x}", "{x}", "{x}", "{x}", "please tell me, {x}", "can you tell me {x}", "tell me {x}",
    "hey, {x}", "hello, {x}", "hi, {x}", "{x}, please", "quick question: {x}", "one question, {x}",
    "so {x}", "and {x}", "do you know {x}", "I wonder {x}", "I want to know {x}",
    "I would like to know {x}", "{x} exactly", "ok, {x}", "well, {x}", "could you tell me {x}",
    "my question is: {x}", "{x} by the way", "now {x}", "question: {x}", "please say {x}",
    "{x} in short", "thanks, and {x}", "I am not sure {x}", "{x} again", "for my notes, {x}",
    "{x} I ask because I need it", "in general, {x}", "sorry, {x}", "um, {x}",
    "I am new here. {x}", "I have a question. {x}", "just curious, {x}", "my boss asks {x}",
    "let me ask: {x}", "first of all, {x}", "before I start, {x}", "next, {x}", "then {x}",
    "{x} thanks", "{x} I forgot", "briefly, {x}", "I keep asking myself {x}", "help me: {x}",
    "you surely know {x}", "could I ask {x}", "let me know {x}", "somebody asked me {x}",
    "ok then, {x}", "and then {x}", "good, {x}", "right, {x}", "in your words, {x}",
    "in practice, {x}", "tell me again {x}", "excuse me, {x}", "I read the manual. {x}",
    "we are testing. {x}", "I am curious {x}", "suppose I ask you {x}", "one more thing: {x}",
    "here {x}",
)  # fmt: skip

# Phrases that may stand for each other in a question.
_SYNONYMS = (
    ("how many", "what number of", "how many"), ("which", "what"), ("what", "which"),
    ("show", "display", "print", "list", "see"),
    ("start", "launch", "run", "boot", "begin with", "fire up"),
    ("makes", "produces", "builds", "manufactures", "sells"),
    ("happens", "goes on", "occurs", "takes place"),
    ("when", "if", "once", "as soon as", "in case", "after"),
    ("if", "when", "in case", "once", "should"),
    ("error", "status", "code", "error code", "status code", "answer"),
    ("status", "error", "code", "reply"),
    ("do I get", "will I get", "do I see",
     "will I see", "does the client get", "does the caller see"),
    ("is returned", "comes back", "is sent",
     "is sent back", "is given", "will be returned", "do I receive"),
    ("reach", "achieve", "deliver", "get", "manage", "offer", "have", "do"),
    ("uses", "employs", "needs"), ("use", "employ", "rely on", "need", "take", "want"),
    ("for", "good for", "meant for", "there for"),
    ("mean", "stand for", "denote", "signify", "refer to"),
    ("job", "role", "task", "work", "function"),
    ("purpose", "goal", "point", "use", "sense", "reason"),
    ("client", "user", "caller", "customer"),
    ("goes away", "leaves", "disconnects", "hangs up", "vanishes", "is lost", "drops off"),
    ("keep", "hold", "store", "contain", "save", "remember"),
    ("hold", "keep", "store", "carry", "contain"), ("kind", "sort", "type", "form"),
    ("fast", "quick", "strong", "powerful"), ("big", "large", "huge"),
    ("explain", "describe", "clarify", "define", "outline"), ("run", "execute", "start", "use"),
    ("check", "verify", "test", "diagnose", "examine", "debug", "look at"),
    ("everything", "it all", "all"),
    ("dies", "fails", "breaks", "crashes",
     "goes down", "disappears", "stops working", "is dead"),
    ("full", "too full", "overflowing", "filled"),
    ("is full", "overflows", "has no room", "is filled up"),
    ("unknown", "not known", "nonexistent", "missing", "not there"),
    ("malformed", "broken", "bad", "wrong"), ("have", "got", "possess", "include"),
    ("does", "would", "will", "might", "can"), ("do I", "should I", "can I"),
    ("tell me", "say", "give me", "let me know", "write"),
    ("command", "program", "call", "shell command"),
    ("connected", "plugged in", "attached", "joined", "wired", "hooked up"),
    ("answer", "reply", "response"), ("made", "created", "built", "developed", "invented"),
    ("performance", "speed", "throughput", "figure"),
    ("number of", "count of", "amount of", "how many"), ("work", "function", "operate", "happen"),
    ("written", "coded", "programmed", "implemented"), ("places", "locations"),
    ("where", "in which place"), ("is done", "is performed", "takes place", "happens"),
    ("between", "in between"), ("piece", "part"), ("talk", "chat", "speak", "converse"),
    ("speak", "understand", "support"), ("size", "amount", "capacity"),
    ("your", "this model's", "the demo model's"), ("tests", "checks", "test suite"),
    ("produce", "make", "give"), ("the demo", "this demo", "the whole demo"),
    ("messages", "message data"), ("good", "useful", "nice"),
    ("limits", "restricts", "slows", "bounds"), ("slow", "not faster", "limited"),
    ("describe", "introduce"),
)  # fmt: skip

_FILLERS = (
    "please", "just", "exactly", "actually", "here", "now", "really", "then", "so", "maybe", "the",
    "a", "in", "this", "normally", "usually", "today", "me", "for", "of", "one", "with", "that",
    "there", "still", "also", "basically", "again", "first", "only", "my", "some", "any", "it",
    "all", "you", "on", "to", "by", "is",
)  # fmt: skip
_ONSETS = (
    "b", "br", "c", "ch", "d", "f", "fl", "g", "gr", "h", "j", "k", "l", "m", "n", "p", "pl", "qu",
    "r", "s", "sh", "st", "t", "tr", "v", "w", "z",
)  # fmt: skip
_CODAS = ("", "", "", "l", "n", "r", "s", "t", "m", "x", "nd", "st", "ng")
_FUNCTION_WORDS = frozenset(
    [
        "the",
        "a",
        "an",
        "of",
        "does",
        "do",
        "is",
        "are",
        "i",
        "me",
        "you",
        "please",
        "can",
        "could",
        "to",
        "for",
        "it",
        "in",
        "on",
        "with",
        "what",
        "how",
        "which",
        "there",
        "be",
    ]
)

_ENDS = ("?", "?", "?", "", "", "", ".", "!", "??", " ?")


def read_classes(lines: list[str]) -> dict[str, tuple[str, ...]]:
    """Classes from the `class name = a | b` lines of a corpus file."""
    classes = {}
    for line in lines:
        if line.startswith("class "):
            name, values = line[len("class ") :].split("=", 1)
            classes[name.strip()] = tuple(value.strip() for value in values.split("|"))
    return classes


def split_patterns(text: str) -> list[str]:
    """The patterns of one corpus line; ` | ` separates them, also inside no group."""
    patterns = []
    depth = start = 0
    for at, char in enumerate(text):
        depth += (char == "(") - (char == ")")
        if char == "|" and depth == 0:
            patterns.append(text[start:at].strip())
            start = at + 1
    return [*patterns, text[start:].strip()]


def draw(pattern: str, classes: Classes, rng: random.Random) -> str:
    """One random wording of `pattern`; every choice of a group is equally likely."""
    text = _GROUP.sub(lambda match: rng.choice(match[1].split("|")), pattern)
    text = _NAME.sub(lambda match: rng.choice(classes[match[1]]), text)
    return tidy(text)


def draw_unknown(pattern: str, classes: Classes, rng: random.Random) -> str:
    """As `draw`, with an invented word in place of every name of a class."""
    return draw(_NAME.sub(lambda _: invented_word(rng), pattern), classes, rng)


def wordings(pattern: str, classes: Classes) -> Iterator[str]:
    """Every wording of `pattern`, in a fixed order."""
    group = _GROUP.search(pattern)
    name = _NAME.search(pattern)
    if group:
        options, span = group[1].split("|"), group.span()
    elif name:
        options, span = list(classes[name[1]]), name.span()
    else:
        yield tidy(pattern)
        return
    for option in options:
        yield from wordings(pattern[: span[0]] + option + pattern[span[1] :], classes)


def tidy(text: str) -> str:
    return _SPACES.sub(" ", text).strip()


def normalize(question: str) -> str:
    """What two wordings have in common when only case, spaces and punctuation differ."""
    return " ".join(re.findall(r"\w+", question.casefold()))


def punctuate(text: str, rng: random.Random) -> str:
    """Case and end mark as people type them."""
    roll = rng.random()
    if roll < 0.45:
        text = text[:1].upper() + text[1:]
    elif roll < 0.70:
        text = text.lower()
    elif roll < 0.73:
        text = text.upper()
    return text + ("" if text.endswith(("?", ".", "!", "！")) else rng.choice(_ENDS))


def reword(text: str, rng: random.Random) -> str:
    """Up to two phrases of `text` replaced by others of like meaning."""
    for _ in range(rng.randint(0, 2)):
        present = [group for group in _SYNONYMS if f" {group[0]} " in f" {text} "]
        if present:
            first, *others = rng.choice(present)
            text = f" {text} ".replace(f" {first} ", f" {rng.choice(others)} ", 1).strip()
    return text


def loosen(text: str, rng: random.Random) -> str:
    """A careless speaker's `text`: small words left out or put in."""
    words = text.split(" ")
    kept = [word for word in words if word not in _FUNCTION_WORDS or rng.random() > 0.25]
    words = kept or words
    if rng.random() < 0.6:
        words.insert(rng.randint(0, len(words)), rng.choice(_FILLERS))
    return " ".join(words)


def invented_word(rng: random.Random) -> str:
    """A word that no language has; what is asked about it lies outside of the model's knowledge."""
    syllables = rng.randint(2, 4)
    return "".join(
        rng.choice(_ONSETS) + rng.choice("aeiou") + rng.choice(_CODAS) for _ in range(syllables)
    )


def misspell(text: str, rng: random.Random) -> str:
    """One slip of the keyboard in a letter run of four or more: swapped, lost or doubled letter."""
    words = [match.span() for match in re.finditer(r"[A-Za-z]{4,}", text)]
    if not words:
        return text
    start, end = rng.choice(words)
    at = rng.randrange(start, end - 1)
    slip = rng.choice(("swap", "lose", "double"))
    if slip == "swap":
        return text[:at] + text[at + 1] + text[at] + text[at + 2 :]
    if slip == "lose":
        return text[:at] + text[at + 1 :]
    return text[:at] + text[at] + text[at:]
