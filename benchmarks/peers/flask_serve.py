"""A Keras model behind Flask, as it is usually done: load the model, and call it in a view.

    python -m benchmarks.peers.flask_serve MODEL.keras PORT predict|call|function

`predict` is `model.predict`, what tutorials show. `call` is `model(images)`, which Keras's own docs
advise for few examples. `function` is the same compiled by `tf.function`, with which nothing of
Keras is left at a request. Flask's server has a thread for each connection.
"""

import logging
import sys

import keras
import numpy as np
import tensorflow as tf
from flask import Flask, jsonify, request

path, port, way = sys.argv[1:]
model = keras.models.load_model(path)
compiled = tf.function(
    lambda images: model(images, training=False),
    input_signature=[tf.TensorSpec((None, *model.input_shape[1:]), model.inputs[0].dtype)],
)
ask = {
    "predict": lambda images: model.predict(images, verbose=0),
    "call": lambda images: model(images, training=False).numpy(),
    "function": lambda images: compiled(images).numpy(),
}[way]
app = Flask(__name__)


@app.post("/predict")
def predict():
    images = np.array(request.get_json()["instances"], np.uint8)
    return jsonify(predictions=ask(images).tolist())


if __name__ == "__main__":
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # No line for each request.
    app.run(port=int(port), threaded=True)
