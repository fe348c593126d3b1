"""The network of cnn_fast in PyTorch, with the same optimizer, schedule, smoothing and shifts.

    python -m benchmarks.peers.torch_cnn DATA.npz EPOCHS [channels_last] [bfloat16]

Needs an environment with torch and numpy. Shifts are drawn per image, as in cnn_fast; bfloat16 is
by autocast, in training. Prints a JSON object: seconds of each epoch, examples in it, test
accuracy, seconds in all, peak memory.
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

SHIFT, BATCH = 1, 256
path, count = sys.argv[1], int(sys.argv[2])
layout = torch.channels_last if "channels_last" in sys.argv else torch.contiguous_format
with np.load(path) as data:
    x_train, y_train, x_test, y_test = (
        torch.tensor(data[name]) for name in ("x_train", "y_train", "x_test", "y_test")
    )
y_train, y_test = y_train.long(), y_test.long()
padded = F.pad(x_train, (SHIFT,) * 4)
torch.manual_seed(0)
model = nn.Sequential(
    nn.Conv2d(1, 16, 5, bias=False), nn.MaxPool2d(2), nn.BatchNorm2d(16), nn.ReLU(),
    nn.Conv2d(16, 32, 3, bias=False), nn.MaxPool2d(2), nn.BatchNorm2d(32), nn.ReLU(),
    nn.Flatten(), nn.Linear(800, 256, bias=False), nn.BatchNorm1d(256), nn.ReLU(),
    nn.Linear(256, 10),
).to(memory_format=layout)  # fmt: skip
steps = -(-len(x_train) // BATCH)
optimizer = torch.optim.Adam(model.parameters(), lr=0.01, betas=(0.8, 0.99), fused=True)
schedule = torch.optim.lr_scheduler.OneCycleLR(
    optimizer, 0.01, total_steps=max(10, count * steps + 1), pct_start=0.25, cycle_momentum=False
)
side = torch.arange(28)
epochs = []
for _ in range(count):
    begun = time.perf_counter()
    model.train()
    order = torch.randperm(len(x_train))
    for at in range(0, len(order), BATCH):
        batch = order[at : at + BATCH]
        rows, columns = (torch.randint(2 * SHIFT + 1, (len(batch), 1)) + side for _ in range(2))
        x = padded[batch[:, None, None], rows[:, :, None], columns[:, None, :]]
        x = (x[:, None].float() / 255).contiguous(memory_format=layout)
        with torch.autocast("cpu", torch.bfloat16, enabled="bfloat16" in sys.argv):
            logits = model(x)
        loss = F.cross_entropy(logits.float(), y_train[batch], label_smoothing=0.1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    epochs.append(time.perf_counter() - begun)
model.eval()
with torch.no_grad():
    parts = (x_test[at : at + 1000, None].float() / 255 for at in range(0, len(x_test), 1000))
    answers = torch.cat([model(part.contiguous(memory_format=layout)).argmax(1) for part in parts])
print(
    json.dumps(
        {
            "epochs": epochs,
            "examples": len(x_train),
            "accuracy": (answers == y_test).float().mean().item(),
            "total": time.perf_counter() - started,
            "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        }
    )
)
