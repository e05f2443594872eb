"""Claim: answers follow from the stories, and what cannot be asked is named."""

from random import Random

import pytest
import torch

for module in ("tqdm", "safetensors", "matplotlib"):
    pytest.importorskip(module, reason="the examples need requirements-examples.txt")

from examples import reading  # noqa: E402
from examples.data import stories  # noqa: E402
from rnnkern.models import training  # noqa: E402

SMALL = ["--stories", "200", "--hidden", "8", "--sentences", "4"]


def made(*words):
    return training.trainer_for(reading.Reading, training.parse(reading.Reading, [*SMALL, *words]))


def answer(story, question):
    """What a reader who keeps track of everybody answers; written apart from the generator."""
    rooms, places = {}, {}
    for sentence in story:
        person, verb, *rest = sentence
        if verb in ("went", "walked", "moved", "ran"):
            rooms.setdefault(person, []).append(rest[-2])
        elif verb == "took":
            places[rest[1]] = person
        elif verb == "left":
            places[rest[1]] = rooms[person][-1]
        else:
            assert verb == "gave"
            places[rest[1]] = rest[3]
    if question[0] == "is":
        return "yes" if rooms[question[1]][-1] == question[4] else "no"
    if question[0] == "who":
        return places[question[3]] if places[question[3]] in rooms else "nobody"
    if question[1] == "was":
        return rooms[question[2]][-2]
    if question[2] != "the":
        return rooms[question[2]][-1]
    place = places[question[3]]
    return rooms[place][-1] if place in rooms else place


def test_answers_follow_from_the_stories():
    items = stories.items(5, 2000, 12)
    assert {item.kind for item in items} == set(range(len(stories.KINDS)))
    assert {len(item.story) for item in items} == set(range(3, 13))
    for item in items:
        assert answer(item.story, item.question) == item.answer, item


def test_nobody_takes_or_gets_what_is_elsewhere():
    """A thing passes from a room to a person in it, or between two persons in one room."""
    for number in range(500):
        world = stories.World(Random(number))
        for _ in range(12):
            before, rooms = dict(world.places), {p: been[-1] for p, been in world.rooms.items()}
            words = world.sentence().split()
            if words[1] == "took":
                assert before.get(words[3], rooms[words[0]]) == rooms[words[0]]
            if words[1] == "gave":
                assert before[words[3]] == words[0]
                assert rooms[words[0]] == rooms[words[5]]
            if words[1] == "left":
                assert before[words[3]] == words[0]


def test_held_out_stories_are_not_trained_on():
    example = made().example
    held_out = {str(item.story) for item in example.held_out}
    assert not held_out & {str(item.story) for item in example.training}


def test_a_story_of_ones_own(tmp_path, capsys):
    path = tmp_path / "story.txt"
    path.write_text("Anna went to the hall. Anna took the lamp.")
    trainer = made("--story", str(path), "--question", "Where is the lamp?")
    with torch.no_grad():
        trainer.example.show(trainer.model.eval(), tmp_path / "story.png")
    assert "anna went to the hall . anna took the lamp . | where is the lamp ?" in (
        capsys.readouterr().out
    )
    assert (tmp_path / "story.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("story", "words", "message"),
    [
        ("anna went to the hall.", [], "go together"),
        ("anna went to the moon.", ["--question", "where is anna?"], r"\['moon'\] are not among"),
        ("anna went to the hall.", ["--question", " "], "--question is empty"),
        ("", ["--question", "where is anna?"], "is empty"),
    ],
    ids=["no question", "unknown word", "empty question", "empty story"],
)
def test_mistakes_end_with_a_sentence(tmp_path, story, words, message):
    (tmp_path / "story.txt").write_text(story)
    with pytest.raises(SystemExit, match=f"^error: .*{message}"):
        made("--story", str(tmp_path / "story.txt"), *words)


def test_stories_of_three_sentences_at_least():
    with pytest.raises(SystemExit, match="--sentences must be at least 3, got 2"):
        made("--sentences", "2")
