"""A fusion head learns answers over the tokens of two towers; nothing is written to disk.

The same seed and number of threads give the same numbers on a CPU. The model that is given stays as it was.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from biomedica.errors import EvaluationError
from biomedica.evaluate.embeddings import picture_digest
from biomedica.evaluate.fusion import Fusion
from biomedica.evaluate.items import Items
from biomedica.evaluate.settings import FusionSettings
from biomedica.evaluate.tokens import Tokens, TowerModel, Towers, Words, resized

_BETAS, _EPSILON = (0.9, 0.98), 1e-8
"""METER's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Some items of a split."""

    items: Items
    rows_N: NDArray[np.int64]
    labels_N: NDArray[np.int64]
    """Index of each row's answer among the candidates; -1 for an answer that is none of them."""

    def __len__(self) -> int:
        return len(self.rows_N)


@dataclass(frozen=True, slots=True, kw_only=True)
class Epoch:
    """How far training has come."""

    number: int
    """From 1."""
    of: int
    loss: float
    """Mean over the epoch."""
    accuracy: float | None
    """On validation; None without it."""
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Learned:
    """What came of training."""

    scores_NV: NDArray[np.float32]
    """Of the test items, before a softmax or sigmoid."""
    best: int
    """Epoch whose weights were taken."""
    epochs: tuple[Epoch, ...]
    num_weights: int
    """Of the head."""
    image_size: int


def learn(
    given: TowerModel,
    parts: tuple[Part, Part | None, Part],
    num_answers: int,
    settings: FusionSettings,
    tell: Callable[[Epoch], None],
) -> Learned:
    """Train on the first part, choose the epoch by the second, answer the third."""
    devices = [] if given.device.type == "cpu" else [given.device]
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(settings.seed)
        return _Learner(_own(given, settings), num_answers, settings).run(*parts, tell)


def _own(given: TowerModel, settings: FusionSettings) -> TowerModel:
    """The model at the wanted size; a copy where it or its weights will change."""
    size = settings.image_size or given.preprocessing.size
    if size != given.preprocessing.size:
        return resized(given, size)
    return replace(given, model=copy.deepcopy(given.model)) if settings.lr_towers else given


