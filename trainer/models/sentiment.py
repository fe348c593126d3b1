"""One hidden layer of 200 on a bag of words: the network of the reference scripts for sentiment.

The vocabulary of `sentiment` is every word that occurs at least twice in the training texts: 77 %
accuracy on movie_reviews. `sentiment_small` has that of the reference script: 67 % accuracy.

Source: the reference script "Simple sentiment analysis - Keras version".
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from trainer.errors import DataError
from trainer.models import OUTPUT, PREPROCESS, Recipe, as_input
from trainer.models.scaling import to_unit_range

if TYPE_CHECKING:
    import keras

    from trainer.data.dataset import Array, Spec

RECIPE = Recipe(
    data="movie_reviews",
    accepts=("text", "vector"),
    optimizer="rmsprop",
    batch_size=100,
    epochs=10,
)

_BATCH = 1000
_SAMPLED_TEXTS, _SAMPLED_LETTERS = 1000, 1000
# Thai, Lao, Burmese, Khmer; Japanese; Chinese characters.
_WITHOUT_SPACES = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]"
)


def build(spec: Spec) -> keras.Model:
    """Returns texts (N,) or word counts (N, D) -> probabilities, float32 (N, classes).

    Raises:
        DataError: no word of the training texts is in the vocabulary.
    """
    return _build(spec, min_count=2, max_count=None)


def build_small(spec: Spec) -> keras.Model:
    """Does as `build`, with the vocabulary of the reference script: words that occur 51-999 times.

    Raises:
        DataError: no word of the training texts is in the vocabulary.
    """
    return _build(spec, min_count=51, max_count=999)


def _build(spec: Spec, *, min_count: int, max_count: int | None) -> keras.Model:
    import keras
    import numpy as np
    from keras import layers

    if spec.kind == "text":
        texts = np.asarray(spec.train.examples)
        split = splitting(texts)
        words = frequent_words(texts, min_count=min_count, max_count=max_count, split=split)
        first = layers.TextVectorization(
            vocabulary=words, output_mode="multi_hot", split=split, name=PREPROCESS
        )
    else:
        first = to_unit_range(spec)
    return keras.Sequential(
        [
            keras.Input(spec.shape, dtype=spec.dtype, name=spec.kind),
            first,
            layers.Dense(200, activation="relu"),
            layers.Dropout(0.2),
            layers.Dense(len(spec.classes), activation="softmax", name=OUTPUT),
        ],
        name="sentiment",
    )


def splitting(texts: Sequence[str] | Array) -> str:
    """Returns how texts are split into tokens: "whitespace", or "character" if they have no spaces.

    Chinese, Japanese, Thai and their neighbours are written without spaces between words.
    """
    letters = [
        letter for text in texts[:_SAMPLED_TEXTS] for letter in text[:_SAMPLED_LETTERS]
        if letter.isalpha()
    ]  # fmt: skip
    without_spaces = sum(bool(_WITHOUT_SPACES.match(letter)) for letter in letters)
    return "character" if 2 * without_spaces > len(letters) else "whitespace"


def frequent_words(
    texts: Array, *, min_count: int, max_count: int | None = None, split: str = "whitespace"
) -> list[str]:
    """Returns the words that occur `min_count` to `max_count` times, the most frequent first.

    Args:
        texts: object array of str (N,).
        min_count: minimum number of occurrences.
        max_count: maximum number of occurrences; None for any.
        split: as `splitting` returns it; with "character", words are single characters.

    Raises:
        DataError: no word occurs as often.
    """
    import numpy as np
    from keras import layers

    # Split by the same layer as in the model, so that the same words are counted and looked up.
    vectorization = layers.TextVectorization(split=split)
    vectorization.adapt(as_input(texts))
    vocabulary = vectorization.get_vocabulary(include_special_tokens=False)
    counter = layers.TextVectorization(vocabulary=vocabulary, output_mode="count", split=split)
    counts = np.zeros(1 + len(vocabulary))  # The first is for unknown words.
    for start in range(0, len(texts), _BATCH):
        counts += np.asarray(counter(as_input(texts[start : start + _BATCH]))).sum(axis=0)
    frequent = [
        word
        for word, count in zip(vocabulary, counts[1:], strict=True)
        if count >= min_count and (max_count is None or count <= max_count)
    ]
    if not frequent:
        limits = f"{min_count} or more" if max_count is None else f"{min_count} to {max_count}"
        raise DataError(
            f"--model: no word occurs {limits} times in the training texts; try --model ngram, "
            "which also reads parts of words"
        )
    return frequent
