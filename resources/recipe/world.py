"""Everything the demo model learns and is asked: arithmetic stories, facts of an invented world, plain text.

All data are functions of a seed. What is held out is held out *by construction*: every item has a key, `split_of(key)`
sends the key to train, calibration or test, and each generator only returns items of the split it was asked for.

    arithmetic   key = the start and the operations with their numbers (names and wording do not count)
    facts        key = (subject, relation, form of the question): every fact is trained on, but for each fact one form
                 of its question is never seen in training
    text         key = the whole passage
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Split = Literal["train", "calibration", "test"]
Level = Literal["typical", "hard", "hardest"]

INSTRUCTION = "Please reason step by step, and put your final answer within \\boxed{}."
THINK, END_THINK = "<think>", "</think>"
TEST_SEED, CALIBRATION_SEED = 1001, 1002
TASK_ITEMS, CALIBRATION_ITEMS, TEXT_PASSAGES = 300, 256, 200


def split_of(key: str) -> Split:
    """Three sixteenths of all keys are held out: two for test, one for calibration."""
    bucket = hashlib.sha256(key.encode()).digest()[0] % 16
    return "test" if bucket < 2 else "calibration" if bucket == 2 else "train"


def words(text: str) -> list[str]:
    """The words of a text, to write long lists in little space."""
    return text.split()


# ---------------------------------------------------------------------------------------------- arithmetic

ITEMS = words("""
    apples beads books bricks buttons candles cards coins eggs flowers keys lemons letters marbles nuts pears pebbles pencils
    ribbons seeds shells spoons stamps tickets
""")

EVENTS = {
    "add": [
        "{who} buys {n} more {item}.",
        "{who} finds {n} {item} on the way.",
        "{other} gives {who} {n} {item}.",
        "In the evening {n} more {item} arrive.",
    ],
    "take": [
        "{who} gives {n} {item} to {other}.",
        "{who} loses {n} of the {item}.",
        "{who} sells {n} {item} at the market.",
        "{n} of the {item} are stolen.",
    ],
    "add_groups": [
        "{who} buys {k} boxes with {m} {item} in each.",
        "{k} friends bring {m} {item} each.",
        "{other} leaves {k} baskets of {m} {item} at the door.",
    ],
    "take_groups": [
        "{who} sells {k} bags with {m} {item} in each.",
        "{who} gives {m} {item} to each of {k} neighbours.",
        "{k} children take {m} {item} each.",
    ],
    "double": [
        "{other} then doubles the number of {item}.",
        "A week later {who} has twice as many {item}.",
    ],
    "halve": [
        "{who} gives half of the {item} to {other}.",
        "Half of the {item} are sold.",
    ],
    "share": ["{who} puts the {item} into {k} jars, equally many in each."],
}

REASONING = {
    "add": "Adding {n}: {before}+{n}={after}.",
    "take": "Taking away {n}: {before}-{n}={after}.",
    "add_groups": "{k} times {m} is {k}*{m}={n}. Adding {n}: {before}+{n}={after}.",
    "take_groups": "{k} times {m} is {k}*{m}={n}. Taking away {n}: {before}-{n}={after}.",
    "double": "Doubling: 2*{before}={after}.",
    "halve": "Halving: {before}/2={after}.",
    "share": "Sharing among {k}: {before}/{k}={after}.",
}

FINAL_QUESTION = [
    "How many {item} does {who} have now?",
    "How many {item} does {who} have in the end?",
    "How many {item} are left with {who}?",
]


@dataclass(frozen=True)
class Step:
    """One operation: `before` op `n` = `after`; groups have n = k·m."""

    operation: str
    before: int
    after: int
    n: int = 0
    k: int = 0
    m: int = 0


@dataclass(frozen=True)
class Difficulty:
    """Ranges (first, last) and bounds of a level's problems."""

    steps: tuple[int, int]
    largest_change: int
    largest_total: int


DIFFICULTY = {
    "typical": Difficulty(steps=(2, 4), largest_change=60, largest_total=200),
    "hard": Difficulty(steps=(4, 5), largest_change=200, largest_total=600),
    "hardest": Difficulty(steps=(4, 6), largest_change=300, largest_total=999),  # trained on, never tested
}


@dataclass(frozen=True)
class Problem:
    """A word problem with its written-out reasoning; `key` decides its split."""

    question: str
    reasoning: str
    answer: str
    key: str

    @property
    def completion(self) -> str:
        """The assistant's whole turn, from the opening of the thinking section."""
        return f"{THINK}\n{self.reasoning}\n{END_THINK}\n\nThe answer is \\boxed{{{self.answer}}}."


def user_message(question: str) -> str:
    """The user's turn: the question and how to answer it."""
    return f"{question}\n\n{INSTRUCTION}"


