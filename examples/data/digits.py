"""Handwritten digits in pictures and films: scenes of one to four to describe, and moving ones.

The digits are scikit-learn's, 1797 samples of 8x8 pixels. A scene has up to two rows of up to two
digits, each of one of two sizes. A film is one digit that moves, or stays, in one of the `ACTIONS`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from sklearn.datasets import load_digits

SMALL, LARGE = 8, 14
"""Sides of a scene's digits, in pixels."""
NUMERALS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
WORDS = [*NUMERALS, "a", "an", "large", "left", "of", "above", "digit", "digits", ":", ","]
"""All words of a caption."""
ARRANGEMENTS: dict[int, list[tuple[int, ...]]] = {
    1: [(1,)],
    2: [(2,), (1, 1)],
    3: [(1, 2), (2, 1)],
    4: [(2, 2)],
}
"""How many digits the rows of a scene of 1 to 4 digits can have."""
LONGEST = 21
"""How many words a caption has at most."""

SCREEN = 16
"""The side of a film's frames, in pixels."""
ACTIONS = (
    "circle clockwise",
    "circle anticlockwise",
    "spiral outwards",
    "spiral inwards",
    "bounce sideways",
    "bounce up and down",
    "bounce diagonally",
    "jump about",
    "stay",
    "appear",
    "vanish",
)


class Samples(NamedTuple):
    """Handwritten digits: images float32 [M, 8, 8] from 0 to 1 (ink), and which they are, [M]."""

    images: np.ndarray
    numerals: np.ndarray


class Box(NamedTuple):
    """A digit in a scene; its place and side are in pixels."""

    numeral: int
    top: int
    left: int
    side: int


def samples() -> tuple[Samples, Samples]:
    """The first four fifths of the samples to train on, and the rest to test on."""
    images, numerals = load_digits(return_X_y=True)
    images = (images / 16).reshape(-1, 8, 8).astype(np.float32)
    cut = len(images) * 4 // 5
    return Samples(images[:cut], numerals[:cut]), Samples(images[cut:], numerals[cut:])


