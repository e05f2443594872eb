"""Python source, and of what kind each of its characters is: the truth for `examples.tagging`."""

import builtins
import io
import keyword
import sys
import tokenize
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

KINDS = ["whitespace", "comment", "string", "number", "operator", "keyword", "builtin"]
KINDS += ["definition", "name", "decorator"]

BUILTINS = {name for name in dir(builtins) if not name.startswith("_")}
INVISIBLE = {tokenize.NEWLINE, tokenize.NL, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
OF_TYPE = {tokenize.STRING: "string", tokenize.NUMBER: "number"}


class Source(NamedTuple):
    """A file's name, its text, and for each character the place of its kind in KINDS."""

    name: str
    text: str
    kinds: list[int]


def sources(paths: list[Path], count: int) -> list[Source]:
    """The first `count` files that are Python and not the same as one before; names the others."""
    found: dict[str, Source] = {}
    for path in paths:
        if len(found) == count:
            break
        try:
            source = read_source(path)
            found.setdefault(source.text, source)
        except (OSError, ValueError) as error:
            print(f"{path} is left out: {error}", file=sys.stderr)
    return list(found.values())


def read_source(path: Path) -> Source:
    """A Python file, in the encoding that it declares.

    Raises:
        ValueError: it is empty, not Python, or not in that encoding.
        OSError: it cannot be read.
    """
    try:
        with tokenize.open(path) as file:
            text = file.read()
    except SyntaxError as error:  # of the declaration
        raise ValueError(str(error)) from error
    if not text.strip():
        raise ValueError("it is empty")
    return Source(path.name, text, kinds(text))


def kinds(source: str) -> list[int]:
    """For each character the place of its kind in KINDS, after the standard library's tokenizer.

    Keywords are the reserved ones. A definition is the name after `def` or `class`. A name after a
    dot is no builtin. A decorator goes from its @ to a bracket or the end of the line.

    Raises:
        ValueError: this is not Python.
    """
    lines = io.StringIO(source).readlines()
    starts = [0, *accumulate(map(len, lines))]
    found = ["whitespace" if c.isspace() else "operator" for c in source]  # \ at the end of a line
    try:
        for (first, start), (last, end), kind in spans(lines):
            begin, stop = starts[first - 1] + start, starts[last - 1] + end
            found[begin:stop] = [kind] * (stop - begin)
    except (tokenize.TokenError, SyntaxError) as error:
        raise ValueError(str(error)) from error
    return [KINDS.index(kind) for kind in found]


def spans(lines: list[str]) -> Iterator[tuple[tuple[int, int], tuple[int, int], str]]:
    """Start and end, each a line from 1 and a column from 0, and kind of what is seen."""
    before, decorator, begins = "", False, []
    for type_, text, start, end, _ in tokenize.generate_tokens(iter(lines).__next__):
        name = tokenize.tok_name[type_]
        if name.endswith("STRING_START"):  # of an f-string, from Python 3.12
            begins.append(start)
        elif name.endswith("STRING_END"):
            yield begins.pop(), end, "string"
        elif type_ == tokenize.ERRORTOKEN:
            raise ValueError(f"line {start[0]}: {text!r}")
        elif begins:
            continue
        elif type_ in INVISIBLE:
            if type_ != tokenize.NL:
                before, decorator = "", False
        elif type_ == tokenize.COMMENT:
            yield start, end, "comment"
        else:
            decorator = text != "(" and (decorator or (text == "@" and not before))
            yield start, end, "decorator" if decorator else kind_of(type_, text, before)
            before = text


def kind_of(type_: int, text: str, before: str) -> str:
    """The kind of a token, after the token before it."""
    if type_ != tokenize.NAME:
        return OF_TYPE.get(type_, "operator")
    if keyword.iskeyword(text):
        return "keyword"
    if before in ("def", "class"):
        return "definition"
    return "builtin" if text in BUILTINS and before != "." else "name"