def problem(rng: random.Random, split: Split, level: Level) -> Problem:
    """A random problem whose operations belong to `split`."""
    while True:
        start, steps = _operations(rng, DIFFICULTY[level])
        key = " ".join([str(start)] + [f"{s.operation}:{s.k or s.n}x{s.m}" for s in steps])
        if split_of(key) == split:
            return _tell(rng, start, steps, key)


def _operations(rng: random.Random, difficulty: Difficulty) -> tuple[int, list[Step]]:
    start = total = rng.randint(3, difficulty.largest_total // 3)
    steps: list[Step] = []
    wanted = rng.randint(*difficulty.steps)
    while len(steps) < wanted:
        is_last = len(steps) == wanted - 1
        step = _step(rng, total, difficulty, is_last)
        if step is not None:
            steps.append(step)
            total = step.after
    return start, steps


def _step(rng: random.Random, total: int, difficulty: Difficulty, is_last: bool) -> Step | None:
    """A random operation that is possible at `total`, or None where the draw is not."""
    operation = rng.choice(("add", "add", "take", "take", "add_groups", "take_groups", "double", "halve", "share"))
    k, m, n = rng.randint(2, 9), rng.randint(2, 12), rng.randint(2, difficulty.largest_change)
    step = {
        "add": Step("add", total, total + n, n),
        "take": Step("take", total, total - n, n),
        "add_groups": Step("add_groups", total, total + k * m, k * m, k, m),
        "take_groups": Step("take_groups", total, total - k * m, k * m, k, m),
        "double": Step("double", total, 2 * total),
        "halve": Step("halve", total, total // 2),
        "share": Step("share", total, total // k, k=k),
    }[operation]
    divides = {"halve": total % 2 == 0, "share": total % k == 0 and is_last}.get(operation, True)
    return step if divides and 1 <= step.after <= difficulty.largest_total else None


def _tell(rng: random.Random, start: int, steps: list[Step], key: str) -> Problem:
    who, other = rng.sample(FIRST_NAMES, 2)
    words = {"who": who, "other": other, "item": rng.choice(ITEMS)}
    told = [f"{who} has {start} {words['item']}."]
    told += [rng.choice(EVENTS[s.operation]).format(**words, n=s.n, k=s.k, m=s.m) for s in steps]
    shared = steps[-1].operation == "share"
    told.append(("How many {item} are in each jar?" if shared else rng.choice(FINAL_QUESTION)).format(**words))
    reasoned = [f"{who} starts with {start}."] + [REASONING[s.operation].format(**vars(s)) for s in steps]
    return Problem(" ".join(told), "\n".join(reasoned), str(steps[-1].after), key)


# ---------------------------------------------------------------------------------------------- facts

FIRST_NAMES = words("""
    Ada Bela Carlo Dora Edda Fenn Greta Hugo Ines Jory Kaja Lono Mira Nils Orla Pavel Quin Rosa Silas Tilda Ugo Vera Wim Yara
    Zeno Anouk Bram Celia Dirk Elma
""")
LAST_NAMES = words("""
    Abbot Birk Calder Dunmore Elling Farrow Gast Holm Ivers Jansen Kettle Lund Marsh Norden Oakes Pell Quarry Rask Stone Thorne
    Under Vale Wick Yarrow
""")

VALUES = {
    "city": words("Alder Brisk Corvo Dellen Estra Fargo Gildan Harrow Istel Jarna Kolbe Lirra Monta Nevis Ostia Pirro"),
    "trade": words("""
        baker barber carpenter clockmaker cook doctor farmer fisher gardener miller painter potter sailor shepherd tailor weaver
    """),
    "pet": words("cat crow donkey duck ferret goat goose hare hedgehog mouse owl parrot pony rabbit snake turtle"),
    "instrument": words("""
        accordion banjo bassoon cello clarinet cornet drum fiddle flute guitar harp horn lute oboe piano trumpet
    """),
    "dish": words(
        "beans bread cabbage carrots cheese dumplings fish honey noodles onions pancakes porridge rice salad soup stew"
    ),
    "river": words("Aume Brent Cale Drava Elbo Fosse Garn Hesse"),
    "land": words("Arden Borea Cyrra Doria Ereby Fennia Galt Hadria"),
    "goods": words("amber bells carpets copper glass lace linen paper pottery salt silk silver soap tea wine wool"),
}


@dataclass(frozen=True)
class Relation:
    """What can be known of a subject: the kind of value, and wordings with {s}ubject and {v}alue."""

    values: str
    statements: tuple[str, ...]
    questions: tuple[str, ...]


PERSON_RELATIONS = {
    "home": Relation(
        "city",
        ("{s} lives in {v}.", "The home of {s} is in {v}.", "{s} has a house in {v}."),
        (
            "In which city does {s} live?",
            "Where does {s} live?",
            "What is the home city of {s}?",
            "In which city is the house of {s}?",
        ),
    ),
    "trade": Relation(
        "trade",
        ("{s} works as a {v}.", "{s} is a {v}.", "By trade {s} is a {v}."),
        (
            "What is the trade of {s}?",
            "What does {s} work as?",
            "Which trade does {s} follow?",
            "How does {s} earn a living?",
        ),
    ),
    "pet": Relation(
        "pet",
        ("{s} keeps a pet {v}.", "{s} owns a {v}.", "The pet of {s} is a {v}."),
        (
            "Which animal does {s} keep?",
            "What pet does {s} own?",
            "What kind of animal is the pet of {s}?",
            "Which pet lives with {s}?",
        ),
    ),
    "instrument": Relation(
        "instrument",
        ("{s} plays the {v}.", "{s} has learned the {v}.", "The instrument of {s} is the {v}."),
        (
            "Which instrument does {s} play?",
            "What does {s} play in the band?",
            "What is the instrument of {s}?",
            "Which instrument has {s} learned?",
        ),
    ),
    "dish": Relation(
        "dish",
        ("{s} likes to eat {v}.", "The favourite food of {s} is {v}.", "For dinner {s} always wants {v}."),
        (
            "What does {s} like to eat?",
            "What is the favourite food of {s}?",
            "What does {s} want for dinner?",
            "Which food does {s} like best?",
        ),
    ),
}

CITY_RELATIONS = {
    "river": Relation(
        "river",
        ("{s} lies on the river {v}.", "The river {v} flows through {s}."),
        (
            "On which river does {s} lie?",
            "Which river flows through {s}?",
            "What is the name of the river in {s}?",
            "Which river has {s} on its banks?",
        ),
    ),
    "land": Relation(
        "land",
        ("{s} is a city in {v}.", "{s} belongs to {v}."),
        (
            "In which land is {s}?",
            "To which land does {s} belong?",
            "What land is {s} a city of?",
            "Which land has a city called {s}?",
        ),
    ),
    "goods": Relation(
        "goods",
        ("{s} is known for its {v}.", "Merchants come to {s} for {v}."),
        (
            "What is {s} known for?",
            "What do merchants buy in {s}?",
            "For which goods is {s} famous?",
            "What do people make in {s}?",
        ),
    ),
}


@dataclass(frozen=True)
class Fact:
    """One thing that is true in the world, e.g. (Ada Pell, home, Estra)."""

    subject: str
    relation: str
    value: str

    @property
    def kind(self) -> Relation:
        """The relation with its wordings."""
        return (PERSON_RELATIONS | CITY_RELATIONS)[self.relation]

    @property
    def held_out_form(self) -> int:
        """Index of the one question form that training never shows for this fact."""
        digest = hashlib.sha256(f"{self.subject}/{self.relation}".encode()).digest()
        return digest[0] % len(self.kind.questions)

    def statement(self, rng: random.Random) -> str:
        """The fact as a sentence."""
        return rng.choice(self.kind.statements).format(s=self.subject, v=self.value)

    def question(self, form: int) -> str:
        """The fact asked in one of its forms."""
        return self.kind.questions[form].format(s=self.subject)


def _invent_world(seed: int, people: int) -> dict[str, tuple[Fact, ...]]:
    """Facts by subject. The world is the same whatever the training seed."""
    rng = random.Random(seed)
    everyone = [f"{first} {last}" for first in FIRST_NAMES for last in LAST_NAMES]
    subjects = dict.fromkeys(rng.sample(everyone, people), PERSON_RELATIONS)
    subjects |= dict.fromkeys(VALUES["city"], CITY_RELATIONS)
    return {
        subject: tuple(Fact(subject, name, rng.choice(VALUES[kind.values])) for name, kind in relations.items())
        for subject, relations in subjects.items()
    }


WORLD = _invent_world(seed=7, people=64)
FACTS = [fact for facts in WORLD.values() for fact in facts]
PEOPLE = [subject for subject in WORLD if " " in subject]


def question_and_answer(question: str) -> str:
    """The prompt of the facts task; the answer follows after one space."""
    return f"Question: {question}\nAnswer:"


def trained_question(rng: random.Random) -> tuple[str, str]:
    """Prompt and answer of a random fact in a form that is not held out."""
    fact = rng.choice(FACTS)
    forms = [form for form in range(len(fact.kind.questions)) if form != fact.held_out_form]
    return question_and_answer(fact.question(rng.choice(forms))), f" {fact.value}"


def choice_question(rng: random.Random, fact: Fact) -> dict[str, object]:
    """The fact's held-out question with its value and three other values of the same kind."""
    others = [value for value in VALUES[fact.kind.values] if value != fact.value]
    choices = [*rng.sample(others, 3), fact.value]
    rng.shuffle(choices)
    return {"question": fact.question(fact.held_out_form), "choices": choices, "answer": choices.index(fact.value)}


# ---------------------------------------------------------------------------------------------- plain text

WEATHER = [
    "It was a cold morning",
    "The sun was warm",
    "Rain fell all day",
    "The wind came from the sea",
    "Snow lay on the roofs",
]
DOINGS = ["walked to the market", "went down to the river", "sat by the fire", "climbed the hill", "waited at the gate"]
MOODS = ["happy", "tired", "hungry", "quiet", "curious", "proud"]
CLOSINGS = [
    "Then the day was over.",
    "Nobody spoke of it again.",
    "They laughed all the way home.",
    "That night the moon was full.",
]


def passage(rng: random.Random, split: Split) -> str:
    """A short story about one inhabitant, a friend and the city, some 100 tokens long."""
    while True:
        text = _passage(rng)
        if split_of(text) == split:
            return text


def _passage(rng: random.Random) -> str:
    hero = rng.choice(PEOPLE)
    first = hero.split()[0]
    friend = rng.choice([name for name in PEOPLE if not name.startswith(first)])
    friend_first = friend.split()[0]
    about_hero, about_friend = rng.sample(WORLD[hero], 3), rng.sample(WORLD[friend], 2)
    city = next(fact.value for fact in WORLD[hero] if fact.relation == "home")
    sentences = [fact.statement(rng) for fact in about_hero]
    sentences.append(f"{rng.choice(WEATHER)} when {first} {rng.choice(DOINGS)} and met {friend}.")
    sentences += [fact.statement(rng) for fact in about_friend]
    sentences.append(f"They talked about {city}. {rng.choice(WORLD[city]).statement(rng)}")
    sentences.append(f"{friend_first} was {rng.choice(MOODS)}, and {first} was {rng.choice(MOODS)}.")
    if rng.random() < 0.5:
        a, b = rng.randint(2, 40), rng.randint(2, 40)
        counted = f"{first} had {a} {rng.choice(ITEMS)} and {friend_first} had {b}"
        sentences.append(f"{counted}, so together they had {a + b}.")
    return " ".join([*sentences, rng.choice(CLOSINGS)])


# ---------------------------------------------------------------------------------------------- streams and files

SHARES = {"typical": 0.40, "hardest": 0.12, "question": 0.38, "passage": 0.10}


@dataclass(frozen=True)
class Document:
    """`prompt` is read, `completion` is learned. Chat prompts are the user's message, to be put into the template."""

    prompt: str
    completion: str
    is_chat: bool


def training_documents(seed: int) -> Iterator[Document]:
    """An endless stream; no document is of a held-out split."""
    rng = random.Random(seed)
    kinds, weights = list(SHARES), list(SHARES.values())
    while True:
        kind = rng.choices(kinds, weights)[0]
        if kind == "question":
            yield Document(*trained_question(rng), is_chat=False)
        elif kind == "passage":
            yield Document("", passage(rng, "train"), is_chat=False)
        else:
            found = problem(rng, "train", kind)  # type: ignore[arg-type]
            yield Document(user_message(found.question), found.completion, is_chat=True)


def problems(split: Split, level: Level, count: int, seed: int) -> list[Problem]:
    """`count` different problems of one split."""
    rng = random.Random(seed)
    found: dict[str, Problem] = {}
    while len(found) < count:
        new = problem(rng, split, level)
        found.setdefault(new.key, new)
    return list(found.values())


def task_rows() -> dict[str, list[dict[str, object]]]:
    """The rows of every task file, by task."""
    rows: dict[str, list[dict[str, object]]] = {}
    for task, level in (("arithmetic", "typical"), ("arithmetic-hard", "hard")):
        tested = problems("test", level, TASK_ITEMS, TEST_SEED)  # type: ignore[arg-type]
        rows[task] = [{"question": p.question, "answer": p.answer} for p in tested]
    rng = random.Random(TEST_SEED)
    rows["facts"] = [choice_question(rng, fact) for fact in rng.sample(FACTS, TASK_ITEMS)]
    rows["text"] = [{"text": passage(rng, "test")} for _ in range(TEXT_PASSAGES)]
    return {task: [{"id": f"{task}-{i:03}"} | row for i, row in enumerate(items)] for task, items in rows.items()}


def calibration_problems() -> list[Problem]:
    """What the finished model is asked for its calibration traces: one in four is hard."""
    hard = CALIBRATION_ITEMS // 4
    typical = problems("calibration", "typical", CALIBRATION_ITEMS - hard, CALIBRATION_SEED)
    return typical + problems("calibration", "hard", hard, CALIBRATION_SEED)


def calibration_passages() -> list[str]:
    """Plain text for calibration."""
    rng = random.Random(CALIBRATION_SEED)
    return [passage(rng, "calibration") for _ in range(CALIBRATION_ITEMS)]
