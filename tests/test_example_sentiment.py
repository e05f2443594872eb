"""Claim: the composed sentences mean what their labels say, and wrong files are named."""

from random import Random

import pytest
import torch

for module in ("tqdm", "safetensors", "matplotlib", "sklearn"):
    pytest.importorskip(module, reason="the examples need requirements-examples.txt")

from examples import sentiment  # noqa: E402
from examples.data import sentiment as data  # noqa: E402
from rnnkern.models import training  # noqa: E402

ROWS = [
    (label, f"it was {word} {n}") for n in range(15) for label, word in (("a", "x"), ("b", "y"))
]


def made(*words):
    args = training.parse(sentiment.Sentiment, ["--hidden", "8", "--batch", "4", *words])
    return training.trainer_for(sentiment.Sentiment, args)


def write(path, rows):
    path.write_text("".join("\t".join(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("good", [True, False])
@pytest.mark.parametrize(
    ("frame", "same"),
    [
        ("the {aspect} was {very} {x}", True),
        ("nothing was as {x} as the {aspect}", True),
        ("the {aspect} was not {x} at all", False),
        ("the {aspect} was anything but {x}", False),
        ("some say that the {aspect} was {x} , and they are wrong", False),
        ("i expected a {y} {thing} and got a {x} one", True),
    ],
)
def test_words_of_a_frame_are_those_of_its_meaning(frame, same, good):
    """Checked by hand: which frames turn the meaning of {x} around."""
    domain = data.DOMAINS[0]
    entries = [entry for entry in data.PLAIN + data.NEGATED + data.HEARSAY if entry[1] == frame]
    assert len(entries) == 1
    text = data._clause(entries, good, domain, "plot", False, Random(1))
    words = set(text.split())
    alike, unlike = ({*data.GENERAL[side], *domain.words[side]} for side in (good, not good))
    if "{y}" in frame:
        assert text.split().index((words & alike).pop()) > text.split().index(
            (words & unlike).pop()
        )
    else:
        assert bool(words & alike) is same
        assert bool(words & unlike) is not same


def test_test_sentences_put_words_into_frames_they_were_not_trained_in():
    for domain in data.DOMAINS:
        for frame in data.NUMBERS:
            for good in (True, False):
                sides = [
                    set(data.choices(frame, domain, good, held_out)) for held_out in (False, True)
                ]
                assert not set.intersection(*sides)
                assert set.union(*sides) == {*data.GENERAL[good], *domain.words[good]}
    training_set = {text for _, text in map(tuple, rows(2000, False))}
    assert not training_set & {text for _, text in map(tuple, rows(500, True))}


def rows(count, held_out):
    return [
        (label, " ".join(words)) for label, words in sentiment.composed(count, held_out, Random(3))
    ]


def test_a_file_of_labelled_lines(tmp_path):
    trainer = made("--file", write(tmp_path / "rows.tsv", ROWS))
    example = trainer.example
    assert example.own_data()
    assert example.labels == ["a", "b"]
    texts = [
        {" ".join(words) for _, words in side} for side in (example.training, example.held_out)
    ]
    assert not set.intersection(*texts)
    assert set.union(*texts) == {text for _, text in ROWS}
    trainer.advance()


@pytest.mark.parametrize(
    ("content", "words", "message"),
    [
        ([], [], "is empty"),
        ([("good",)], [], "expected 2 columns"),
        ([("good", f"it was fine {n}") for n in range(30)], [], r"at least 2 labels .*\['good'\]"),
        (ROWS, ["--max-length", "3"], "a sentence has 4 words, more than --max-length 3"),
        (ROWS, ["--sentence", "  "], "no words in"),
    ],
    ids=["empty", "one column", "one label", "too long", "no words"],
)
def test_mistakes_end_with_a_sentence(tmp_path, content, words, message):
    with pytest.raises(SystemExit, match=f"^error: .*{message}"):
        made("--file", write(tmp_path / "rows.tsv", content), *words)


def test_a_padded_sentence_is_judged_as_the_sentence_alone():
    trainer = made("--sentences", "50")
    model = trainer.model.eval()
    short, long = ["the", "soup", "was"], ["the", "soup", "was", "not", "bland", "at", "all"]
    both = model(*trainer.example.batch([short, long]))
    torch.testing.assert_close(both[:1], model(*trainer.example.batch([short])))