class _Learner:
    """Towers, head and optimizer."""

    def __init__(self, given: TowerModel, num_answers: int, settings: FusionSettings) -> None:
        self.settings = settings
        self.device = given.device
        self.model = given.model
        self.learns = settings.lr_towers > 0
        self.feed = _Feed(given, settings)
        self.head = Fusion(self.feed.widths, self.feed.firsts, num_answers, settings)
        self.head.to(self.device)
        self.optimizer = torch.optim.AdamW(self._groups(), betas=_BETAS, eps=_EPSILON)

    def run(
        self,
        train: Part,
        validation: Part | None,
        test: Part,
        tell: Callable[[Epoch], None],
    ) -> Learned:
        """All epochs, then the best one's answers."""
        epochs: list[Epoch] = []
        best, highest, kept = self.settings.epochs, -1.0, None
        for number in range(1, self.settings.epochs + 1):
            started = time.monotonic()
            loss = self._epoch(train, number)
            accuracy = None if validation is None else self._accuracy(validation)
            seconds = time.monotonic() - started
            epochs.append(
                Epoch(
                    number=number,
                    of=self.settings.epochs,
                    loss=loss,
                    accuracy=accuracy,
                    seconds=round(seconds, 3),
                )
            )
            tell(epochs[-1])
            if accuracy is not None and accuracy > highest:
                best, highest, kept = number, accuracy, copy.deepcopy(self._state())
        if kept is not None:
            self.head.load_state_dict(kept["head"])
            if self.learns:
                self.model.load_state_dict(kept["model"])
        return Learned(
            scores_NV=self.scores(test),
            best=best,
            epochs=tuple(epochs),
            num_weights=sum(each.numel() for each in self.head.parameters()),
            image_size=self.feed.size,
        )

    def scores(self, part: Part) -> NDArray[np.float32]:
        """(N, V) of a part's items, in its order."""
        self._learning(False)
        found = []
        with (
            torch.no_grad()
        ):  # inference_mode's tensors, which the feed keeps, could not be learned from
            for start in range(0, len(part), self.settings.batch):
                rows = part.rows_N[start : start + self.settings.batch]
                found.append(self._scores(part.items, rows).cpu().numpy())
        return np.concatenate(found)

    def _accuracy(self, part: Part) -> float:
        return float((self.scores(part).argmax(axis=1) == part.labels_N).mean())

    def _state(self) -> dict[str, Any]:
        return {
            "head": self.head.state_dict(),
            "model": self.model.state_dict() if self.learns else None,
        }

    def _learning(self, on: bool) -> None:
        """Dropout and the like; statistics of batches stay those that the towers came with."""
        self.head.train(on)
        if not self.learns:
            return
        self.model.train(on)
        for each in self.model.modules():
            if isinstance(each, torch.nn.modules.batchnorm._BatchNorm):
                each.eval()

    def _epoch(self, train: Part, number: int) -> float:
        self._learning(True)
        random = np.random.default_rng([self.settings.seed, number])
        order_N = random.permutation(len(train))
        steps = range(0, len(train), self.settings.batch)
        total = 0.0
        for index, start in enumerate(steps):
            chosen = order_N[start : start + self.settings.batch]
            self._set_rates((number - 1) * len(steps) + index, self.settings.epochs * len(steps))
            total += self._step(train, chosen) * len(chosen)
        return total / len(train)

    def _step(self, train: Part, chosen: NDArray[np.int64]) -> float:
        self.optimizer.zero_grad(set_to_none=True)
        scores = self._scores(train.items, train.rows_N[chosen])
        loss = self._loss(scores, torch.from_numpy(train.labels_N[chosen]).to(self.device))
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return float(loss.detach())

    def _scores(self, items: Items, rows: NDArray[np.int64]) -> Tensor:
        with self._autocast():
            found: Tensor = self.head(
                self.feed.images(items, rows), self.feed.questions(items, rows)
            ).float()
        bad = (~found.detach().isfinite().all(dim=1)).nonzero()
        if len(bad):
            raise EvaluationError(
                f"{items.name(int(rows[int(bad[0])]))}: the fusion head gives no number for it; "
                "lower rates (evaluate.fusion.lr_head, lr_fusion, lr_towers) would do where training ran away"
            )
        return found

    def _autocast(self) -> AbstractContextManager[Any]:
        if self.settings.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16)

    def _loss(self, scores: Tensor, labels: Tensor) -> Tensor:
        smoothing, functional = self.settings.label_smoothing, torch.nn.functional
        if self.settings.loss == "softmax":
            return functional.cross_entropy(scores, labels, label_smoothing=smoothing)
        num_answers = scores.shape[1]
        targets = functional.one_hot(labels, num_answers).float()
        targets = targets * (1 - smoothing) + smoothing / num_answers
        return functional.binary_cross_entropy_with_logits(scores, targets) * num_answers

    def _groups(self) -> list[dict[str, Any]]:
        """Weights by their rate; biases and norms do not decay."""
        settings = self.settings
        kinds: list[tuple[float, list[Tensor]]] = [
            (settings.lr_head, list(self.head.classifier.parameters())),
            (
                settings.lr_fusion,
                [*self.head.image.parameters(), *self.head.question.parameters()],
            ),
        ]
        if self.learns:
            towers = [each for each in self.model.parameters() if each.requires_grad]
            kinds.append((settings.lr_towers, towers))
        return [
            {"params": some, "peak": rate, "lr": rate, "weight_decay": decay}
            for rate, weights in kinds
            for decay, some in (
                (settings.weight_decay, [each for each in weights if each.ndim > 1]),
                (0.0, [each for each in weights if each.ndim < 2]),
            )
            if some
        ]

    def _set_rates(self, step: int, num_steps: int) -> None:
        rising = round(self.settings.warmup * num_steps)
        if step < rising:
            share = (step + 1) / rising
        else:
            share = (num_steps - step) / max(1, num_steps - rising)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * share


