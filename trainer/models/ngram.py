"""A linear model on the n-grams of a text, of words and of characters, for short documents.

An n-gram adds to the score of a class a fixed importance, from its log-count ratio in the training
part, times a trained factor, each time it occurs. Only factors of what tells classes apart get far.

Source: Wang and Manning 2012, "Baselines and Bigrams" (NB-SVM, here with logistic loss). Its words
1-2 became words 1-3, and characters beside them see endings, stems and punctuation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trainer.errors import DataError
from trainer.models import PREPROCESS, Recipe, as_input
from trainer.runtime import memory

if TYPE_CHECKING:
    import keras

    from trainer.data.dataset import Array, Spec


def adam_to_zero(learning_rate: float, steps: int) -> keras.Optimizer:
    """Returns Adam whose rate falls to zero."""
    import keras

    rate = keras.optimizers.schedules.PolynomialDecay(learning_rate, steps, end_learning_rate=0.0)
    # With Adam's own 1e-7 what is rare would move as far as what is frequent.
    return keras.optimizers.Adam(rate, epsilon=1e-4)


RECIPE = Recipe(
    data="movie_reviews",
    accepts=("text",),
    optimizer=adam_to_zero,
    learning_rate=0.0005,
    batch_size=64,
    epochs=5,
)

# Of TextVectorization.
_WORDS: dict[str, Any] = {"ngrams": (1, 2, 3)}
_CHARACTERS: dict[str, Any] = {
    "standardize": "lower",
    "split": "character",
    "ngrams": (2, 3, 4, 5, 6, 7),
}
# Texts that must hold an n-gram; most are in one only, and say nothing of others.
_MIN = 2
_SPECIAL = 2  # Ids 0 and 1 of TextVectorization: padding, and what it does not know.
_SMOOTHING = 1.0
_BATCH = 1000


def build(spec: Spec) -> keras.Model:
    """Returns texts (N,) -> probabilities, float32 (N, classes).

    Raises:
        DataError: no n-gram is in two texts of the training part.
    """
    import keras
    import numpy as np
    from keras import layers

    text = keras.Input(spec.shape, dtype=spec.dtype)
    parts: list[Any] = []
    importances: list[Array] = []
    classes, tokens = len(spec.classes), 0
    for settings in (_WORDS, _CHARACTERS):
        vocabulary, counts = _vocabulary(spec, settings)
        if len(vocabulary) == 0:
            continue
        ids = layers.TextVectorization(vocabulary=vocabulary, **settings)(text)
        # One table for both kinds: the ids of one come after those of the other, exact in float32.
        parts.append(layers.Rescaling(1.0, offset=float(tokens))(ids))
        importances.append(_importance(counts))
        tokens += len(counts)
    if not parts:
        raise DataError(f"--model: no n-gram is in {_MIN} texts of the training part")
    ids = layers.Concatenate()(parts) if len(parts) > 1 else parts[0]
    text_to_ids = keras.Model(text, ids, name=PREPROCESS)

    text = keras.Input(spec.shape, dtype=spec.dtype)
    ids = text_to_ids(text)  # (N, longest)
    fixed = layers.Embedding(
        tokens,
        1,
        weights=[np.concatenate(importances)[:, np.newaxis]],
        trainable=False,
        name="importance",
    )
    trained = layers.Embedding(tokens, classes, embeddings_initializer="zeros", name="factor")
    scores = layers.Dot(axes=1)([trained(ids), fixed(ids)])  # (N, classes, 1), summed over n-grams
    outputs = layers.Dense(classes, activation="softmax", kernel_initializer="identity")(
        layers.Flatten()(scores)
    )
    return keras.Model(text, outputs, name="ngram")


def _vocabulary(spec: Spec, settings: dict[str, Any]) -> tuple[Array, Array]:
    """Returns the n-grams of one kind, and how often each id occurs: float (ids, classes)."""
    import numpy as np
    from keras import layers

    texts, labels = spec.train.examples, spec.train.labels
    # Cut and looked up by the layer itself, so that what is counted is what it will find.
    finder = layers.TextVectorization(**settings)
    finder.adapt(as_input(texts))
    known = finder.get_vocabulary(include_special_tokens=False)
    size, classes = _SPECIAL + len(known), len(spec.classes)
    memory.check_data(8 * classes * size, f"--model: {size} n-grams for {classes} classes")
    counts, holders = np.zeros([classes, size]), np.zeros(size, int)
    for start in range(0, len(texts), _BATCH):
        ids = np.asarray(finder(as_input(texts[start : start + _BATCH])))  # (B, longest)
        for row, label in zip(ids, labels[start : start + _BATCH], strict=True):
            found, times = np.unique(row, return_counts=True)
            counts[label, found] += times
            holders[found] += 1
    kept = np.flatnonzero(holders[_SPECIAL:] >= _MIN)
    counts = counts.T[np.concatenate([range(_SPECIAL), _SPECIAL + kept])]
    # An array, since Keras looks into each string of a list.
    return np.array(known)[kept], counts


def _importance(counts: Array) -> Array:
    """Returns the greatest |log-count ratio| of a class against the others: float32 (ids,)."""
    import numpy as np

    known = counts[_SPECIAL:]
    inside = known + _SMOOTHING
    outside = known.sum(axis=1, keepdims=True) - known + _SMOOTHING
    ratios = np.log(inside / inside.sum(axis=0)) - np.log(outside / outside.sum(axis=0))
    importance = np.zeros(len(counts), np.float32)
    importance[_SPECIAL:] = np.abs(ratios).max(axis=1)
    return importance
