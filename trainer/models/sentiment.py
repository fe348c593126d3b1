"""One hidden layer of 200 on a bag of words: the seed's network for the sentiment of a sentence.

`sentiment` knows every word that training holds more than once, and is 77 % right on movie_reviews;
`sentiment_small` keeps the seed's rule for the vocabulary, and is 67 % right.

Source: the seed's "Simple sentiment analysis - Keras version".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trainer.errors import DataError
from trainer.models import PREPROCESS, Recipe, as_input
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


def build(spec: Spec) -> keras.Model:
    """Returns texts (N,) or word counts (N, D) -> probabilities, float32 (N, classes).

    Raises:
        DataError: no word of the training part is in the vocabulary.
    """
    return _build(spec, min_count=2, max_count=None)


def build_small(spec: Spec) -> keras.Model:
    """Does as `build`, with the seed's vocabulary: words counted 51 to 999 times.

    Raises:
        DataError: no word of the training part is in the vocabulary.
    """
    return _build(spec, min_count=51, max_count=999)


def _build(spec: Spec, *, min_count: int, max_count: int | None) -> keras.Model:
    import keras
    import numpy as np
    from keras import layers

    if spec.kind == "text":
        words = frequent_words(
            np.asarray(spec.train.examples), min_count=min_count, max_count=max_count
        )
        first = layers.TextVectorization(vocabulary=words, output_mode="multi_hot", name=PREPROCESS)
    else:
        first = to_unit_range(spec)
    return keras.Sequential(
        [
            keras.Input(spec.shape, dtype=spec.dtype),
            first,
            layers.Dense(200, activation="relu"),
            layers.Dropout(0.2),
            layers.Dense(len(spec.classes), activation="softmax"),
        ],
        name="sentiment",
    )


def frequent_words(texts: Array, *, min_count: int, max_count: int | None = None) -> list[str]:
    """Returns the words counted `min_count` to `max_count` times, the max_count frequent first.

    Raises:
        DataError: there are none.
    """
    import numpy as np
    from keras import layers

    # Split and counted by the layer itself, so that what is counted is what it will look up.
    words = layers.TextVectorization()
    words.adapt(as_input(texts))
    known = words.get_vocabulary(include_special_tokens=False)
    counter = layers.TextVectorization(vocabulary=known, output_mode="count")
    counts = np.zeros(1 + len(known))  # The first is for words that are not known.
    for start in range(0, len(texts), _BATCH):
        counts += np.asarray(counter(as_input(texts[start : start + _BATCH]))).sum(axis=0)
    kept = [
        word
        for word, count in zip(known, counts[1:], strict=True)
        if count >= min_count and (max_count is None or count <= max_count)
    ]
    if not kept:
        limits = f"{min_count} or more" if max_count is None else f"{min_count} to {max_count}"
        raise DataError(f"--model: no word is in the training part {limits} times")
    return kept
