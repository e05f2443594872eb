"""Claim: the grammar defines what examples.word_vectors finds, and its vectors reach word_lm."""

import json
import math
import random
from collections import Counter

import pytest
import torch
from torch.nn import functional as F

pytest.importorskip("matplotlib", reason="the examples need requirements-examples.txt")
safetensors = pytest.importorskip("safetensors.torch", reason="as above")
pytest.importorskip("tqdm", reason="as above")

from examples.data import grammar  # noqa: E402
from examples.word_lm import WordLM  # noqa: E402
from examples.word_vectors import SkipGram, WordVectors  # noqa: E402
from rnnkern.models import Vocabulary, sentences  # noqa: E402
from rnnkern.models.training import main, parse, trainer_for  # noqa: E402

TEXT = "the quick brown fox jumps over the lazy dog . it was late . " * 100


def test_sentences_of_the_grammar():
    """Each has a word of a table with its own companions, and none names two of a row."""
    rows = [(row, names.split()) for table in grammar.TABLES for row, names in table.items()]
    for sentence in grammar.sentences(2000, seed=1):
        assert sentence.endswith(".")
        words = sentence[:-1].split()
        related = [(row, names) for row, names in rows if set(row) & set(words)]
        companions = Counter(word for _, names in rows for word in names if word in words)
        ((row, names),) = related
        assert len(set(row) & set(words)) == 1
        assert set(companions) <= set(names)
    assert list(grammar.sentences(9, 0)) == list(grammar.sentences(9, 0))


def test_no_word_is_in_two_places():
    words = [word for table in grammar.TABLES for row in table for word in row]
    names = [name for table in grammar.TABLES for names in table.values() for name in names.split()]
    assert len(set(words + names)) == len(words + names)


def test_analogies_of_the_grammar():
    found = grammar.analogies()
    assert ("big", "biggest", "small", "smallest") in found
    assert ("children", "child", "geese", "goose") in found
    assert ("king", "queen", "man", "woman") in found
    assert len(found) == len(set(found)) == 12 * 11 * 6 + 2 * 10 * 9 * 2
    assert not any({"king", "cat"} <= set(row) for row in found)


def test_sentences_of_a_text():
    found = list(sentences("It's 3 o'clock. Go!\n\nfoo_bar\n"))
    assert found == [["it's", "3", "o'clock", "."], ["go", "!"], ["foo", "_", "bar"]]


def example(tmp_path, cls=WordVectors, *words):
    path = tmp_path / "text.txt"
    if not path.exists():
        path.write_text(TEXT)
    line = ["--quick", "--text", str(path), "--checkpoint", str(tmp_path / "x.safetensors")]
    return trainer_for(cls, parse(cls, [*line, *words]))


def test_only_words_of_one_sentence_are_near(tmp_path):
    """No pair is of two sentences, none is farther apart than the window, near ones are more."""
    trainer = example(tmp_path, WordVectors, "--window", "3", "--batch", "4000")
    seen = Counter()

    def model(words, others):
        names = trainer.example.vocabulary.words
        seen.update((names[a], names[b]) for a, b in zip(words, others[:, 0], strict=True))
        assert others.shape == (len(words), 1 + 5)
        return torch.zeros(others.shape)

    loss = trainer.example.loss(model, 0)
    assert loss.item() == pytest.approx(6 * torch.tensor(2.0).log().item())
    line = ["the", "quick", "brown", "fox", "jumps", "over"]
    counts = [seen[line[place], line[5]] for place in range(1, 5)]
    assert counts[0] == 0
    assert 0 < counts[1] < counts[2] < counts[3]
    assert counts[1] * 3 == pytest.approx(counts[3], rel=0.5)
    assert not any({"it", "dog"} <= set(pair) for pair in seen)
    assert not any({"quick"} == set(pair) for pair in seen)


def test_the_metric_on_vectors_made_by_hand(tmp_path):
    """Sums of a vector for the row and one for the column answer everything; noise does nothing."""
    words = parse(WordVectors, ["--quick", "--checkpoint", str(tmp_path / "x.safetensors")])
    built = trainer_for(WordVectors, words)
    assert isinstance(built.model, SkipGram)
    generator = random.Random(0)
    weight = built.model.vectors.weight.data
    for table in grammar.TABLES:
        columns = [torch.tensor([generator.gauss(0, 1) for _ in range(64)]) for _ in range(3)]
        for row in table:
            own = torch.tensor([generator.gauss(0, 1) for _ in range(64)])
            for word, column in zip(row, columns, strict=False):
                weight[built.example.vocabulary.number(word)] = own + column
    value, baseline = built.example.evaluate(built.model)
    assert value > 95 > baseline
    weight.normal_()
    assert max(built.example.evaluate(built.model)) < 5


