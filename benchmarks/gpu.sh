#!/usr/bin/env bash
# Measures this program on the NVIDIA GPU of this machine, and writes benchmarks/GPU.md.
#
#     benchmarks/gpu.sh
#
# Trains every model with and without XLA, in float32 and with --precision auto; then checks that a
# run resumed after SIGKILL is bit-identical. Takes minutes on a data-centre GPU.
#
# DEVICE=cpu MODELS="mlp" EPOCHS=1 DATA=... tests the script without a GPU.
set -euo pipefail
cd "$(dirname "$0")/.."

DEVICE=${DEVICE:-gpu}
MODELS=${MODELS:-mlp cnn cnn_fast cnn_accurate sentiment ngram}
RESULTS=${RESULTS:-benchmarks/GPU.md}
PYTHON=${PYTHON:-.venv/bin/python}
common=(--device "$DEVICE" ${EPOCHS:+--epochs "$EPOCHS"} ${DATA:+--data "$DATA"})

if [[ $DEVICE == gpu ]]; then
  nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader
  [[ -x $PYTHON ]] || make env EXTRA=gpu
fi
runs=$(mktemp -d)
trap 'rm -rf "$runs"' EXIT

train() { "$PYTHON" -m trainer.task "${common[@]}" "$@"; }

for model in $MODELS; do
  for xla in on off; do
    for precision in auto float32; do
      train --model "$model" --xla "$xla" --precision "$precision" --out "$runs/$model-$xla-$precision"
    done
  done
done

# Trains the same run twice; the second is killed and resumed.
read -r model _ <<<"$MODELS"
train --model "$model" --deterministic --out "$runs/uninterrupted"
killed=(--model "$model" --deterministic --checkpoint-steps 1 --out "$runs/killed")
# Not with the function train: bash would run it in a subshell, and kill would stop only that.
"$PYTHON" -m trainer.task "${common[@]}" "${killed[@]}" &
job=$!
until compgen -G "$runs/killed/checkpoints/*.h5" >/dev/null; do
  kill -0 "$job" || { echo "$model ended before it was killed" >&2; exit 1; }
  sleep 0.1
done
kill -9 "$job"
wait "$job" || true
train "${killed[@]}"
comparison=differ
cmp "$runs/uninterrupted/model.h5" "$runs/killed/model.h5" && comparison="are bit-identical"

"$PYTHON" - "$runs" "$model, resumed after SIGKILL and uninterrupted, with --deterministic: the models $comparison." \
  >"$RESULTS" <<'PYTHON'
import datetime
import importlib.metadata
import json
import pathlib
import sys

runs, comparison = pathlib.Path(sys.argv[1]), sys.argv[2]
versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("tensorflow", "keras"))
print(f"# On a GPU\n\n`benchmarks/gpu.sh`, {datetime.date.today()}; {versions}.\n")
print("| model | device | first epoch, s | other epochs, s | total, s | test accuracy, % |")
print("|---|---|---|---|---|---|")
for path in sorted(runs.glob("*-*-*/metrics.json")):
    metrics = json.loads(path.read_text())
    rows = (path.parent / "history.csv").read_text().splitlines()
    column = rows[0].split(",").index("seconds")
    first, *others = [float(row.split(",")[column]) for row in rows[1:]]
    mean = f"{sum(others) / len(others):.3f}" if others else ""
    print(
        f"| {metrics['model']} | {metrics['device']} | {first:.3f} | {mean} "
        f"| {metrics['seconds']['total']:.1f} | {100 * metrics['test']['accuracy']:.2f} |"
    )
print(f"\n{comparison}")
PYTHON
cat "$RESULTS"
