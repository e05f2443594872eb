"""Opinions about films, meals, hotels, phones and books, put together from frames and word lists.

Which words are in a sentence does not settle what it says: frames negate ("hardly a witty film"),
only look as if they did ("not only witty"), weigh one clause against another ("although ..."), or
tell what somebody expected. Every fifth pair of a frame and an opinion word is held out: sentences
for training have none of these pairs, and those for testing no others.
"""

from __future__ import annotations

import re
from random import Random
from typing import NamedTuple


class Opinion(NamedTuple):
    sentence: str
    """Lower-case words and marks with a blank between."""
    label: str
    """positive or negative."""


class Domain(NamedTuple):
    things: list[str]
    aspects: list[str]
    words: dict[bool, list[str]]
    """The good ones at True, the bad ones at False."""


KINDS = {"plain": 0.5, "negated": 0.15, "contrast": 0.2, "hearsay": 0.15}
"""Kind of sentence: how many of all are of it."""

GENERAL = {
    True: "good great lovely wonderful fine excellent nice pleasant perfect fantastic".split(),
    False: "bad awful terrible poor horrible weak ugly annoying disappointing dreadful".split(),
}
DOMAINS = [
    Domain(
        "film movie thriller comedy".split(),
        "acting plot music dialogue photography ending opening".split(),
        {
            True: "gripping moving witty clever touching thrilling original superb tense "
            "funny".split(),
            False: "dull predictable clumsy endless shallow confusing silly lifeless wooden "
            "tedious".split(),
        },
    ),
    Domain(
        "meal dinner lunch breakfast".split(),
        "soup bread fish salad dessert coffee cake sauce".split(),
        {
            True: "tasty delicious fresh crisp tender juicy fragrant creamy generous "
            "mouthwatering".split(),
            False: "bland stale greasy burnt soggy tasteless cold bitter watery inedible".split(),
        },
    ),
    Domain(
        "hotel hostel resort inn".split(),
        "room bed pool lobby staff garden view bathroom".split(),
        {
            True: "spotless quiet cosy welcoming spacious bright friendly restful stylish "
            "charming".split(),
            False: "dirty noisy cramped shabby gloomy rude damp smelly filthy chaotic".split(),
        },
    ),
    Domain(
        "phone laptop camera tablet".split(),
        "screen battery keyboard case software charger speaker lens".split(),
        {
            True: "fast reliable sturdy sharp handy elegant durable responsive smooth "
            "ingenious".split(),
            False: "slow fragile flimsy blurry faulty buggy overpriced unreliable clunky "
            "defective".split(),
        },
    ),
    Domain(
        "book novel story biography".split(),
        "style language hero translation chapter conclusion preface".split(),
        {
            True: "wise poetic lively vivid profound elegiac captivating subtle brilliant "
            "memorable".split(),
            False: "boring pretentious preachy trite stilted lazy pompous repetitive contrived "
            "hollow".split(),
        },
    ),
]

# In a frame, {x} is a word of the sentence's label if the frame is right, and of the other label if
# it is crossed; {y} is one of the label that {x} does not have; {z} is one more like {x}.
RIGHT, CROSSED = True, False
PLAIN = [
    (RIGHT, "the {aspect} was {very} {x}"),
    (RIGHT, "i found the {aspect} {very} {x}"),
    (RIGHT, "the {aspect} turned out to be {very} {x}"),
    (RIGHT, "this was a {very} {x} {thing}"),
    (RIGHT, "the {aspect} seemed {very} {x} to me"),
    (RIGHT, "i would call the {thing} {very} {x}"),
    (RIGHT, "i remember above all how {x} the {aspect} was"),
    (RIGHT, "the {aspect} was not only {x} , it was {very} {z}"),
    (RIGHT, "i have never known a {thing} so {x}"),
    (RIGHT, "no other {thing} was ever so {x}"),
    (RIGHT, "nothing was as {x} as the {aspect}"),
    (RIGHT, "the {aspect} , like all the rest , could not have been more {x}"),
]
NEGATED = [
    (CROSSED, "the {aspect} was not {x} at all"),
    (CROSSED, "the {aspect} was never {x}"),
    (CROSSED, "nothing about the {aspect} was {x}"),
    (CROSSED, "i would not call the {aspect} {x}"),
    (CROSSED, "this was hardly a {x} {thing}"),
    (CROSSED, "nobody could call the {thing} {x}"),
    (CROSSED, "the {aspect} was anything but {x}"),
    (CROSSED, "the {aspect} was far from {x}"),
    (CROSSED, "there was nothing {x} about the {aspect}"),
    (CROSSED, "i did not find the {aspect} {very} {x}"),
    (CROSSED, "the {aspect} was neither {x} nor {z}"),
    (RIGHT, "the {aspect} was {x} and not {y}"),
    (RIGHT, "the {aspect} was not {y} but {very} {x}"),
]
HEARSAY = [
    (RIGHT, "i expected a {y} {thing} and got a {x} one"),
    (RIGHT, "it was a {x} {thing} instead of the {y} one that i expected"),
    (RIGHT, "instead of a {y} {thing} we got a {x} one"),
    (RIGHT, "others called the {thing} {y} ; i call it {x}"),
    (RIGHT, "i call the {thing} {x} ; let others call it {y}"),
    (RIGHT, "my brother says that the {aspect} was {y} , but he is wrong : it was {x}"),
    (RIGHT, "i was told that the {aspect} was {x} , and so it was"),
    (RIGHT, "some say that the {aspect} was {x} , and they are right"),
    (CROSSED, "some say that the {aspect} was {x} , and they are wrong"),
    (CROSSED, "whoever calls the {aspect} {x} is wrong"),
    (RIGHT, "whoever calls the {aspect} {x} is right"),
    (CROSSED, "i wish the {aspect} had been {x}"),
    (CROSSED, "if only the {aspect} had been {very} {x}"),
    (CROSSED, "the {thing} that i was promised was {x} , this one was not"),
]
NUMBERS = {text: number for number, (_, text) in enumerate(PLAIN + NEGATED + HEARSAY)}

