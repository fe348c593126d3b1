"""Which words of a text weighed most, for any model: each is left out in turn."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from trainer.data.dataset import Array

# From texts, object (N,), to class probabilities, float32 (N, classes).
Predict = Callable[[Array], Array]

_WORD = re.compile(r"\S{1,40}\s*")  # A longer one counts as several: not every script has spaces.
_MAX_WORDS = 60
_MAX_CHARACTERS = 2_000_000  # Of all that the model is asked.
_MIN = 0.1  # Log-odds that make a difference.


@dataclass(frozen=True)
class Word:
    """A word of a text, with the space behind it.

    Attributes:
        text: the word.
        weight: -1 to 1; how much it spoke for the class, by the weightiest word of the text.
    """

    text: str
    weight: float


def importance(
    texts: Array, classes: Array, probabilities: Array, predict: Predict
) -> list[list[Word]]:
    """Returns the first words of each text with their weights.

    What a word weighs is by how much the log-odds of the class fall without it. Texts for which
    there would be too much to ask have weights of 0.

    Args:
        texts: object array of str (N,).
        classes: for each, the class that is to be explained, int (N,).
        probabilities: of that class, float (N,).
        predict: the model.
    """
    cut = [_WORD.findall(text.lstrip())[:_MAX_WORDS] for text in texts]
    without: list[str] = []
    asked = 0
    for text, words in zip(texts, cut, strict=True):
        asked += len(text) * len(words)
        if asked > _MAX_CHARACTERS:
            break
        without += _each_left_out(text.lstrip(), words)
    changed = predict(np.array(without, object)) if without else np.zeros([0, 0])
    weighed, at = [], 0
    for words, label, probability in zip(cut, classes, probabilities, strict=True):
        rows = changed[at : at + len(words)]
        at += len(words)
        if len(rows) == 0:
            weighed.append([Word(word, 0.0) for word in words])
            continue
        weights = _log_odds(np.float64(probability)) - _log_odds(rows[:, label])
        weights /= max(_MIN, np.abs(weights).max())
        weighed.append([Word(*each) for each in zip(words, weights.tolist(), strict=True)])
    return weighed


def _each_left_out(text: str, words: Sequence[str]) -> list[str]:
    starts = np.cumsum([0, *map(len, words)])
    return [
        text[:start] + text[start + len(word) :]
        for start, word in zip(starts[:-1], words, strict=True)
    ]


def _log_odds(probability: Array | np.float64) -> Array:
    within = np.clip(probability, 1e-7, 1 - 1e-7)
    return np.asarray(np.log(within / (1 - within)), np.float64)
