"""Translation, French to English: an encoder, a decoder, and attention from one to the other.

    python -m examples.translation --quick
    python -m examples.translation
    python -m examples.translation --attention none --checkpoint none.safetensors
    python -m examples.translation --resume --steps 0 --compare none.safetensors
    python -m examples.translation --resume --steps 0 --sentence "il y a trois jours"
    python -m examples.translation --pairs corpus.tsv   # lines of: sentence, tab, translation

A bidirectional GRU reads the source; a second one, which begins from a summary, writes the target.
With attention each target word also looks at all source words: Luong's after the GRU (the default:
in training all steps are one call), Bahdanau's before each step. Without, the summary must hold all
and long sentences suffer. A growing share of the words read in training is the decoder's own.
"""

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from matplotlib.figure import Figure
from sacrebleu import corpus_bleu
from torch import Tensor, nn
from torch.nn import functional as F

import rnnkern
from examples.data.french_english import sentence_pairs, tokens
from rnnkern.models import (
    AdditiveAttention,
    BahdanauDecoder,
    Decoder,
    Encoder,
    GeneralAttention,
    Vocabulary,
    beam_search,
    pad,
)
from rnnkern.models.training import Example, main, positive_int, read_table, split, trainer_for

ATTENTIONS = ("luong", "bahdanau", "none")
Sentence = list[str]


class Translator(nn.Module):
    """Sources [N, S], their lengths [N] and target words [N, T] to logits [N, T, V] of the next.

    Args:
        words: how many the vocabularies of source and target have.
        size: of embeddings, and of the states of each direction and of the decoder.
        attention: one of ATTENTIONS.
    """

    def __init__(self, words: tuple[int, int], size: int, attention: str) -> None:
        super().__init__()
        read, written = (nn.Embedding(count, size) for count in words)
        self.encoder = Encoder(read, rnnkern.GRU(size, size, batch_first=True, bidirectional=True))
        self.summary = nn.Linear(self.encoder.size, size)
        self.decoder: Decoder | BahdanauDecoder
        if attention == "bahdanau":
            additive = AdditiveAttention(size, self.encoder.size, size)
            self.decoder = BahdanauDecoder(written, size, additive)
        else:
            general = GeneralAttention(size, self.encoder.size) if attention == "luong" else None
            self.decoder = Decoder(written, rnnkern.GRU(size, size, batch_first=True), general)

    def start(self, source: Tensor, lengths: Tensor) -> tuple[Tensor, ...]:
        """The decoder's state before its first word."""
        memory, last = self.encoder(source, lengths)
        return self.decoder.start(torch.tanh(self.summary(last)), (memory, lengths))

    def forward(self, source: Tensor, lengths: Tensor, target: Tensor, share: float) -> Tensor:
        """A `share` of the target words read are those that a first pass predicts.

        That is scheduled sampling (arXiv:1506.03099) in two passes (arXiv:1906.07651).
        """
        state = self.start(source, lengths)
        if share > 0:
            with torch.no_grad():
                own = self.decoder(target[:, :-1], state)[0].argmax(-1)
            chosen = torch.rand(own.shape, device=own.device) < share
            target = torch.cat([target[:, :1], torch.where(chosen, own, target[:, 1:])], 1)
        return self.decoder(target, state)[0]


