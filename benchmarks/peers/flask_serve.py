"""Serves a Keras model with Flask in the usual way: loads it, and calls it in a view.

    python -m benchmarks.peers.flask_serve MODEL.keras PORT predict|call|function

`predict` is `model.predict`, as in tutorials. `call` is `model(images)`, which Keras's
documentation recommends for few examples. `function` compiles that call with `tf.function`. Flask's
server has a thread for each connection.
"""

import logging
import sys

import keras
import numpy as np
import tensorflow as tf
from flask import Flask, jsonify, request

path, port, method = sys.argv[1:]
model = keras.models.load_model(path)
compiled = tf.function(
    lambda images: model(images, training=False),
    input_signature=[tf.TensorSpec((None, *model.input_shape[1:]), model.inputs[0].dtype)],
)
predict_images = {
    "predict": lambda images: model.predict(images, verbose=0),
    "call": lambda images: model(images, training=False).numpy(),
    "function": lambda images: compiled(images).numpy(),
}[method]
app = Flask(__name__)


@app.post("/predict")
def predict():
    images = np.array(request.get_json()["instances"], np.uint8)
    return jsonify(predictions=predict_images(images).tolist())


if __name__ == "__main__":
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # No line for each request.
    app.run(port=int(port), threaded=True)