class _Feed:
    """Tokens of items. Where the towers stand still, those of a picture or a question are computed once."""

    def __init__(self, given: TowerModel, settings: FusionSettings) -> None:
        self._towers = Towers(given.model)
        self.firsts = self._towers.image_has_first, self._towers.text_has_first
        self.size = given.preprocessing.size
        self._tokenize, self._preprocessing = given.tokenize, given.preprocessing
        self._use, self._still, self._device = settings.use, not settings.lr_towers, given.device
        self._store = _Store(int(settings.keep_gb * 1e9))
        self._names: dict[tuple[int, str], str] = {}
        self.widths = self._measured()
        """Numbers in a token of each tower."""

    def _measured(self) -> tuple[int, int]:
        with torch.no_grad():
            blank = torch.zeros(1, 3, self.size, self.size, device=self._device)
            image = self._towers.images(blank)
            text = self._towers.texts(self._words(["?"]))
        return image.values.shape[2], text.values.shape[2]

    def _words(self, texts: Sequence[str]) -> Words:
        return {name: each.to(self._device) for name, each in self._tokenize(list(texts)).items()}

    def images(self, items: Items, rows: Sequence[int] | NDArray[np.int64]) -> Tokens:
        """Of the rows' pictures; a token of zeros where pictures are masked."""
        if self._use == "question":
            return self._masked(len(rows), self.widths[0])
        names = [self._picture_name(items, int(row)) for row in rows]
        return self._gather("image", names, items, rows, self._embed_pictures)

    def questions(self, items: Items, rows: Sequence[int] | NDArray[np.int64]) -> Tokens:
        """Of the rows' questions; a token of zeros where questions are masked."""
        if self._use == "image":
            return self._masked(len(rows), self.widths[1])
        assert items.questions is not None
        names = [items.questions[row].text for row in rows]
        return self._gather("question", names, items, rows, self._embed_questions)

    def _masked(self, count: int, width: int) -> Tokens:
        return Tokens(
            torch.zeros(count, 1, width, device=self._device),
            torch.ones(count, 1, dtype=torch.bool, device=self._device),
        )

    def _gather(
        self,
        kind: str,
        names: list[str],
        items: Items,
        rows: Sequence[int] | NDArray[np.int64],
        embed: Callable[[Items, list[int]], Tokens],
    ) -> Tokens:
        """Tokens by name, those that are not in the store through a tower."""
        first: dict[str, int] = {}
        for name, row in zip(names, rows, strict=True):
            first.setdefault(name, int(row))
        if not self._still:
            found = embed(items, list(first.values()))
            place = {name: index for index, name in enumerate(first)}
            chosen = torch.tensor([place[name] for name in names], device=self._device)
            return Tokens(found.values[chosen], found.mask[chosen])
        known = {name: self._store.get(f"{kind} {name}") for name in first}
        missing = [name for name, each in known.items() if each is None]
        if missing:
            with torch.no_grad():
                found = embed(items, [first[name] for name in missing])
            for name, values, mask in zip(missing, found.values, found.mask, strict=True):
                known[name] = own = values[mask].cpu()
                self._store.put(f"{kind} {name}", own)
        return self._padded([known[name] for name in names])

    def _padded(self, sequences: list[Any]) -> Tokens:
        lengths = torch.tensor([len(each) for each in sequences])
        values = torch.nn.utils.rnn.pad_sequence(sequences, batch_first=True)
        mask = torch.arange(values.shape[1]) < lengths[:, None]
        return Tokens(values.to(self._device), mask.to(self._device))

    def _embed_pictures(self, items: Items, rows: list[int]) -> Tokens:
        pixels = np.stack([self._pixels(items, row) for row in rows])
        inputs = torch.from_numpy(self._preprocessing.normalised(pixels)).to(self._device)
        return _checked(self._towers.images(inputs), items, rows, "picture")

    def _embed_questions(self, items: Items, rows: list[int]) -> Tokens:
        assert items.questions is not None
        words = self._words([items.questions[row].text for row in rows])
        return _checked(self._towers.texts(words), items, rows, "question")

    def _pixels(self, items: Items, row: int) -> NDArray[np.uint8]:
        """Kept where a picture is needed in every epoch."""
        name = f"pixels {self._picture_name(items, row)}"
        found = self._store.get(name)
        if found is None:
            found = torch.from_numpy(self._preprocessing.exact(items.picture(row)).copy())
            if not self._still:
                self._store.put(name, found)
        return found.numpy()

    def _picture_name(self, items: Items, row: int) -> str:
        """By its bytes: the same picture may stand in several splits, and each names it in its own way."""
        key = id(items), items.picture_ids[row]
        if key not in self._names:
            self._names[key] = picture_digest(items, row)
        return self._names[key]


class _Store:
    """Tensors by name, up to a number of bytes; what comes later is not kept."""

    def __init__(self, most: int) -> None:
        self._free, self._kept = most, dict[str, Tensor]()

    def get(self, name: str) -> Tensor | None:
        return self._kept.get(name)

    def put(self, name: str, value: Tensor) -> None:
        size = value.numel() * value.element_size()
        if size <= self._free:
            self._kept[name] = value.clone()
            self._free -= size


def _checked(tokens: Tokens, items: Items, rows: list[int], what: str) -> Tokens:
    """Raises `EvaluationError` naming the first item whose features are no numbers."""
    bad = (~tokens.values.detach().isfinite().flatten(1).all(dim=1)).nonzero()
    if len(bad):
        name = items.name(rows[int(bad[0])])
        raise EvaluationError(f"{name}: the model gives no number for its {what}")
    return tokens
