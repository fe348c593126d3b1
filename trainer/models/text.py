"""Texts of any kind: `ngram`, or a small convolution over words where their order tells more.

Convolutions after Kim 2014 (arXiv:1408.5882), one above the other with growing gaps between the
words that they see, after Yu and Koltun 2016 (arXiv:1511.07122).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from trainer.models import PREPROCESS, Recipe, ngram
from trainer.models.cnn_fast import one_cycle
from trainer.models.sentiment import frequent_words

if TYPE_CHECKING:
    import keras

    from trainer.config import Config
    from trainer.data.dataset import Spec

_VOCABULARY = 20_000
_WIDTH, _DEPTH, _SPAN, _GAP = 64, 3, 5, 3
_DROPOUT = 0.5  # Of words as they come in, and of what is made of them.
# Of the texts, the part that is read whole; of the others the beginning.
_WHOLE, _MAX_LENGTH = 0.98, 400
_LOOKED_AT = 10_000


def choose(spec: Spec, config: Config) -> dict[str, Any]:
    """Returns the settings that nobody gave, by the number of training texts and their lengths."""
    if config.architecture == "ngram":
        return ngram.RECIPE.numbers()
    count = spec.sizes["train"]
    lengths = sorted(len(text.split()) for text in spec.train.examples[:_LOOKED_AT])
    return {
        "epochs": min(30, max(3, round(400 / math.sqrt(count)))),
        "batch_size": 64,
        "learning_rate": 0.002,
        "width": _WIDTH,
        "depth": _DEPTH,
        "max_tokens": _VOCABULARY,
        "sequence_length": min(_MAX_LENGTH, max(1, lengths[math.ceil(_WHOLE * len(lengths)) - 1])),
    }


def optimizer(
    learning_rate: float, steps: int, *, architecture: str = "convolution"
) -> keras.Optimizer:
    """Returns the optimizer of the network."""
    made = ngram.adam_to_zero if architecture == "ngram" else one_cycle
    return made(learning_rate, steps)


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
    max_tokens: int = _VOCABULARY,
    sequence_length: int = _MAX_LENGTH,
    width: int = _WIDTH,
    depth: int = _DEPTH,
) -> keras.Model:
    """Returns texts (N,) -> probabilities, float32 (N, classes).

    Args:
        spec: of the data.
        architecture: "ngram" or "convolution"; what follows is of the latter.
        max_tokens: words that it knows at most, the most frequent ones of the training part.
        sequence_length: words of a text that it reads.
        width: numbers for a word, and channels of each convolution.
        depth: convolutions.

    Raises:
        DataError: no word, or no n-gram, is in the training part twice.
    """
    if architecture == "ngram":
        return ngram.build(spec)
    import keras
    import numpy as np
    from keras import layers

    words = frequent_words(np.asarray(spec.train.examples), min_count=2)[:max_tokens]
    text = keras.Input(spec.shape, dtype=spec.dtype)
    ids = layers.TextVectorization(
        max_tokens=words, output_sequence_length=sequence_length, name=PREPROCESS
    )(text)
    x = layers.Dropout(_DROPOUT)(layers.Embedding(len(words) + 2, width)(ids))
    for number in range(depth):
        inner = layers.Conv1D(
            width, _SPAN, dilation_rate=_GAP**number, padding="same", activation="relu"
        )(x)
        x = layers.Add()([x, inner])
    features = layers.Dropout(_DROPOUT)(layers.GlobalMaxPooling1D()(x))
    outputs = layers.Dense(len(spec.classes), activation="softmax")(features)
    return keras.Model(text, outputs, name="text")