def layout(random: np.random.Generator, most: int, canvas: int) -> list[Box]:
    """One to `most` digits at random places, in rows that nobody would argue about.

    Args:
        random: what to draw from.
        most: from 1 to 4.
        canvas: the scene's side in pixels, at least 16 for one digit and 32 for more.
    """
    count = int(random.integers(1, most + 1))
    choices = ARRANGEMENTS[count]
    numbers = choices[random.integers(len(choices))]
    sides = [random.choice([SMALL, LARGE], number).tolist() for number in numbers]
    room = (canvas - 1) // len(numbers)
    heights = [min(room, max(row) + SMALL // 2) for row in sides]
    boxes = []
    for row, height, start in zip(sides, heights, places(heights, canvas, random), strict=True):
        for side, left in zip(row, places(row, canvas, random), strict=True):
            top = start + int(random.integers(height - side + 1))
            boxes.append(Box(int(random.integers(10)), top, left, side))
    return boxes


def places(sizes: Sequence[int], room: int, random: np.random.Generator) -> list[int]:
    """Where things of these sizes begin that stand one after the other at random distances."""
    gaps = np.sort(random.integers(room - sum(sizes) + 1, size=len(sizes)))
    return [int(gap) + sum(sizes[:number]) for number, gap in enumerate(gaps)]


def caption(boxes: Sequence[Box]) -> list[str]:
    """The words for a scene, from the digits' places: "two digits : a five left of an eight".

    Rows are told from the top one on and their digits from the left one on. Two digits are in one
    row if they share at least half of the smaller one's height.
    """
    rows: list[list[Box]] = []
    for box in sorted(boxes, key=lambda box: box.top):
        if rows and shared_height(rows[-1][0], box) >= min(rows[-1][0].side, box.side) / 2:
            rows[-1].append(box)
        else:
            rows.append([box])
    texts = (" left of ".join(map(named, sorted(row, key=lambda box: box.left))) for row in rows)
    text = (" , above " if len(boxes) > 2 else " above ").join(texts)
    return f"{NUMERALS[len(boxes)]} digit{'s' * (len(boxes) > 1)} : {text}".split()


def shared_height(one: Box, other: Box) -> int:
    return min(one.top + one.side, other.top + other.side) - max(one.top, other.top)


def named(box: Box) -> str:
    """ "a five", "an eight", "a large eight"."""
    if box.side == LARGE:
        return f"a large {NUMERALS[box.numeral]}"
    return f"{'an' if box.numeral == 8 else 'a'} {NUMERALS[box.numeral]}"


def written(words: Sequence[str]) -> str:
    """A caption as people write it: no space before punctuation."""
    return " ".join(words).replace(" :", ":").replace(" ,", ",")


def draw(boxes: Sequence[Box], of: Samples, canvas: int, random: np.random.Generator) -> np.ndarray:
    """The scene with samples of its digits drawn at random, float32 [canvas, canvas]."""
    scene = random.normal(0, 0.05, (canvas, canvas)).astype(np.float32)
    for box in boxes:
        image = of.images[random.choice(np.flatnonzero(of.numerals == box.numeral))]
        rows, columns = slice(box.top, box.top + box.side), slice(box.left, box.left + box.side)
        scene[rows, columns] += scaled(image, box.side)
    return scene


def scaled(image: np.ndarray, side: int) -> np.ndarray:
    """A square image as one of another size, by linear interpolation between pixels' centres."""
    at = (np.arange(side) + 0.5) * len(image) / side - 0.5
    weights = np.maximum(
        0, 1 - abs(np.clip(at, 0, len(image) - 1)[:, None] - np.arange(len(image)))
    )
    return (weights @ image @ weights.T).astype(np.float32)


def film(action: str, of: Samples, random: np.random.Generator) -> np.ndarray:
    """20 to 40 frames of a digit drawn at random, with noise: float32 [T, SCREEN, SCREEN]."""
    length = int(random.integers(20, 41))
    image = of.images[random.integers(len(of.images))]
    brightness = brightnesses(action, length, random)
    frames = random.normal(0, 0.15, (length, SCREEN, SCREEN)).astype(np.float32)
    for frame, light, (x, y) in zip(frames, brightness, path(action, length, random), strict=True):
        frame[y : y + SMALL, x : x + SMALL] += light * image
    return frames


def brightnesses(action: str, length: int, random: np.random.Generator) -> np.ndarray:
    """Of each frame's digit, from 0.3 to 1 in all actions, but changing in two only. [T]."""
    if action not in ("appear", "vanish"):
        return np.full(length, random.uniform(0.3, 1))
    rising = np.linspace(random.uniform(0.3, 0.5), random.uniform(0.8, 1), length)
    return rising if action == "appear" else rising[::-1]


def path(action: str, length: int, random: np.random.Generator) -> np.ndarray:
    """The left and upper border of each frame's digit in pixels, int [T, 2]."""
    most = (SCREEN - SMALL) / 2  # on either side of the middle
    radius = random.uniform(most / 2, most)
    angles = random.uniform(0, 2 * np.pi) + random.uniform(0.3, 0.6) * np.arange(length)
    around = radius * np.stack([np.cos(angles), np.sin(angles)], 1)  # y points down: clockwise
    across = 2 * radius / np.pi * np.arcsin(np.sin(angles))[:, None]
    mirror = random.choice([-1, 1])
    growth = np.linspace(0.1, 1, length)[:, None]
    if action.startswith("circle"):
        steps = around * [-1 if action.endswith("anticlockwise") else 1, 1]
    elif action.startswith("spiral"):
        steps = around * [mirror, 1] * (growth if action == "spiral outwards" else growth[::-1])
    elif action.startswith("bounce"):
        directions = {"sideways": (1, 0), "up and down": (0, 1), "diagonally": (mirror, 1)}
        steps = across * directions[action.removeprefix("bounce ")]
    elif action == "jump about":
        steps = random.uniform(-radius, radius, (length, 2))
    else:
        steps = np.zeros((length, 2))
        radius = 0.0
    return np.rint(most + random.uniform(radius - most, most - radius, 2) + steps).astype(int)
