"""Claim: the sentence pairs are translations, none is on both sides, and mistakes are named."""

from random import Random

import pytest
import torch

for module in ("tqdm", "safetensors", "matplotlib", "babel", "num2words", "sacrebleu"):
    pytest.importorskip(module, reason="the examples need requirements-examples.txt")

from examples import translation  # noqa: E402
from examples.data import french_english  # noqa: E402
from rnnkern.models import training  # noqa: E402

PAIRS = [(f"le mot {number} est long", f"word {number} is long") for number in range(40)]


def write(path, rows):
    path.write_text("".join("\t".join(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.fixture
def made(tmp_path):
    """The example and its untrained model for these words of the command line, of a small size."""

    def make(*words, pairs=PAIRS):
        file = write(tmp_path / "pairs.tsv", pairs)
        sizes = ["--hidden", "8", "--batch", "4", "--checkpoint", str(tmp_path / "m.safetensors")]
        args = training.parse(translation.Translation, ["--pairs", file, *sizes, *words])
        trainer = training.trainer_for(translation.Translation, args)
        return trainer.example, trainer.model

    return make


class Fixed(Random):
    """Numbers that are asked for, in the order of this list."""

    def __init__(self, numbers):
        super().__init__(0)
        self.numbers = numbers

    def randrange(self, *limits):
        return self.numbers.pop(0)

    def randint(self, low, high):
        return self.numbers.pop(0)

    def choice(self, options):
        return options[self.numbers.pop(0)]


@pytest.mark.parametrize(
    ("kind", "numbers", "french", "english"),
    [
        ("day", [25993], "le mardi 2 mars 2021", "on tuesday , march 2 , 2021"),
        (
            "day_in_words",
            [25992],
            "le premier mars deux mille vingt et un",
            "on march first , twenty twenty - one",
        ),
        ("month", [25993], "en mars 2021", "in march 2021"),
        ("clock", [14, 30], "à 14 : 30", "at 2 : 30 pm"),
        ("clock_in_words", [1, 3], "à une heure moins le quart", "at a quarter to one"),
        ("distance", [1, 21, 1], "il y a vingt et une heures", "twenty - one hours ago"),
        ("distance", [3, 2, 0], "dans deux ans", "in two years"),
        (
            "weekday",
            [26028, 3],
            "le troisième mardi d' avril",
            "on the third tuesday of april",
        ),
        (
            "time_of_many",
            [21],
            "pour la vingt et unième fois",
            "for the twenty - first time",
        ),
        (
            "amount",
            [2, 1200, 1, 1],
            "mille deux cents dollars des états - unis",
            "one thousand , two hundred us dollars",
        ),
        ("amount", [0, 1, 0, 2], "une tonne", "one metric ton"),
    ],
)
def test_translations_written_out(kind, numbers, french, english):
    pair = getattr(french_english, kind)(Fixed(numbers))
    assert tuple(" ".join(french_english.tokens(text)) for text in pair) == (french, english)


@pytest.mark.parametrize(
    ("numbers", "share", "french", "english"),
    [
        ([2, 0, 0], 0.1, "nous ne lui avons pas vendu", "we did not sell him"),
        ([3, 2, 4], 0.9, "ils vous ont prêté", "they lent you"),
    ],
)
def test_who_did_what(monkeypatch, numbers, share, french, english):
    random = Fixed(numbers)
    monkeypatch.setattr(random, "random", lambda: share)
    assert french_english.deed(random) == (french, english)


def test_generated_sentences():
    """All different, the same each time, and of all lengths from a few words to many."""
    short = french_english.sentence_pairs(1)
    assert short == french_english.sentence_pairs(1)
    assert len({source for source, _ in short}) == len(short) == 4000
    random = Random(0)
    long = [french_english.sentence(random, 6) for _ in range(100)]
    lengths = [
        sorted(len(french_english.tokens(source)) for source, _ in pairs) for pairs in (short, long)
    ]
    assert lengths[0][0] <= 3
    assert lengths[0][-1] < 25
    assert lengths[1][50] > 35


def test_tokens_leave_spaces_out_and_marks_alone():
    text = "L’an 1\u202f200\xa0: « aujourd'hui », vingt-et-un"
    expected = "l’ an 1 200 : « aujourd' hui » , vingt - et - un"
    assert french_english.tokens(text) == expected.split()


def test_no_source_is_on_both_sides(made):
    """Nor when it has several translations; all pairs are on one of them."""
    example, _ = made(pairs=[*PAIRS, *((french, "again " + english) for french, english in PAIRS)])
    sources = [" ".join(source) for source, _ in example.training]
    held_out = [" ".join(source) for source in example.sources]
    assert (len(sources), len(held_out)) == (76, 4)
    assert not set(sources) & set(held_out)


def test_bleu():
    right = [["the", "cat", "sat", "on", "the", "mat"], ["one", "two", "three", "four", "five"]]
    assert translation.bleu(right, right) == pytest.approx(100)
    wrong = [right[0], ["one", "two", "three", "six", "five"]]
    # 10 of 11 words, 7 of 9 pairs, 5 of 7 triples and 3 of 5 quadruples are right
    expected = 100 * (10 / 11 * 7 / 9 * 5 / 7 * 3 / 5) ** 0.25
    assert translation.bleu(wrong, right) == pytest.approx(expected)


@pytest.mark.parametrize("attention", translation.ATTENTIONS)
def test_own_words_are_those_predicted_there(made, attention):
    """With a share of 1 each word read after BOS is what the model predicts at that place."""
    _, model = made("--attention", attention)
    source, lengths = torch.tensor([[4, 5, 6]]), torch.tensor([3])
    target = torch.tensor([[1, 4, 5, 6]])
    given = model(source, lengths, target, 0.0)
    own = torch.cat([target[:, :1], given[:, :-1].argmax(-1)], 1)
    assert not torch.equal(own, target)
    assert torch.equal(model(source, lengths, target, 1.0), model(source, lengths, own, 0.0))


@pytest.mark.parametrize("attention", translation.ATTENTIONS)
def test_translating_is_indifferent_to_batches(made, attention):
    example, model = made("--attention", attention)
    sources = [source[: 1 + row] for row, (source, _) in enumerate(example.training[:5])]
    together = example.translate(model, sources, 4)
    alone = [example.translate(model, [source], 4)[0] for source in sources]
    assert [words[:10] for words in together] == [words[:10] for words in alone]


def test_other_checkpoints_are_compared(made, tmp_path):
    """Each with its own attention; and one of another size is refused."""
    args = [
        "--hidden",
        "8",
        "--batch",
        "4",
        "--steps",
        "1",
        "--pairs",
        write(tmp_path / "pairs.tsv", PAIRS),
    ]
    other = str(tmp_path / "none.safetensors")
    training.main(translation.Translation, [*args, "--attention", "none", "--checkpoint", other])
    example, _ = made("--compare", other)
    assert [trainer.example.args.attention for trainer in example.others] == ["none"]
    assert example.args.attention == "luong"
    with pytest.raises(SystemExit, match="another model: hidden is 8 there and 16 here"):
        made("--compare", other, "--hidden", "16")


@pytest.mark.parametrize(
    ("words", "rows", "message"),
    [
        ([], [("one column",)], "line 1: expected 2 columns"),
        ([], [], "is empty"),
        ([], PAIRS[:1] * 9, "something else to hold out"),
        ([], [("un", "one")] * 3 + [("deux", "two")], "at least 2 words"),
        (["--max-length", "4"], PAIRS, "row 1 has 5 words, more than --max-length 4"),
        (["--sentence", " "], PAIRS, "--sentence is empty"),
        (["--compare", "missing.safetensors"], PAIRS, "cannot read the checkpoint"),
    ],
)
def test_mistakes_end_with_a_sentence(made, words, rows, message):
    with pytest.raises(SystemExit, match=f"^error: .*{message}"):
        made(*words, pairs=rows)
