"""Claim: the benchmark of other packages' models finds every way in which a model may disagree."""

import json
import sys

import pytest
import torch
from torch import nn

import rnnkern

pytest.importorskip("matplotlib", reason="the benchmarks need requirements-bench.txt")

from benchmarks import model_builders, real_models, timing


class Tagger(nn.Module):
    """Dropout, a packed LSTM, a cell, a parameter without gradient."""

    def __init__(self):
        super().__init__()
        self.dropout = nn.Dropout(0.5)
        self.lstm = nn.LSTM(5, 8, 2, dropout=0.5, bidirectional=True, batch_first=True)
        self.cell = nn.GRUCell(16, 8)
        self.unused = nn.Linear(1, 1)

    def forward(self, x, lengths):
        x = nn.utils.rnn.pack_padded_sequence(self.dropout(x), lengths, batch_first=True)
        y, _ = nn.utils.rnn.pad_packed_sequence(self.lstm(x)[0], batch_first=True)
        return y, self.cell(y[:, 0], torch.ones(len(y), 8))


def tagger():
    return model_builders.Example(Tagger(), (torch.randn(3, 7, 5), torch.tensor([7, 4, 2])))


@pytest.fixture
def main(monkeypatch, tmp_path):
    """Runs the command on the tagger; its exit status and the row it wrote."""
    torch.set_num_threads(1)
    monkeypatch.setattr(timing, "PAUSE", 0.0)
    monkeypatch.setattr(timing, "LONGEST_PAUSE", 0.0)
    monkeypatch.setattr(timing, "BLOCK", 0.0)
    monkeypatch.setattr(real_models, "BUDGET", 0.0)

    def command(builder=tagger, package="torch"):
        monkeypatch.setattr(real_models, "BUILDERS", {builder: package})
        out = tmp_path / "new" / "models.json"
        monkeypatch.setattr(sys, "argv", ["real_models", "--out", str(out)])
        status = real_models.main()
        return status, json.loads(out.read_text())

    return command


@pytest.fixture
def afterwards(monkeypatch):
    """Lets a function change the model after replacement."""
    replace = rnnkern.replace_rnn_

    def install(change):
        def replace_and_change(model):
            names = replace(model)
            change(model)
            return names

        monkeypatch.setattr(rnnkern, "replace_rnn_", replace_and_change)

    return install


def test_a_right_model_is_timed(main, capsys):
    status, found = main()
    (row,) = found["models"]
    assert status == 0
    assert (row["recurrent"], row["replaced"], row["wrong"]) == (2, 2, {})
    assert 0 < row["error"] <= 2
    assert 0 < row["error_of_gradients"] <= 2
    assert row["ratio"] > 0
    assert found["versions"]["torch"] == row["version"]
    assert "tagger" in capsys.readouterr().out


def scale_output(factor):
    return lambda model: model.lstm.register_forward_hook(
        lambda module, args, found: (found[0]._replace(data=found[0].data * factor), found[1])
    )


def scale_gradient(factor):
    return lambda model: model.cell.weight_hh.register_hook(lambda gradient: gradient * factor)


CHANGES = {
    "output": (scale_output(1 + 1e-5), "output 1"),
    "nan": (scale_output(float("nan")), "loss"),
    "gradient": (scale_gradient(1 + 1e-5), "d cell.weight_hh"),
    "no gradient": (lambda model: model.cell.requires_grad_(False), "d cell.weight_hh"),
    "other dropout": (lambda model: setattr(model.lstm, "dropout", 0.4), "output 1"),
}


@pytest.mark.parametrize(("change", "tensor"), CHANGES.values(), ids=CHANGES)
def test_a_wrong_layer_is_found_and_not_timed(main, afterwards, capsys, change, tensor):
    afterwards(change)
    status, found = main()
    (row,) = found["models"]
    assert status == 1
    assert tensor in row["wrong"]
    assert row["ms"] == {}
    assert "WRONG" in capsys.readouterr().out


def test_a_model_that_breaks_is_reported(main, afterwards, capsys):
    afterwards(lambda model: delattr(model.cell, "weight_ih"))
    status, found = main()
    assert status == 1
    assert found["models"][0]["broken"].startswith("AttributeError: ")
    assert "BROKEN" in capsys.readouterr().out


class Subclass(nn.LSTM):
    pass


def kept():
    example = tagger()
    example.model.lstm = Subclass(5, 8, bidirectional=True, batch_first=True)
    return example


def test_a_layer_that_is_kept_fails(main):
    status, found = main(kept)
    assert status == 1
    assert (found["models"][0]["recurrent"], found["models"][0]["replaced"]) == (2, 1)


@pytest.mark.parametrize(("builder", "expected"), [(kept, 0), (tagger, 1)])
def test_what_is_known_has_to_be_so(main, monkeypatch, builder, expected):
    monkeypatch.setattr(real_models, "KNOWN", {builder.__name__: "a subclass"})
    status, found = main(builder)
    assert status == expected
    assert found["models"][0]["known"] == (None if expected else "a subclass")


def test_a_package_may_be_missing(main, capsys):
    status, found = main(package="no-such-package")
    assert (status, found["models"]) == (0, [])
    assert found["missing"][0].startswith("tagger (")
    assert "not installed: tagger" in capsys.readouterr().out


def test_every_known_model_exists():
    assert {builder.__name__ for builder in model_builders.BUILDERS} >= set(real_models.KNOWN)