# Clause {b} has the last word, wherever it stands.
CONTRAST = [
    "{a} , but {b}",
    "although {a} , {b}",
    "{b} , although {a}",
    "{a} . still , {b}",
    "{b} , even if {a}",
    "even if {a} , {b}",
    "{a} , and yet {b}",
    "it did not matter that {a} : {b}",
    "{a} at first . in the end {b}",
    "{b} , so never mind that {a}",
]
VERY = ["", "", "very", "really", "quite", "extremely", "rather", "so", "truly"]
BEFORE = [
    "honestly :",
    "in short :",
    "to be fair ,",
    "we had waited for months .",
    "my sister and i went there on a rainy monday .",
    "i am not an expert .",
    "it was a present from my uncle .",
    "a colleague had told us about it .",
    "i paid for it myself .",
    "you asked me what i think :",
]
AFTER = [
    "that is all i have to say .",
    "i told my family about it .",
    "we talked about it all the way home .",
    "my neighbour will tell you the same .",
    "but see for yourself .",
    "i have nothing else to add .",
    "it was a tuesday , by the way .",
    "my parents agree with me .",
    "this is only my opinion .",
    "not that anybody asked me .",
]


def opinions(count: int, held_out: bool, random: Random) -> list[Opinion]:
    """Different sentences, in random order.

    Args:
        count: how many.
        held_out: of the pairs of frame and word that are held out, or of the others.
        random: where the choices come from.
    """
    found: dict[str, Opinion] = {}
    while len(found) < count:
        opinion = _opinion(held_out, random)
        found[opinion.sentence] = opinion
    return list(found.values())


def _opinion(held_out: bool, random: Random) -> Opinion:
    good = random.random() < 0.5
    kind = random.choices(list(KINDS), list(KINDS.values()))[0]
    domain = random.choice(DOMAINS)
    first, second = random.sample(domain.aspects, 2)
    if kind == "contrast":
        a = _clause(PLAIN + NEGATED, not good, domain, first, held_out, random)
        b = _clause(PLAIN + NEGATED, good, domain, second, held_out, random)
        core = random.choice(CONTRAST).format(a=a, b=b)
    else:
        frames = {"plain": PLAIN, "negated": NEGATED, "hearsay": HEARSAY}[kind]
        core = _clause(frames, good, domain, first, held_out, random)
    before = random.choice(BEFORE) if random.random() < 0.5 else ""
    after = random.choice(AFTER) if random.random() < 0.5 else ""
    sentence = " ".join(f"{before} {core} . {after}".split())
    return Opinion(sentence, "positive" if good else "negative")


def _clause(
    frames: list[tuple[bool, str]],
    good: bool,
    domain: Domain,
    aspect: str,
    held_out: bool,
    random: Random,
) -> str:
    """What one of the frames says about an aspect, or the thing it is part of."""
    right, frame = random.choice(frames)
    alike = choices(frame, domain, good is right, held_out)
    x, z = random.sample(alike, 2)
    text = frame.format(
        aspect=aspect,
        thing=random.choice(domain.things),
        very=random.choice(VERY),
        x=x,
        y=random.choice(choices(frame, domain, good is not right, held_out)),
        z=z,
    )
    return re.sub(r"\ba (?= *[aeiou])", "an ", text)


def choices(frame: str, domain: Domain, good: bool, held_out: bool) -> list[str]:
    """The good or bad words that may stand in a frame: the held-out fifth of them, or the rest."""
    words = [*GENERAL[good], *domain.words[good]]
    return [
        word for place, word in enumerate(words) if ((place + NUMBERS[frame]) % 5 == 0) is held_out
    ]
