"""Texts of any kind: the model `ngram`, or a small convolutional network over words.

The network wins where word order matters. Sources: convolutions over words, Kim 2014
(arXiv:1408.5882); growing dilation rates, Yu and Koltun 2016 (arXiv:1511.07122).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from trainer.models import OUTPUT, PREPROCESS, Recipe, ngram
from trainer.models.cnn_fast import one_cycle
from trainer.models.sentiment import frequent_words, splitting

if TYPE_CHECKING:
    import keras

    from trainer.config import Config
    from trainer.data.dataset import Spec

_MAX_TOKENS = 20_000
_WIDTH, _DEPTH, _KERNEL_SIZE, _DILATION = 64, 3, 5, 3
_DROPOUT = 0.5  # Of embedded words, and of features.
# Fraction of the texts that is read completely, up to a maximum number of words.
_COMPLETE, _MAX_LENGTH = 0.98, 400
_MAX_SAMPLED = 10_000  # Texts whose length is counted.


def auto_settings(spec: Spec, config: Config) -> dict[str, Any]:
    """Returns settings by the number and the lengths of the training texts."""
    if config.architecture == "ngram":
        return ngram.RECIPE.hyperparameters()
    count = spec.sizes["train"]
    texts = spec.train.examples[:_MAX_SAMPLED]
    by_character = splitting(texts) == "character"
    lengths = sorted(len(text if by_character else text.split()) for text in texts)
    long = lengths[math.ceil(_COMPLETE * len(lengths)) - 1]
    return {
        "epochs": min(30, max(3, round(400 / math.sqrt(count)))),
        "batch_size": 64,
        "learning_rate": 0.002,
        "width": _WIDTH,
        "depth": _DEPTH,
        "max_tokens": _MAX_TOKENS,
        "sequence_length": min(_MAX_LENGTH, max(1, long)),
    }


def optimizer(
    learning_rate: float, steps: int, *, architecture: str = "convolution"
) -> keras.Optimizer:
    """Returns the optimizer of an architecture, with its schedule."""
    make = ngram.adam_to_zero if architecture == "ngram" else one_cycle
    return make(learning_rate, steps)


RECIPE = Recipe(
    data="movie_reviews",
    accepts=("text",),
    optimizer=optimizer,
    candidates={"architecture": ("ngram", "convolution")},
)


def build(
    spec: Spec,
    *,
    architecture: str = "convolution",
    max_tokens: int = _MAX_TOKENS,
    sequence_length: int = _MAX_LENGTH,
    width: int = _WIDTH,
    depth: int = _DEPTH,
) -> keras.Model:
    """Returns texts (N,) -> probabilities, float32 (N, classes).

    Args:
        spec: of the data.
        architecture: "ngram" or "convolution"; the other arguments apply to "convolution".
        max_tokens: maximum size of the vocabulary; it holds the most frequent training words.
        sequence_length: number of words that are read of a text, or of characters if the texts
            have no spaces between words; the rest is ignored.
        width: size of word embeddings, and channels of each convolution.
        depth: number of convolutions.

    Raises:
        DataError: no word, or no n-gram, occurs twice in the training texts.
    """
    if architecture == "ngram":
        return ngram.build(spec)
    import keras
    import numpy as np
    from keras import layers

    texts = np.asarray(spec.train.examples)
    split = splitting(texts)
    words = frequent_words(texts, min_count=2, split=split)[:max_tokens]
    text = keras.Input(spec.shape, dtype=spec.dtype, name=spec.kind)
    ids = layers.TextVectorization(
        vocabulary=words, output_sequence_length=sequence_length, split=split, name=PREPROCESS
    )(text)
    x = layers.Dropout(_DROPOUT)(layers.Embedding(len(words) + 2, width)(ids))
    for number in range(depth):
        inner = layers.Conv1D(
            width, _KERNEL_SIZE, dilation_rate=_DILATION**number, padding="same", activation="relu"
        )(x)
        x = layers.Add()([x, inner])
    features = layers.Dropout(_DROPOUT)(layers.GlobalMaxPooling1D()(x))
    outputs = layers.Dense(len(spec.classes), activation="softmax", name=OUTPUT)(features)
    return keras.Model(text, outputs, name="text")
