"""Occlusion importance: measures how much each word of a text affects a prediction."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from trainer.data.dataset import Array

# Maps texts, object (N,), to class probabilities, float32 (N, classes).
Predict = Callable[[Array], Array]

_WORD = re.compile(r"\S{1,40}\s*")  # Longer words are split: some scripts have no spaces.
_MAX_WORDS = 60
_MAX_CHARACTERS = 2_000_000  # Total length of all texts that the model predicts.
_MIN_LOG_ODDS = 0.1  # Differences below this are not scaled up to 1.


@dataclass(frozen=True)
class Word:
    """A word of a text.

    Attributes:
        text: the word and the white space after it.
        importance: -1 to 1; positive if the word supports the class. The most important word of a
            text has -1 or 1.
    """

    text: str
    importance: float


def importance(
    texts: Array, classes: Array, probabilities: Array, predict: Predict
) -> list[list[Word]]:
    """Returns the first words of each text with their importance.

    The importance of a word is the decrease of the class's log-odds without the word, relative to
    the largest change in the text. Words of texts beyond a total length have importance 0.

    Args:
        texts: object array of str (N,).
        classes: the class to explain for each text, int (N,).
        probabilities: probability of that class, float (N,).
        predict: predicts class probabilities of texts.
    """
    words_by_text = [_WORD.findall(text.lstrip())[:_MAX_WORDS] for text in texts]
    occluded: list[str] = []
    characters = 0
    for text, words in zip(texts, words_by_text, strict=True):
        characters += len(text) * len(words)
        if characters > _MAX_CHARACTERS:
            break
        occluded += _occlude_each(text.lstrip(), words)
    predictions = predict(np.array(occluded, object)) if occluded else np.zeros([0, 0])
    result, start = [], 0
    for words, label, probability in zip(words_by_text, classes, probabilities, strict=True):
        rows = predictions[start : start + len(words)]  # (words, classes), or empty
        start += len(words)
        if len(rows) == 0:
            result.append([Word(word, 0.0) for word in words])
            continue
        decreases = _log_odds(np.float64(probability)) - _log_odds(rows[:, label])
        decreases /= max(_MIN_LOG_ODDS, np.abs(decreases).max())
        result.append([Word(*pair) for pair in zip(words, decreases.tolist(), strict=True)])
    return result


def _occlude_each(text: str, words: Sequence[str]) -> list[str]:
    starts = np.cumsum([0, *map(len, words)])
    return [
        text[:start] + text[start + len(word) :]
        for start, word in zip(starts[:-1], words, strict=True)
    ]


def _log_odds(probability: Array | np.float64) -> Array:
    clipped = np.clip(probability, 1e-7, 1 - 1e-7)
    return np.asarray(np.log(clipped / (1 - clipped)), np.float64)
