"""Trains the networks of the reference scripts in plain Keras 3 with `Model.fit`, as those do.

    python -m benchmarks.peers.keras_fit MODEL DATA.npz EPOCHS

DATA.npz has x_train, y_train, x_test, y_test: pixels, or word counts for sentiment. Prints a JSON
object: seconds of each epoch, test accuracy, total seconds, peak memory.
"""

import json
import resource
import sys
import time

started = time.perf_counter()

import keras  # noqa: E402
import numpy as np  # noqa: E402
from keras import layers  # noqa: E402

MLP = [
    layers.Dense(512, activation="relu"),
    layers.Dropout(0.2),
    layers.Dense(512, activation="relu"),
    layers.Dropout(0.2),
]
CNN = [
    layers.Conv2D(32, 6, activation="relu"),
    layers.Conv2D(20, 6, activation="relu"),
    layers.MaxPooling2D(2),
    layers.Dropout(0.25),
    layers.Flatten(),
    layers.Dense(128, activation="relu"),
    layers.Dropout(0.4),
]
SENTIMENT = [layers.Dense(200, activation="relu"), layers.Dropout(0.2)]
NETWORKS = {
    "mlp": (MLP, "rmsprop", 128),
    "cnn": (CNN, "adam", 128),
    "sentiment": (SENTIMENT, "rmsprop", 100),
}


class Seconds(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        self.started = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        epochs.append(time.perf_counter() - self.started)


name, path, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
hidden, optimizer, batch_size = NETWORKS[name]
with np.load(path) as data:
    x_train, y_train, x_test, y_test = (data[k] for k in ("x_train", "y_train", "x_test", "y_test"))
if name == "cnn":
    x_train, x_test = x_train[..., None], x_test[..., None]
else:
    x_train, x_test = x_train.reshape(len(x_train), -1), x_test.reshape(len(x_test), -1)
x_train, x_test = x_train.astype("float32"), x_test.astype("float32")
if name != "sentiment":
    x_train, x_test = x_train / 255, x_test / 255
y_train, y_test = keras.utils.to_categorical(y_train), keras.utils.to_categorical(y_test)
epochs: list[float] = []
model = keras.Sequential(
    [
        keras.Input(x_train.shape[1:]),
        *hidden,
        layers.Dense(y_train.shape[1], activation="softmax"),
    ]
)
model.compile(optimizer=optimizer, loss="categorical_crossentropy", metrics=["accuracy"])
model.fit(
    x_train, y_train, batch_size=batch_size, epochs=count, verbose=0, callbacks=[Seconds()],
    validation_data=(x_test, y_test) if name == "cnn" else None,
)  # fmt: skip
accuracy = model.evaluate(x_test, y_test, verbose=0)[1]
print(
    json.dumps(
        {
            "epochs": epochs,
            "examples": len(x_train),
            "accuracy": accuracy,
            "total": time.perf_counter() - started,
            "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        }
    )
)
