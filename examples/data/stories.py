"""Short stories of people, rooms and things, and questions about them with an answer of one word.

After the tasks of Weston et al. 2015 (arXiv:1502.05698); the generator is this project's own.
"""

from random import Random
from typing import NamedTuple

PEOPLE = ["anna", "bruno", "clara", "daniel", "emma", "felix"]
ROOMS = ["attic", "bathroom", "cellar", "garden", "hall", "kitchen", "office", "studio"]
THINGS = ["apple", "book", "lamp", "milk", "rope"]
GOING = ["went to", "walked to", "moved to", "ran to"]
KINDS = ["where is a person", "where was a person", "is a person there", "where is a thing"]
KINDS += ["who has a thing"]
WEIGHTS = [1, 1, 1, 3, 1]
"""How often each is asked; the fourth, which needs two sentences or more, cannot be so often."""


class Item(NamedTuple):
    """A story of sentences and a question, in words, the question's place in KINDS, the answer."""

    story: list[list[str]]
    question: list[str]
    kind: int
    answer: str


class World:
    """Who has been where, and who has what, as the sentences of a story tell it."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.rooms: dict[str, list[str]] = {}
        """By person: the rooms, the last one last."""
        self.places: dict[str, str] = {}
        """By thing: the person who has it, or the room where it was left."""

    def sentence(self) -> str:
        """Something happens."""
        happenings = [self.go, self.go]
        if self.rooms:
            happenings += [self.take]
        if any(place in PEOPLE for place in self.places.values()):
            happenings += [self.leave, self.give]
        return self.random.choice(happenings)()

    def go(self) -> str:
        person = self.random.choice(PEOPLE)
        been = self.rooms.setdefault(person, [])
        been.append(self.random.choice([room for room in ROOMS if room not in been[-1:]]))
        return f"{person} {self.random.choice(GOING)} the {been[-1]} ."

    def take(self) -> str:
        person = self.random.choice(list(self.rooms))
        room = self.rooms[person][-1]
        things = [thing for thing in THINGS if self.places.get(thing, room) == room]
        if not things:
            return self.go()
        thing = self.random.choice(things)
        self.places[thing] = person
        return f"{person} took the {thing} ."

    def leave(self) -> str:
        thing, person = self.held()
        self.places[thing] = self.rooms[person][-1]
        return f"{person} left the {thing} there ."

    def give(self) -> str:
        thing, person = self.held()
        room = self.rooms[person][-1]
        others = [name for name, been in self.rooms.items() if been[-1] == room and name != person]
        if not others:
            return self.go()
        other = self.random.choice(others)
        self.places[thing] = other
        return f"{person} gave the {thing} to {other} ."

    def held(self) -> tuple[str, str]:
        """A thing that somebody has, and who."""
        return self.random.choice([both for both in self.places.items() if both[1] in PEOPLE])

    def question(self, kind: int) -> tuple[str, str] | None:
        """A question of that kind and its answer; None where the story gives no reason for one."""
        random = self.random
        person = random.choice(list(self.rooms))
        been = self.rooms[person]
        if kind == 0:
            return f"where is {person} ?", been[-1]
        if kind == 1:
            moved = [name for name, rooms in self.rooms.items() if len(rooms) > 1]
            if not moved:
                return None
            person = random.choice(moved)
            return f"where was {person} before ?", self.rooms[person][-2]
        if kind == 2:
            room = been[-1] if random.random() < 0.5 else random.choice(ROOMS)
            return f"is {person} in the {room} ?", "yes" if room == been[-1] else "no"
        if not self.places:
            return None
        thing, place = random.choice(list(self.places.items()))
        if kind == 3:
            return f"where is the {thing} ?", self.rooms[place][-1] if place in PEOPLE else place
        return f"who has the {thing} ?", place if place in PEOPLE else "nobody"


def item(random: Random, sentences: int) -> Item:
    """A story of so many sentences with a question."""
    while True:
        world = World(random)
        story = [world.sentence().split() for _ in range(sentences)]
        (kind,) = random.choices(range(len(KINDS)), WEIGHTS)
        if asked := world.question(kind):
            question, answer = asked
            return Item(story, question.split(), kind, answer)


def items(seed: int, count: int, longest: int) -> list[Item]:
    """Items with stories of 3 to `longest` sentences."""
    random = Random(seed)
    return [item(random, random.randint(3, longest)) for _ in range(count)]
