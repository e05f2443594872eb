"""Claim: the truth of examples.tagging is that of Python, and what is no Python is left out."""

import re

import pytest

pytest.importorskip("matplotlib", reason="the examples need requirements-examples.txt")
pytest.importorskip("safetensors", reason="as above")
pytest.importorskip("tqdm", reason="as above")

from examples.data.source_code import KINDS, kinds, read_source, sources
from examples.tagging import LINES, Tagging, html, lines_of, most_varied
from rnnkern.models import training

LETTERS = dict(zip("_csn+kbdwa", KINDS, strict=True))
SOURCE = '''\
@functools.wraps(f)  # Two
@a.b

class A(metaclass=int):
    """int @
    3"""
    def print(self, x=1.5e3):
        y = (a
             @ b) + \\
            x.len
        return f"{x!r} 3" if None else print
'''
TRUTH = """\
aaaaaaaaaaaaaaaa+w+__ccccc
aaaa

kkkkk_d+wwwwwwwww+bbb++
____ssssssss
ssssssss
____kkk_ddddd+wwww+_w+nnnnn++
________w_+_+w
_____________+_w+_+_+
____________w+www
________kkkkkk_ssssssssss_kk_kkkk_kkkk_bbbbb
"""


def test_kinds_written_out_by_hand():
    expected = [LETTERS["_" if letter == "\n" else letter] for letter in TRUTH]
    expected[SOURCE.index("@\n    3") + 1] = "string"  # the end of a line in a string is of it
    assert [KINDS[kind] for kind in kinds(SOURCE)] == expected


@pytest.mark.parametrize("text", ["'''", "x = $", "(", "  x\n y", "a?b", "'x"])
def test_what_is_not_python(text):
    with pytest.raises(ValueError, match=r"."):
        kinds(text)


def test_files_that_are_left_out(tmp_path, capsys):
    for name, text in {"a": b"x = 1", "b": b"x = 1", "c": b"'", "d": b"", "e": b"\xff"}.items():
        (tmp_path / f"{name}.py").write_bytes(text)
    (tmp_path / "f.py").write_bytes(b"# coding: latin-1\n'\xe4'")
    found = sources([tmp_path / f"{name}.py" for name in "abcdefg"], 9)
    assert [source.name for source in found] == ["a.py", "f.py"]
    assert found[1].text.endswith("'ä'")
    assert re.findall(r"(.)\.py is left out: .", capsys.readouterr().err) == list("cdeg")


def test_no_more_files_than_asked_for(tmp_path):
    for name in "abc":
        (tmp_path / f"{name}.py").write_text(f"{name} = 1")
    assert len(sources(sorted(tmp_path.iterdir()), 2)) == 2


def test_mistakes_are_underlined():
    comment, string, name = (KINDS.index(kind) for kind in ("comment", "string", "name"))
    told, truth = [string, string, name, name, 0, name], [string, comment, name, name, 0, name]
    lines = list(lines_of("ab<c\nd", told, truth))
    assert lines == [
        [("a", string, string), ("b", string, comment), ("<c", name, name)],
        [("d", name, name)],
    ]
    page = html("title", lines)
    assert page.count("underline") == 1
    assert re.search(r'underline[^>]*title="string, in truth comment">b<', page)
    assert "&lt;c" in page


def test_the_most_varied_lines():
    name, string = KINDS.index("name"), KINDS.index("string")
    lines = [[("x", name, name)]] * 100
    lines[60] = [("x", name, kind) for kind in range(len(KINDS))]
    assert lines[60] in most_varied(lines)
    assert len(most_varied(lines)) == LINES
    assert most_varied([[("s", string, string)]]) == [[("s", string, string)]]


@pytest.fixture
def train(tmp_path):
    """Trains one step in tmp_path / "files"; the harness's report."""
    (tmp_path / "files").mkdir()

    def main(*words):
        line = ["--files", str(tmp_path / "files"), "--checkpoint", str(tmp_path / "x.safetensors")]
        return training.main(Tagging, ["--quick", "--steps", "1", *line, *words])

    return main


def test_own_files_are_split_by_file(train, tmp_path):
    """The names of any one file are unknown to the others' alphabet."""
    for letter in "abcdefghijkl":
        (tmp_path / "files" / f"{letter}.py").write_text(f"{letter} = 1\n")
    assert train().reached is None
    args = training.parse(Tagging, ["--quick", "--files", str(tmp_path / "files")])
    for name, (default, quick) in Tagging.sizes.items():
        setattr(args, name, quick or default)
    example = Tagging(args, {})
    assert [file.text[0] in example.vocabulary for file in example.held_out] == [False]
    assert len(example.vocabulary) == 11 + len(" =1\n") + 4


def test_too_few_files(train, tmp_path):
    with pytest.raises(SystemExit, match=r"2 different Python files are needed, .* has 0"):
        train()
    for name in "ab":
        (tmp_path / "files" / f"{name}.py").write_text("the same = 1\n")
    with pytest.raises(SystemExit, match="has 1"):
        train()


@pytest.mark.parametrize("content", [None, b"", b"'''", b"\xff"], ids=str)
def test_what_cannot_be_highlighted(train, tmp_path, content):
    for name in "ab":
        (tmp_path / "files" / f"{name}.py").write_text(f"{name} = 1\n")
    path = tmp_path / "c.py"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SystemExit, match=r"error: cannot read Python from .*c\.py: ."):
        train("--highlight", str(path))


def test_the_encoding_of_a_file_counts(tmp_path):
    path = tmp_path / "x.py"
    path.write_bytes(b"# coding: nonsense\n")
    with pytest.raises(ValueError, match="nonsense"):
        read_source(path)
