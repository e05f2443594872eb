"""Claim: captions say what stands where in a scene, and a user's image becomes a scene."""

import numpy as np
import pytest

pytest.importorskip("matplotlib", reason="the examples need requirements-examples.txt")
pytest.importorskip("safetensors", reason="as above")
pytest.importorskip("sklearn", reason="as above")
pytest.importorskip("tqdm", reason="as above")

import torch
from matplotlib.image import imsave

from examples.captioning import Captioning, own_image
from examples.data.digits import (
    LARGE,
    LONGEST,
    SMALL,
    WORDS,
    Box,
    Samples,
    caption,
    draw,
    layout,
    samples,
    scaled,
    written,
)
from rnnkern.models import training

RANDOM = np.random.default_rng


def captioning(*words):
    args = training.parse(Captioning, ["--checkpoint", "none", *words])
    for name, (default, _) in Captioning.sizes.items():
        setattr(args, name, getattr(args, name) or default)
    return Captioning(args, {})


@pytest.mark.parametrize(
    ("boxes", "text"),
    [
        ([Box(7, 3, 9, LARGE)], "one digit: a large seven"),
        ([Box(8, 3, 9, SMALL)], "one digit: an eight"),
        ([Box(9, 4, 20, SMALL), Box(8, 8, 1, LARGE)], "two digits: a large eight left of a nine"),
        ([Box(3, 12, 20, SMALL), Box(5, 0, 1, SMALL)], "two digits: a five above a three"),
        (
            [Box(2, 18, 9, SMALL), Box(0, 3, 20, LARGE), Box(1, 0, 2, SMALL)],
            "three digits: a one left of a large zero, above a two",
        ),
        (
            [Box(6, 0, 0, SMALL), Box(4, 24, 24, SMALL), Box(4, 20, 3, SMALL)],
            "three digits: a six, above a four left of a four",
        ),
        (
            [
                Box(1, 0, 0, LARGE),
                Box(2, 1, 18, LARGE),
                Box(3, 16, 16, LARGE),
                Box(8, 20, 1, SMALL),
            ],
            "four digits: a large one left of a large two, above an eight left of a large three",
        ),
    ],
)
def test_captions_written_out_by_hand(boxes, text):
    assert written(caption(boxes)) == text


def test_layouts_are_on_the_canvas_apart_and_of_every_kind():
    random = RANDOM(0)
    layouts = [layout(random, 4, 32) for _ in range(600)]
    for boxes in layouts:
        covered = np.zeros((32, 32), int)
        for box in boxes:
            assert min(box.top, box.left) >= 0
            covered[box.top : box.top + box.side, box.left : box.left + box.side] += 1
        assert covered.max() == 1
        assert covered.sum() == sum(box.side**2 for box in boxes)
    captions = [caption(boxes) for boxes in layouts]
    assert {word for words in captions for word in words} == set(WORDS)
    assert max(map(len, captions)) == LONGEST
    shapes = {" ".join(word for word in words if word in ("left", "above")) for words in captions}
    pairs = {"left", "above", "left above", "above left", "left above left"}
    assert shapes == {"", *pairs}


def test_small_canvases_have_room_for_one_digit():
    random = RANDOM(0)
    for (box,) in (layout(random, 1, 16) for _ in range(100)):
        assert 0 <= box.top <= 16 - box.side
        assert 0 <= box.left <= 16 - box.side


def test_scenes_show_the_digits_of_their_layout_where_it_says():
    images = np.stack([np.full((8, 8), numeral + 1, np.float32) for numeral in range(10)])
    scene = draw(
        [Box(4, 1, 2, SMALL), Box(9, 15, 17, LARGE)], Samples(images, np.arange(10)), 32, RANDOM(0)
    )
    expected = np.zeros((32, 32))
    expected[1:9, 2:10], expected[15:29, 17:31] = 5, 10
    np.testing.assert_allclose(scene, expected, atol=0.4)


def test_a_scaled_image_is_what_torch_makes_of_it():
    image = RANDOM(0).random((8, 8), np.float32)
    theirs = torch.nn.functional.interpolate(
        torch.from_numpy(image)[None, None], (LARGE, LARGE), mode="bilinear"
    )
    np.testing.assert_allclose(scaled(image, LARGE), theirs[0, 0], atol=1e-6)
    np.testing.assert_array_equal(scaled(image, SMALL), image)


def test_no_sample_is_both_trained_and_tested_on():
    training_, test = samples()
    assert (len(training_.images), len(test.images)) == (1437, 360)
    ours = {image.tobytes() for image in training_.images}
    assert not ours & {image.tobytes() for image in test.images}
    assert set(test.numerals) == set(range(10))


def test_scenes_are_of_the_samples_asked_for():
    example = captioning()
    blank = Samples(np.zeros_like(example.test.images), example.test.numerals)
    images, captions = example.scenes(20, example.test, 4, seed=3)
    empty, same = example.scenes(20, blank, 4, seed=3)
    assert captions == same
    assert images.amax() > 0.9
    assert empty.amax() < 0.5


def test_images_of_the_user_are_light_on_dark_and_square(tmp_path):
    """A dark bar on white, in RGBA, twice as wide as high."""
    image = np.ones((40, 80, 4))
    image[10:30, 36:44, :3] = 0
    imsave(tmp_path / "bar.png", image)
    scene = own_image(tmp_path / "bar.png", 32)
    assert scene.shape == (32, 32)
    assert scene[:10].max() < 0.05
    assert scene[14:18, 15:17].min() > 0.9
    assert scene.max() == 1
    inverse = image.copy()
    inverse[..., :3] = 1 - image[..., :3]
    imsave(tmp_path / "inverse.png", inverse)
    torch.testing.assert_close(own_image(tmp_path / "inverse.png", 32), scene)


def nothing(path):
    pass


def no_image(path):
    path.write_text("text")


def cut_short(path):
    imsave(path, RANDOM(0).random((40, 40)))
    path.write_bytes(path.read_bytes()[:100])


def blank(path):
    imsave(path, np.ones((9, 9, 3)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (nothing, "cannot read the image"),
        (no_image, "cannot read the image"),
        (cut_short, "cannot read the image"),
        (blank, "nothing is to be seen"),
    ],
)
def test_unusable_images_are_refused(make, message, tmp_path):
    make(tmp_path / "image.png")
    with pytest.raises(SystemExit, match=message):
        captioning("--image", str(tmp_path / "image.png"))


@pytest.mark.parametrize("words", [["--digits", "5"], ["--side", "24"], ["--side", "36"]])
def test_impossible_scenes_are_refused(words):
    with pytest.raises(ValueError, match=words[0]):
        captioning(*words)


def test_one_wrong_word_makes_a_caption_wrong(monkeypatch):
    example = captioning("--digits", "1", "--side", "16")
    _, truths = example.scenes(1000, example.test, 1, seed=1)
    said = [[*words[:-1], "seven"] for words in truths]
    monkeypatch.setattr(example, "captions", lambda model, images: said)
    sevens = sum(words[-1] == "seven" for words in truths)
    most = max(truths.count(words) for words in truths)
    assert example.evaluate(None) == (pytest.approx(sevens / 10), pytest.approx(most / 10))
