"""A linear model on the n-grams of a text, of words and of characters, for short documents.

Each occurrence of an n-gram adds a fixed importance times a trained factor to the score of a class.
The importance is its log-count ratio in the training texts, so that only n-grams that differ in
frequency between the classes get a large weight.

Source: Wang and Manning 2012, "Baselines and Bigrams" (NB-SVM, here with logistic loss). It uses 1-
and 2-grams of words; here they are 1- to 3-grams of words and 2- to 7-grams of characters, which
also represent stems, endings and punctuation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trainer.errors import DataError
from trainer.models import OUTPUT, PREPROCESS, Recipe, as_input
from trainer.runtime import memory

if TYPE_CHECKING:
    import keras

    from trainer.data.dataset import Array, Spec


def adam_to_zero(learning_rate: float, steps: int) -> keras.Optimizer:
    """Returns Adam with a learning rate that falls linearly to zero."""
    import keras

    rate = keras.optimizers.schedules.PolynomialDecay(learning_rate, steps, end_learning_rate=0.0)
    # With the default of 1e-7, rare n-grams would move as far as frequent ones.
    return keras.optimizers.Adam(rate, epsilon=1e-4)


RECIPE = Recipe(
    data="movie_reviews",
    accepts=("text",),
    optimizer=adam_to_zero,
    learning_rate=0.0005,
    batch_size=64,
    epochs=5,
)

# Arguments of TextVectorization.
_WORDS: dict[str, Any] = {"ngrams": (1, 2, 3)}
_CHARACTERS: dict[str, Any] = {
    "standardize": "lower",
    "split": "character",
    "ngrams": (2, 3, 4, 5, 6, 7),
}
# Minimum number of training texts that contain an n-gram. Most occur in one text only, and do not
# help with others.
_MIN_TEXTS = 2
_SPECIAL = 2  # Ids 0 and 1 of TextVectorization: padding and unknown n-grams.
_SMOOTHING = 1.0
_BATCH = 1000


def build(spec: Spec) -> keras.Model:
    """Returns texts (N,) -> probabilities, float32 (N, classes).

    Raises:
        DataError: no n-gram occurs in two training texts.
    """
    import keras
    import numpy as np
    from keras import layers

    text = keras.Input(spec.shape, dtype=spec.dtype)
    ids_of_kinds: list[Any] = []
    importances: list[Array] = []
    classes, tokens = len(spec.classes), 0
    for settings in (_WORDS, _CHARACTERS):
        vocabulary, counts = _vocabulary(spec, settings)
        if len(vocabulary) == 0:
            continue
        ids = layers.TextVectorization(vocabulary=vocabulary, **settings)(text)
        # Both kinds share one table, the ids of the second after those of the first. Rescaling
        # computes in float32, in which ids are exact.
        ids_of_kinds.append(layers.Rescaling(1.0, offset=float(tokens))(ids))
        importances.append(_importance(counts))
        tokens += len(counts)
    if not ids_of_kinds:
        raise DataError(
            f"--model: no n-gram occurs in {_MIN_TEXTS} training texts, expected one at least; "
            "give more texts"
        )
    ids = layers.Concatenate()(ids_of_kinds) if len(ids_of_kinds) > 1 else ids_of_kinds[0]
    text_to_ids = keras.Model(text, ids, name=PREPROCESS)

    text = keras.Input(spec.shape, dtype=spec.dtype, name=spec.kind)
    ids = text_to_ids(text)  # (N, longest)
    importance = layers.Embedding(
        tokens,
        1,
        weights=[np.concatenate(importances)[:, np.newaxis]],
        trainable=False,
        name="importance",
    )
    factor = layers.Embedding(tokens, classes, embeddings_initializer="zeros", name="factor")
    # Summed over the n-grams of a text: (N, classes, 1).
    scores = layers.Dot(axes=1)([factor(ids), importance(ids)])
    outputs = layers.Dense(
        classes, activation="softmax", kernel_initializer="identity", name=OUTPUT
    )(layers.Flatten()(scores))
    return keras.Model(text, outputs, name="ngram")


def _vocabulary(spec: Spec, settings: dict[str, Any]) -> tuple[Array, Array]:
    """Returns the n-grams of one kind, and the count of each id by class: float (ids, classes)."""
    import numpy as np
    from keras import layers

    texts, labels = spec.train.examples, spec.train.labels
    # Split by the same layer as in the model, so that the same n-grams are counted and looked up.
    vectorization = layers.TextVectorization(**settings)
    vectorization.adapt(as_input(texts))
    vocabulary = vectorization.get_vocabulary(include_special_tokens=False)
    size, classes = _SPECIAL + len(vocabulary), len(spec.classes)
    memory.check_data(8 * classes * size, f"--model: {size} n-grams for {classes} classes")
    counts, text_counts = np.zeros([classes, size]), np.zeros(size, int)
    for start in range(0, len(texts), _BATCH):
        ids = np.asarray(vectorization(as_input(texts[start : start + _BATCH])))  # (B, longest)
        for row, label in zip(ids, labels[start : start + _BATCH], strict=True):
            present, occurrences = np.unique(row, return_counts=True)
            counts[label, present] += occurrences
            text_counts[present] += 1
    frequent = np.flatnonzero(text_counts[_SPECIAL:] >= _MIN_TEXTS)
    counts = counts.T[np.concatenate([range(_SPECIAL), _SPECIAL + frequent])]
    # An array, because Keras iterates over the characters of strings in a list.
    return np.array(vocabulary)[frequent], counts


def _importance(counts: Array) -> Array:
    """Returns the maximum |log-count ratio| of a class against the others: float32 (ids,)."""
    import numpy as np

    in_vocabulary = counts[_SPECIAL:]
    inside = in_vocabulary + _SMOOTHING
    outside = in_vocabulary.sum(axis=1, keepdims=True) - in_vocabulary + _SMOOTHING
    ratios = np.log(inside / inside.sum(axis=0)) - np.log(outside / outside.sum(axis=0))
    importance = np.zeros(len(counts), np.float32)
    importance[_SPECIAL:] = np.abs(ratios).max(axis=1)
    return importance
