"""Claim: films show the actions they are called, and only usable sequences of a user are taken."""

import numpy as np
import pytest

pytest.importorskip("matplotlib", reason="the examples need requirements-examples.txt")
pytest.importorskip("safetensors", reason="as above")
pytest.importorskip("sklearn", reason="as above")
pytest.importorskip("tqdm", reason="as above")

import torch

from examples.activity import Activity, Classifier, Sequences, films, read_sequences
from examples.data.digits import ACTIONS, SCREEN, SMALL, Samples, brightnesses, film, path
from rnnkern.models import training

RANDOM = np.random.default_rng
INK = Samples(np.ones((1, 8, 8), np.float32), np.zeros(1))


def paths(action):
    random = RANDOM(0)
    return [path(action, int(random.integers(20, 41)), random) for _ in range(40)]


def turns(points):
    """The doubled area that a path goes around; positive where it is clockwise to the eye."""
    x, y = (points - points.mean(0)).T
    return float((x[:-1] * y[1:] - x[1:] * y[:-1]).sum())


def spread(points):
    """How far from the path's middle its first and its last third are."""
    middle = (points.max(0) + points.min(0)) / 2
    distances = np.linalg.norm(points - middle, axis=1)
    third = len(points) // 3
    return distances[:third].mean(), distances[-third:].mean()


@pytest.mark.parametrize("action", ACTIONS)
def test_the_digit_stays_on_the_screen(action):
    places = np.concatenate(paths(action))
    assert places.min() >= 0
    assert places.max() <= SCREEN - SMALL


def test_circles_turn_as_they_are_called():
    assert all(turns(points) > 0 for points in paths("circle clockwise"))
    assert all(turns(points) < 0 for points in paths("circle anticlockwise"))


def test_spirals_widen_or_narrow_and_turn_both_ways():
    for action, sign in (("spiral outwards", 1), ("spiral inwards", -1)):
        found = paths(action)
        assert all(sign * np.subtract(*spread(points)) < 0 for points in found)
        assert {turns(points) > 0 for points in found} == {True, False}


def test_bounces_are_along_their_lines():
    moved = {action: [np.ptp(points, axis=0) for points in paths(action)] for action in ACTIONS}
    assert all(x > 0 and y == 0 for x, y in moved["bounce sideways"])
    assert all(x == 0 and y > 0 for x, y in moved["bounce up and down"])
    slopes = {round(np.corrcoef(points.T)[0, 1]) for points in paths("bounce diagonally")}
    assert slopes == {-1, 1}
    for action in ("stay", "appear", "vanish"):
        assert all(x == y == 0 for x, y in moved[action])


def test_only_two_actions_change_the_brightness_and_none_has_its_own():
    random = RANDOM(0)
    for action in ACTIONS:
        lights = [brightnesses(action, 30, random) for _ in range(30)]
        sign = {"appear": 1, "vanish": -1}.get(action, 0)
        assert all((np.sign(np.diff(light)) == sign).all() for light in lights)
        assert 0.3 <= np.min(lights) < 0.5
        assert 0.8 < np.max(lights) <= 1


def test_a_film_shows_the_path():
    """The digit, a block of ink here, is found in the noise where the frame is brightest."""
    frames = film("circle clockwise", INK, RANDOM(5))
    assert 20 <= len(frames) <= 40
    sums = np.lib.stride_tricks.sliding_window_view(frames, (SMALL, SMALL), (1, 2)).sum((3, 4))
    rows, columns = np.unravel_index(sums.reshape(len(frames), -1).argmax(1), sums.shape[1:])
    assert turns(np.stack([columns, rows], 1)) > 0


def test_films_are_of_the_actions_in_turn_and_padded():
    sequences = films(22, INK, seed=0)
    assert sequences.y.tolist() == [*range(11), *range(11)]
    assert sequences.x.shape == (22, int(sequences.lengths.max()), SCREEN**2)
    for x, length in zip(sequences.x, sequences.lengths, strict=True):
        assert x[:length].any(1).all()
        assert not x[length:].any()


def test_a_padded_sequence_is_classified_as_the_sequence_alone():
    sequences = films(11, INK, seed=0)
    torch.manual_seed(0)
    model = Classifier(sequences, 16, 11).eval()
    together = model(sequences.x, sequences.lengths)
    alone = [sequences.of(torch.tensor([row])) for row in range(11)]
    torch.testing.assert_close(together, torch.cat([model(s.x, s.lengths) for s in alone]))