class Translation(Example):
    """Source words int64 [N, S] and their numbers [N] to target words [N, T]."""

    steps, quick_steps = 2400, 250
    sizes = {"words": (10_000, 10_000), "items": (5, 1), "hidden": (128, 64), "batch": (64, 64)}
    metric = "BLEU of held-out sentences"
    threshold, quick_threshold = 85, 35
    baseline = "copying the source"

    @classmethod
    def add_options(cls, parser: ArgumentParser) -> None:
        add = parser.add_argument
        add("--attention", choices=ATTENTIONS, help=f"default {ATTENTIONS[0]}")
        add("--pairs", type=Path, metavar="FILE", help="lines: a sentence, a tab, its translation")
        add("--max-length", type=positive_int, default=100, metavar="N", help="words; default 100")
        add("--beam", type=positive_int, default=4, metavar="N", help="width; default 4")
        add("--sentence", action="append", help="translate it; can be repeated")
        add("--compare", type=Path, nargs="+", default=[], metavar="FILE", help="draw these too")

    def __init__(self, args: Namespace, stored: dict[str, Any]) -> None:
        super().__init__(args, stored)
        args.attention = args.attention or stored.get("attention", ATTENTIONS[0])
        rows = read_table(args.pairs, 2) if args.pairs else sentence_pairs(args.items)
        pairs = [(tokens(source), tokens(target)) for source, target in rows]
        for row, pair in enumerate(pairs, 1):
            if (longest := max(map(len, pair))) > (most := args.max_length):
                raise ValueError(f"row {row} has {longest} words, more than --max-length {most}")
        pairs.sort(key=lambda pair: len(pair[0]))
        self.training, held_out = split(pairs, lambda pair: " ".join(pair[0]))
        self.sources, self.references = zip(*held_out, strict=True)
        (sources, targets), words = zip(*self.training, strict=True), args.words
        self.source = Vocabulary(stored["source"]) if stored else Vocabulary.build(sources, words)
        self.target = Vocabulary(stored["target"]) if stored else Vocabulary.build(targets, words)
        self.sentences = [tokens(sentence) for sentence in args.sentence or []]
        if [] in self.sentences:
            raise ValueError("--sentence is empty")
        to_load: dict[str, Any] = {"resume": True, "attention": None, "compare": []}
        others = [vars(args) | to_load | {"checkpoint": path} for path in args.compare]
        self.others: list[Any] = [trainer_for(Translation, Namespace(**each)) for each in others]

    def own_data(self) -> list[Path]:
        return [self.args.pairs] if self.args.pairs else []

    def is_judged(self) -> bool:
        """There is no threshold for the model that shows why attention is needed."""
        return self.args.attention != "none"

    def facts(self) -> dict[str, Any]:
        words = {"source": self.source.own, "target": self.target.own}
        return {"attention": self.args.attention, **words}

    def build(self) -> nn.Module:
        words = len(self.source), len(self.target)
        return Translator(words, self.args.hidden, self.args.attention)

    def loss(self, model: nn.Module, step: int) -> Tensor:
        """Of sentences of about the same length: neighbours among the sorted ones."""
        size = min(self.args.batch, len(self.training))
        start = int(torch.randint(len(self.training) - size + 1, ()))
        sources, targets = zip(*self.training[start : start + size], strict=True)
        source, lengths = pad([self.source.encode(words) for words in sources])
        target, _ = pad([self.target.encode(words, ends=True) for words in targets])
        target, share = target.to(self.device), 0.25 * min(1, step / 2000)
        logits = model(source.to(self.device), lengths, target[:, :-1], share).flatten(0, 1)
        return F.cross_entropy(logits, target[:, 1:].flatten(), ignore_index=Vocabulary.PAD)

    def evaluate(self, model: nn.Module) -> tuple[float, float]:
        self.translations = self.translate(model, self.sources, self.args.beam)
        return bleu(self.translations, self.references), bleu(self.sources, self.references)

    def translate(self, model: Any, sources: Sequence[Sentence], beam: int) -> list[Sentence]:
        """By beam search; a beam of 1 is the greedy search."""
        found: list[Sentence] = []
        for start in range(0, len(sources), 60):
            source, lengths = pad([self.source.encode(s) for s in sources[start : start + 60]])
            state = model.start(source.to(self.device), lengths)
            first = torch.full((len(source),), Vocabulary.BOS, device=self.device)
            words = beam_search(model.decoder, state, first, 2 * source.size(1) + 10, width=beam)
            found += map(self.target.decode, words.tolist())
        return found

    def show(self, model: nn.Module, picture: Path) -> None:
        sources, beam = self.sources, self.args.beam
        greedy = bleu(self.translate(model, sources, 1), self.references)
        best = bleu(self.translations, self.references)
        print(f"BLEU {greedy:.2f} by greedy search, {best:.2f} with a beam of {beam}")
        sentences = self.sentences or [sources[len(sources) * part // 8] for part in (3, 1, 5, 7)]
        found = self.translate(model, sentences, beam)
        for source, target in zip(sentences, found, strict=True):
            print(f"{' '.join(source)}\n    -> {' '.join(target)}")
        panels = 1 if self.args.attention == "none" else 2
        figure = Figure(figsize=(7 * panels, 6), layout="constrained")
        axes = figure.subplots(1, panels, squeeze=False)[0]
        self.draw_lengths(axes[0])
        if panels == 2:
            self.draw_attention(axes[1], model, sentences[0], found[0])
        figure.savefig(picture)

    def draw_lengths(self, axes: Any) -> None:
        """BLEU of each sixth of the held-out sentences, from the shortest to the longest."""
        curves = [(self.args.attention, self.translations)]
        for other in self.others:
            found = other.example.translate(other.model.eval(), self.sources, self.args.beam)
            curves.append((other.example.args.attention, found))
        size = -(-len(self.sources) // 6)
        parts = [slice(start, start + size) for start in range(0, len(self.sources), size)]
        lengths = [fmean(map(len, self.sources[part])) for part in parts]
        for attention, found in curves:
            values = [bleu(found[part], self.references[part]) for part in parts]
            label = f"attention: {attention} (all: {bleu(found, self.references):.1f})"
            axes.plot(lengths, values, "o-", label=label)
        title, xlabel = f"Held-out sentences, {size} to a point", "words of the source"
        axes.set(title=title, xlabel=xlabel, ylabel="BLEU", ylim=(0, 102))
        axes.legend(loc="lower left")

    def draw_attention(self, axes: Any, model: Any, source: Sentence, target: Sentence) -> None:
        """The weights of all source words for each target word."""
        attention, weights = model.decoder.attention, list[Tensor]()
        with attention.register_forward_hook(lambda *call: weights.append(call[2][1])):
            words, lengths = pad([self.source.encode(source)])
            read = torch.tensor([[Vocabulary.BOS, *self.target.encode(target)]])
            model(words.to(self.device), lengths, read.to(self.device), 0.0)
        axes.imshow(torch.cat(weights, 1)[0].tolist(), cmap="Greys", vmin=0, vmax=1, aspect="auto")
        axes.set_xticks(range(len(source)), source, rotation=90)
        axes.set_yticks(range(len(target) + 1), [*target, "<EOS>"])
        axes.set(title="Attention (black: 1)", xlabel="words read", ylabel="words written")


def bleu(found: Sequence[Sentence], targets: Sequence[Sentence]) -> float:
    """From 0 to 100, of the words as they are."""
    texts, references = ([" ".join(words) for words in side] for side in (found, targets))
    return corpus_bleu(texts, [references], tokenize="none", force=True).score


if __name__ == "__main__":
    main(Translation)