def test_the_vectors_beside_the_checkpoint(tmp_path):
    path, (a, b) = tmp_path / "pairs.tsv", ("quick\tfox\tlazy\tdog", "no\tword\tis\tthere")
    path.write_text(f"{a}\n{b}\n")
    example(tmp_path)  # writes the text
    line = ["--text", str(tmp_path / "text.txt"), "--checkpoint", str(tmp_path / "x.safetensors")]
    report = main(WordVectors, ["--quick", "--steps", "2", *line, "--analogies", str(path)])
    assert report.reached is None
    assert (tmp_path / "x.png").stat().st_size > 1000
    with safetensors.safe_open(tmp_path / "x-vectors.safetensors", "pt") as file:
        words, vectors = json.loads(file.metadata()["words"]), file.get_tensor("vectors")
    assert set(words) == set(TEXT.split())
    assert torch.allclose(vectors.norm(dim=1), torch.ones(len(words)))
    weight = safetensors.load_file(tmp_path / "x.safetensors")["model.vectors.weight"]
    place = words.index("fox")
    assert torch.allclose(vectors[place], F.normalize(weight[place + 4], dim=0))


def test_a_text_without_the_words_of_analogies(tmp_path, capsys):
    line = ["--text", str(tmp_path / "text.txt"), "--checkpoint", str(tmp_path / "x.safetensors")]
    (tmp_path / "text.txt").write_text(TEXT)
    report = main(WordVectors, ["--quick", "--steps", "1", *line])
    assert math.isnan(report.value)
    assert "no analogy" in capsys.readouterr().out
    assert (tmp_path / "x.png").is_file()


@pytest.mark.parametrize(
    ("text", "words", "message"),
    [
        (" ", [], "is empty"),
        ("one one one", [], "at least 2 words"),
        ("one\n\ntwo\n\nthree", ["--words", "2"], "no sentence of the text has two words"),
        (TEXT, ["--near", "king"], "--near: .* king"),
        (TEXT, ["--analogies", "few"], "4 columns"),
        (TEXT, ["--analogies", "other"], "no analogy has four words"),
    ],
    ids=["empty", "one-word", "alone", "near", "columns", "unknown"],
)
def test_mistakes_end_with_a_sentence(tmp_path, monkeypatch, text, words, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text(text)
    (tmp_path / "few").write_text("a\tb\tc\n")
    (tmp_path / "other").write_text("a\tb\tc\td\n")
    with pytest.raises(SystemExit, match=rf"^error: .*{message}"):
        example(tmp_path, WordVectors, *words)


def vectors_file(tmp_path, words, vectors):
    path = tmp_path / "vectors.safetensors"
    safetensors.save_file({"vectors": vectors}, path, {"words": json.dumps(words)})
    return ["--vectors", str(path)]


def test_word_lm_begins_with_vectors(tmp_path):
    """Rows of words that both have, and no other."""
    plain, vectors = example(tmp_path, WordLM), torch.randn(3, 64)
    options = vectors_file(tmp_path, ["dog", "unicorn", "fox"], vectors)
    begun = example(tmp_path, WordLM, *options)
    number = begun.example.vocabulary.number
    expected = plain.model.embed.weight.detach().clone()
    expected[[number("dog"), number("fox")]] = vectors[[0, 2]]
    assert torch.equal(begun.model.embed.weight, expected)
    assert torch.equal(expected[Vocabulary.UNK], plain.model.embed.weight[Vocabulary.UNK])
    assert begun.model.head.weight is begun.model.embed.weight
    assert begun.example.facts() == plain.example.facts()


@pytest.mark.parametrize(
    ("words", "shape", "message"),
    [
        (["dog"], (1, 63), "vectors of size 63, --hidden is 64"),
        (["dog"], (2, 64), r"has 1 words and vectors of shape \[2, 64\]"),
        (["dog"], (1,), r"vectors of shape \[1\]"),
        (["unicorn"], (1, 64), "none of the text's words"),
    ],
    ids=["size", "count", "dimensions", "unknown"],
)
def test_vectors_that_do_not_fit(tmp_path, words, shape, message):
    with pytest.raises(SystemExit, match=rf"^error: .*{message}"):
        example(tmp_path, WordLM, *vectors_file(tmp_path, words, torch.zeros(shape)))


def test_files_that_are_no_vectors(tmp_path):
    missing = ["--vectors", str(tmp_path / "missing.safetensors")]
    with pytest.raises(SystemExit, match=r"^error: cannot read word vectors from .*missing"):
        example(tmp_path, WordLM, *missing)
    other = tmp_path / "other.safetensors"
    safetensors.save_file({"weight": torch.zeros(1)}, other)
    with pytest.raises(SystemExit, match=r"^error: cannot read word vectors from .*other"):
        example(tmp_path, WordLM, "--vectors", str(other))