def test_channels_are_scaled_by_what_is_within_the_lengths():
    x = torch.tensor([[[1.0, 5], [3, 5], [99, 99]], [[5, 5], [7, 5], [3, 5]]])
    model = Classifier(Sequences(x, torch.tensor([2, 3]), torch.tensor([0, 1])), 4, 2)
    torch.testing.assert_close(model.mean, torch.tensor([3.8, 5.0]))
    torch.testing.assert_close(model.scale, torch.tensor([4.16**0.5, 1e-6]))


def arrays(**changes):
    """Ten sequences of the user, of two classes."""
    x = np.arange(10 * 6 * 2).reshape(10, 6, 2)
    whole = {"x": x, "y": np.array(["b", "a"] * 5), "lengths": np.array([6, 2] * 5)} | changes
    return {name: array for name, array in whole.items() if array is not None}


def saved(folder, **changes):
    np.savez(folder / "own.npz", **arrays(**changes))
    return folder / "own.npz"


def test_sequences_of_the_user(tmp_path):
    sequences, names = read_sequences(saved(tmp_path))
    assert names == ["a", "b"]
    assert sequences.y.tolist() == [1, 0] * 5
    assert sequences.lengths.tolist() == [6, 2] * 5
    assert sequences.x[0].tolist() == arrays()["x"][0].tolist()
    assert sequences.x[1].tolist() == [[12, 13], [14, 15], *[[0, 0]] * 4]


def test_lengths_can_be_left_out(tmp_path):
    sequences, names = read_sequences(saved(tmp_path, lengths=None, y=np.array([10, 9] * 5)))
    assert sequences.lengths.tolist() == [6] * 10
    assert names == ["9", "10"]


def test_a_fifth_of_the_users_sequences_is_held_out(tmp_path):
    args = training.parse(Activity, ["--file", str(saved(tmp_path, lengths=None))])
    example = Activity(args, {})
    assert example.own_data()
    held_out, others = example.test.x[:, 0, 0].tolist(), example.training.x[:, 0, 0].tolist()
    assert len(held_out) == 2
    assert sorted(held_out + others) == arrays()["x"][:, 0, 0].tolist()
    again = Activity(args, {})
    assert again.test.x[:, 0, 0].tolist() == held_out


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": None}, "no array x, only"),
        ({"y": None, "x": None}, "no array x and y"),
        ({"x": np.zeros((10, 6))}, r"x must be numbers \[N, T, C\], got float64 \[10, 6\]"),
        ({"x": np.zeros((10, 0, 2))}, "x must be"),
        ({"x": np.full((10, 6, 2), "a")}, "x must be"),
        ({"y": np.zeros(9, int)}, "y must be 10 integers or strings"),
        ({"y": np.zeros(10)}, "y must be 10 integers or strings, got float64"),
        ({"y": np.full(10, None)}, "cannot read"),
        ({"y": np.zeros(10, int)}, "2 classes and 5 sequences are the least, got 1 and 10"),
        ({"lengths": np.full(10, 7)}, "lengths must be 10 integers from 1 to 6, got"),
        ({"lengths": np.full(10, 0)}, "lengths must be"),
        ({"lengths": np.full(9, 6)}, "lengths must be"),
        ({"lengths": np.full(10, 6.0)}, "lengths must be"),
        ({"x": np.full((10, 6, 2), np.nan)}, "infinities or NaN"),
    ],
)
def test_unusable_sequences_are_refused(changes, message, tmp_path):
    with pytest.raises(SystemExit, match=message):
        read_sequences(saved(tmp_path, **changes))


@pytest.mark.parametrize("content", [None, b"", b"text", b"PK\x03\x04"])
def test_what_is_no_npz_file_is_refused(content, tmp_path):
    if content is not None:
        (tmp_path / "own.npz").write_bytes(content)
    with pytest.raises(SystemExit, match="cannot read"):
        read_sequences(tmp_path / "own.npz")


def test_nan_beyond_the_lengths_does_not_matter(tmp_path):
    x = arrays()["x"].astype(float)
    x[1, 2:] = np.nan
    assert read_sequences(saved(tmp_path, x=x))[0].x.isfinite().all()


def test_the_metric_and_the_baseline(tmp_path, monkeypatch):
    example = Activity(training.parse(Activity, ["--file", str(saved(tmp_path))]), {})
    ones, zeros = torch.ones(2, dtype=torch.int64), torch.zeros(2, dtype=torch.int64)
    example.test = example.test._replace(y=torch.tensor([1, 0]))
    example.training = example.training._replace(y=torch.tensor([0, 0, 0, 1]))
    for predicted, right in ((ones, 50), (zeros, 50), (example.test.y, 100)):
        monkeypatch.setattr(example, "predicted", lambda model, predicted=predicted: predicted)
        assert example.evaluate(None) == (right, 50)
