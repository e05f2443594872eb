"""Sentences of a small grammar, whose words are related in ways that word vectors should find.

    python -m examples.data.grammar > grammar.txt

Which things a word is said of, or goes with, is what tells one row of a table from another; around
which function words it stands tells the columns apart. Nothing ever names a row or a column.
"""

import random
from collections.abc import Iterator
from itertools import permutations

Table = dict[tuple[str, ...], str]

# What can be said of which nouns; then the three degrees of it.
ADJECTIVES: Table = {
    ("big", "bigger", "biggest"): "elephant whale mountain city",
    ("small", "smaller", "smallest"): "mouse ant seed button",
    ("tall", "taller", "tallest"): "giraffe tower tree chimney",
    ("fast", "faster", "fastest"): "horse train rocket cheetah",
    ("slow", "slower", "slowest"): "snail turtle tractor barge",
    ("old", "older", "oldest"): "temple ruin coin legend",
    ("cold", "colder", "coldest"): "winter glacier cellar wind",
    ("hot", "hotter", "hottest"): "summer desert oven fire",
    ("strong", "stronger", "strongest"): "lion bear rope magnet",
    ("loud", "louder", "loudest"): "drum siren thunder trumpet",
    ("bright", "brighter", "brightest"): "star lamp mirror diamond",
    ("heavy", "heavier", "heaviest"): "stone anchor piano hammer",
}
# What they eat and where; then one and many of them.
NOUNS: Table = {
    ("cat", "cats"): "milk sofa",
    ("dog", "dogs"): "bones kennel",
    ("cow", "cows"): "grass meadow",
    ("goose", "geese"): "corn farmyard",
    ("monkey", "monkeys"): "bananas jungle",
    ("fish", "fishes"): "algae river",
    ("child", "children"): "porridge nursery",
    ("sailor", "sailors"): "biscuits harbour",
    ("baker", "bakers"): "bread bakery",
    ("squirrel", "squirrels"): "nuts forest",
}
# What they have and where; then him and her.
PEOPLE: Table = {
    ("king", "queen"): "crown palace",
    ("prince", "princess"): "jewels castle",
    ("man", "woman"): "briefcase office",
    ("boy", "girl"): "satchel school",
    ("father", "mother"): "pram playground",
    ("uncle", "aunt"): "gift birthday",
    ("actor", "actress"): "script theatre",
    ("waiter", "waitress"): "tray restaurant",
    ("monk", "nun"): "bible monastery",
    ("wizard", "witch"): "wand cauldron",
}
TABLES = (ADJECTIVES, NOUNS, PEOPLE)

OF_DEGREE = (
    ("the {x} is very {w}", "it is a {w} {x}", "how {w} that {x} looks"),
    ("this {x} is {w} than that {y}", "a {w} {x} than ever before", "it grows {w} than the {x}"),
    ("this {x} is the {w} of all", "the {w} {x} in the world", "of all of them the {x} is {w}"),
)
OF_NUMBER = (
    ("a {w} eats {x} in the {y}", "one {w} was in the {y}", "every {w} likes its {x}"),
    ("many {w} eat {x} in the {y}", "two {w} were in the {y}", "all {w} like their {x}"),
)
OF_GENDER = (
    ("the {w} has his {x}", "he is a {w} in the {y}", "the {w} hurt himself with the {x}"),
    ("the {w} has her {x}", "she is a {w} in the {y}", "the {w} hurt herself with the {x}"),
)
FRAMES = (OF_DEGREE, OF_NUMBER, OF_GENDER)


def sentences(count: int, seed: int) -> Iterator[str]:
    """So many sentences, each ended by a full stop."""
    rng = random.Random(seed)
    for _ in range(count):
        table, frames = rng.choice(list(zip(TABLES, FRAMES, strict=True)))
        row, companions = rng.choice(list(table.items()))
        column = rng.randrange(len(row))
        words = companions.split()
        x, y = (words[place] for place in sorted(rng.sample(range(len(words)), 2)))
        yield rng.choice(frames[column]).format(w=row[column], x=x, y=y) + "."


def analogies() -> list[tuple[str, str, str, str]]:
    """All (a, b, c, d) of which "b is to a as d is to c" is right: big bigger small smaller."""
    return [
        (first[i], first[j], second[i], second[j])
        for table in TABLES
        for first, second in permutations(table, 2)
        for i, j in permutations(range(len(first)), 2)
    ]


if __name__ == "__main__":
    print("\n".join(sentences(20_000, seed=0)))
