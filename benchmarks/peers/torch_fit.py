"""Trains the reference networks and cnn_fast in PyTorch, with the optimizers of this package.

    python -m benchmarks.peers.torch_fit MODEL DATA.npz EPOCHS [channels_last] [bfloat16]

Needs an environment with torch and numpy. cnn_fast has its learning-rate schedule, label smoothing
and a random shift per image; bfloat16 uses autocast in training. Prints a JSON object: seconds of
each epoch, examples per epoch, test accuracy, total seconds, peak memory.
"""

import json
import resource
import sys
import time

started = time.perf_counter()

import numpy as np  # noqa: E402
import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from torch import nn  # noqa: E402

SHIFT = 1
name, path, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
images = name.startswith("cnn")
layout = torch.channels_last if "channels_last" in sys.argv else torch.contiguous_format
with np.load(path) as data:
    x_train, y_train, x_test, y_test = (
        torch.tensor(data[key]) for key in ("x_train", "y_train", "x_test", "y_test")
    )
y_train, y_test = y_train.long(), y_test.long()
if not images:
    x_train, x_test = x_train.flatten(1), x_test.flatten(1)
highest = float(x_train.max()) if name != "sentiment" else 1.0
torch.manual_seed(0)
width, classes = x_train.shape[1], int(y_train.max()) + 1
model, batch_size = {
    "mlp": lambda: (
        nn.Sequential(
            nn.Linear(width, 512), nn.ReLU(), nn.Dropout(0.2),
            nn.Linear(512, 512), nn.ReLU(), nn.Dropout(0.2), nn.Linear(512, classes),
        ),
        128,
    ),
    "sentiment": lambda: (
        nn.Sequential(nn.Linear(width, 200), nn.ReLU(), nn.Dropout(0.2), nn.Linear(200, classes)),
        100,
    ),
    "cnn": lambda: (
        nn.Sequential(
            nn.Conv2d(1, 32, 6), nn.ReLU(), nn.Conv2d(32, 20, 6), nn.ReLU(), nn.MaxPool2d(2),
            nn.Dropout(0.25), nn.Flatten(), nn.Linear(20 * 9 * 9, 128), nn.ReLU(),
            nn.Dropout(0.4), nn.Linear(128, classes),
        ),
        128,
    ),
    "cnn_fast": lambda: (
        nn.Sequential(
            nn.ZeroPad2d(-2), nn.Conv2d(1, 16, 5, bias=False), nn.MaxPool2d(2),
            nn.BatchNorm2d(16), nn.ReLU(),
            nn.Conv2d(16, 64, 3, bias=False), nn.MaxPool2d(2), nn.BatchNorm2d(64), nn.ReLU(),
            nn.Flatten(), nn.Linear(1024, 256, bias=False), nn.BatchNorm1d(256), nn.ReLU(),
            nn.Linear(256, classes),
        ),
        192,
    ),
}[name]()  # fmt: skip
model = model.to(memory_format=layout)
steps = -(-len(x_train) // batch_size)
smoothing, schedule = 0.0, None
if name == "cnn_fast":
    smoothing = 0.1
    padded = F.pad(x_train, (SHIFT,) * 4)
    side = torch.arange(28)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.015, betas=(0.8, 0.95), fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 0.015, total_steps=max(10, count * steps + 1), pct_start=0.25,
        cycle_momentum=False,
    )  # fmt: skip
elif name == "cnn":
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
else:
    optimizer = torch.optim.RMSprop(model.parameters(), lr=0.001, alpha=0.9, eps=1e-7)


def batch_of(indices):
    if name != "cnn_fast":
        return x_train[indices]
    rows, columns = (torch.randint(2 * SHIFT + 1, (len(indices), 1)) + side for _ in range(2))
    return padded[indices[:, None, None], rows[:, :, None], columns[:, None, :]]


def as_input(x):
    x = x.float() / highest
    return x[:, None].contiguous(memory_format=layout) if images else x


epochs = []
for _ in range(count):
    epoch_started = time.perf_counter()
    model.train()
    order = torch.randperm(len(x_train))
    for at in range(0, len(order), batch_size):
        batch = order[at : at + batch_size]
        with torch.autocast("cpu", torch.bfloat16, enabled="bfloat16" in sys.argv):
            logits = model(as_input(batch_of(batch)))
        loss = F.cross_entropy(logits.float(), y_train[batch], label_smoothing=smoothing)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if schedule:
            schedule.step()
    epochs.append(time.perf_counter() - epoch_started)
model.eval()
with torch.no_grad():
    batches = (x_test[at : at + 1000] for at in range(0, len(x_test), 1000))
    predicted = torch.cat([model(as_input(batch)).argmax(1) for batch in batches])
print(
    json.dumps(
        {
            "epochs": epochs,
            "examples": len(x_train),
            "accuracy": (predicted == y_test).float().mean().item(),
            "total": time.perf_counter() - started,
            "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        }
    )
)
