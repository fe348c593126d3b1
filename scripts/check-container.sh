#!/usr/bin/env bash
# Builds the image and runs jobs in it: train, resume after SIGTERM and SIGKILL, verify. With cpu,
# also builds the serving image and serves the job's run.
#
#     scripts/check-container.sh [cpu|gpu|root]
#
# Containers are as restricted as in a strict cluster: read-only root, no capabilities, no new
# privileges, a user without a name, no network except to a local gs:// server.
#
# Uses docker if its engine responds; else podman, which is installed on Debian if it is missing.
# With podman no image registry is assumed: the base image is built from Debian packages instead, of
# release SUITE. BASE_IMAGE sets another base for either engine.
#
# Exit codes: 0 all checks passed; 1 a check failed; 3 nothing was checked, since tools are missing.
set -euo pipefail
cd "$(dirname "$0")/.."

target=${1:-cpu}
image=localhost/trainer-check:$target
work=$(mktemp -d)
container=trainer-check-$$
started=$SECONDS
say() { printf 'check-container: %s\n' "$*"; }
die() { printf 'check-container: FAILED: %s\n' "$*" >&2; exit 1; }
skip() { printf '\n*** check-container: SKIPPED, nothing was checked: %s ***\n\n' "$*" >&2; exit 3; }

cleanup() {
  if [[ ${engine:-} ]]; then
    pod rm -f "$container" >/dev/null 2>&1 || true
    # Files of the job belong to its user: only root in a container may remove them.
    [[ $EUID == 0 || ! -d $work/out ]] || pod run --rm --user 0 --network none -v "$work/out:/out" \
      --entrypoint sh "$image" -c 'rm -rf /out/*' >/dev/null 2>&1 || true
  fi
  [[ ${server:-} ]] && kill "$server" 2>/dev/null || true
  rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 143' TERM
trap 'exit 130' INT

# --- Tools ----------------------------------------------------------------------------------------
build=()
limits=(--ulimit nofile=4096:4096)
if docker info >/dev/null 2>&1; then
  engine=(docker)
  base=${BASE_IMAGE:-}
else
  if ! type podman runc mmdebstrap >/dev/null 2>&1; then
    [[ $EUID == 0 ]] && command -v apt-get >/dev/null ||
      skip "no docker engine responds, and podman cannot be installed (this needs root on Debian)"
    export DEBIAN_FRONTEND=noninteractive
    { apt-get update && apt-get install -y --no-install-recommends \
      -o DPkg::Lock::Timeout=300 podman runc mmdebstrap; } >"$work/apt.log" 2>&1 ||
      { tail -n 20 "$work/apt.log" >&2; skip "apt-get cannot install podman"; }
  fi
  engine=(podman --runtime runc)
  # Explicit low limits: podman's defaults need a capability that is missing in a container.
  limits+=(--ulimit nproc=4096:4096)
  build+=(--format docker --isolation chroot --network host)
  suite=${SUITE:-trixie}
  base=${BASE_IMAGE:-localhost/stand-in-base:$suite}
fi
pod() { "${engine[@]}" "$@"; }
say "$(pod --version), target $target"

if [[ $base == localhost/stand-in-base:* ]] && ! pod image exists "$base"; then
  # Package sources of this machine, with the release replaced.
  . /etc/os-release
  sources=/etc/apt/sources.list.d/debian.sources
  [[ -f $sources ]] || sources=/etc/apt/sources.list
  sed "s/\b$VERSION_CODENAME\b/$suite/g" "$sources" >"$work/${sources##*/}"
  # Two empty files, over which the build mounts pip's settings and certificates of this machine.
  mmdebstrap --quiet --mode=root --variant=apt --include=ca-certificates \
    --aptopt='Acquire::Check-Valid-Until "false"' --aptopt='Acquire::Check-Date "false"' \
    --customize-hook='touch "$1/etc/pip.conf" "$1/etc/host-ca.pem"' \
    "$suite" "$work/base.tar" "$work/${sources##*/}" >"$work/base.log" 2>&1 ||
    { tail -n 20 "$work/base.log" >&2; die "mmdebstrap"; }
  pod import --quiet --change 'CMD ["/bin/bash"]' "$work/base.tar" "$base" >/dev/null
  rm "$work/base.tar"
fi
if [[ $base == localhost/stand-in-base:* ]]; then
  build+=(--pull=never)
  # pip uses the index and certificates of this machine during the build; the image keeps neither.
  index=${PIP_INDEX_URL:-$(python3 -m pip config get global.index-url 2>/dev/null || true)}
  printf '[global]\ncert = /etc/host-ca.pem\ntimeout = 180\n%s\n' \
    "${index:+index-url = $index}" >"$work/pip.conf"
  authorities=${PIP_CERT:-${SSL_CERT_FILE:-/etc/ssl/certs/ca-certificates.crt}}
  build+=(-v "$authorities:/etc/host-ca.pem:ro" -v "$work/pip.conf:/etc/pip.conf:ro")
fi
[[ $base ]] && build+=(--build-arg "BASE_IMAGE=$base" --build-arg "CPU_BASE_IMAGE=$base")

# --- Build ----------------------------------------------------------------------------------------
build_image() {
  local t=$SECONDS
  ENGINE=${engine[0]} IMAGE=$2 scripts/build-image.sh "$1" "${build[@]}" \
    >"$work/build.log" 2>&1 || { tail -n 60 "$work/build.log" >&2; die "build of $1"; }
  say "$1 built in $((SECONDS - t)) s"
}
build_image "$target" "$image"
say "layers, last one first:"
pod history --no-trunc --human=true --format '{{.Size}}\t{{.CreatedBy}}' "$image" |
  awk -F'\t' '$1 !~ /^0 ?B/ { printf "    %-9s %.90s\n", $1, $2 }'

# --- Run ------------------------------------------------------------------------------------------
locked=("${limits[@]}" --read-only --cap-drop all --security-opt no-new-privileges
  --memory 4g --tmpfs /tmp:rw,mode=1777)
user=10001
[[ $target == root ]] && user=0
mkdir -m 777 "$work/out"
chmod 755 "$work"

# Runs a container and checks its exit code, the first argument; the output goes to $work/log.
job() {
  local expected=$1 code=0
  shift
  pod run --rm --name "$container" "${locked[@]}" -v "$work/out:/out" "$@" >"$work/log" 2>&1 || code=$?
  [[ $code == "$expected" ]] || { cat "$work/log" >&2; die "exit code $code, expected $expected: $*"; }
}
offline() { job "$1" --network none "${@:2}"; }
logged() { grep -q -e "$1" "$work/log" || { cat "$work/log" >&2; die "no '$1' in the output"; }; }

offline 0 --entrypoint id "$image" -u
[[ $(<"$work/log") == "$user" ]] || die "runs as user $(<"$work/log"), expected $user"
offline 0 "$image" --help
logged '--model VALUE'
offline 2 "$image" --epoch 5
logged "Unknown flag '--epoch'. Did you mean --epochs?"
offline 2 "$image" --model cnn_fast --out /nowhere/run
logged '/nowhere/run: Read-only file system'
offline 2 "$image" --device gpu --out /out/gpu
logged 'found no NVIDIA device'
say "user $user; --help; an unknown flag, a read-only --out and a missing GPU exit with 2"

if [[ $target != cpu ]]; then
  offline 0 --entrypoint python "$image" -c 'from trainer.distributed import gpu_diagnostics
print("missing:", *gpu_diagnostics.missing_libraries())'
  grep -qx 'missing: libcuda.so.1' "$work/log" || { cat "$work/log" >&2; die "CUDA libraries"; }
  say "all CUDA libraries can be opened, except the driver's, which the machine provides"
fi

t=$SECONDS
offline 0 "$image" --model cnn_fast --out /out/shipped
grep -q 'is deleted with it' "$work/log" && die "warned of a mounted --out as if it were in the container"
accuracy=$(grep -o 'test accuracy 9[89][^,]*' "$work/log") || die "accuracy below 98 %"
offline 0 --entrypoint trainer "$image" verify /out/shipped
say "shipped data, no network: $accuracy, verified; $((SECONDS - t)) s"

code=0
pod run --rm --name "$container" "${limits[@]}" --network none "$image" --dry-run --model mlp >"$work/log" 2>&1 || code=$?
[[ $code == 0 ]] || { cat "$work/log" >&2; die "exit code $code of --dry-run, expected 0"; }
logged 'is inside the container and is deleted with it'
logged 'all checks passed'
say "--dry-run in a writable container: warned of --out, all checks passed"

# --- gs:// ----------------------------------------------------------------------------------------
make --silent .venv/installed-dev
mkfifo "$work/url"
.venv/bin/python -m tests.gcs >"$work/url" & server=$!
read -r url <"$work/url"
cloud=(--network host -e "STORAGE_EMULATOR_HOST=$url" -e TRAINER_LEASE_SECONDS=6)
bucket() { STORAGE_EMULATOR_HOST=$url .venv/bin/python -c "$1" "${@:2}"; }
bucket 'from trainer import storage; storage._bucket.client().create_bucket("check")
import pathlib
files = {p.name: p for p in pathlib.Path("trainer/data/builtin/mnist").glob("*.gz")}
storage.write_all(storage.folder("gs://check/mnist"), files)'
settings=(--model cnn_fast --data gs://check/mnist --epochs 6 --checkpoint-seconds 1)
checkpoints() { bucket 'import sys; from trainer import storage
print(sum(n.endswith(".h5") for n in storage.folder(sys.argv[1]).names()))' "$1/checkpoints"; }

job 0 "${cloud[@]}" "$image" "${settings[@]}" --out gs://check/uninterrupted
say "from gs:// to gs://, uninterrupted: $(grep -o 'test accuracy [^,]*' "$work/log")"

# Starts the job in the background; waits until it trains and a checkpoint exists.
start() {
  : >"$work/log"  # Removes the output of the previous run.
  pod run --rm --name "$container" "${locked[@]}" "${cloud[@]}" "$image" "${settings[@]}" \
    --out gs://check/interrupted >"$work/log" 2>&1 & running=$!
  until grep -q 'epoch 1/6\|resuming from' "$work/log" && [[ $(checkpoints gs://check/interrupted) != 0 ]]; do
    kill -0 "$running" 2>/dev/null || { cat "$work/log" >&2; die "the job ended before it was interrupted"; }
    sleep 0.2
  done
}
expect_exit() {
  local code=0
  wait "$running" || code=$?
  [[ $code == "$1" ]] || { cat "$work/log" >&2; die "exit code $code, expected $1"; }
}
start
pod stop -t 30 "$container" >/dev/null
expect_exit 143
logged 'stopped by SIGTERM; the same command resumes from gs://check/interrupted/checkpoints/'
start
logged 'resuming from gs://check/interrupted/checkpoints/'
pod kill --signal KILL "$container" >/dev/null
expect_exit 137
[[ $(checkpoints gs://check/interrupted) != 0 ]] || die "no checkpoint is left after SIGKILL"
job 0 "${cloud[@]}" "$image" "${settings[@]}" --out gs://check/interrupted
logged 'resuming from gs://check/interrupted/checkpoints/'
bucket 'from trainer import storage
import sys
models = [storage.read(f"gs://check/{name}/model.h5") for name in ("uninterrupted", "interrupted")]
sys.exit(models[0] != models[1])' || die "the models of both runs differ"
job 0 "${cloud[@]}" --entrypoint trainer "$image" verify gs://check/interrupted
say "SIGTERM (143, with a checkpoint), SIGKILL (137), resumed: model bit-identical to the uninterrupted run"

# --- Serve ----------------------------------------------------------------------------------------
if [[ $target == cpu ]]; then
  image=localhost/trainer-check:serve
  build_image serve "$image"
  port=$(.venv/bin/python -c 'import socket; s = socket.create_server(("", 0)); print(s.getsockname()[1])')
  url_base=http://127.0.0.1:$port
  served=(--network host -v "$work/out/shipped:/run-directory:ro" -e "AIP_HTTP_PORT=$port"
    -e AIP_HEALTH_ROUTE=/v1/health -e AIP_PREDICT_ROUTE=/v1/models/1:predict)
  : >"$work/log"
  pod run --rm --name "$container" "${locked[@]}" "${served[@]}" "$image" /run-directory >"$work/log" 2>&1 & running=$!
  until grep -q "^http://localhost:$port" "$work/log"; do
    kill -0 "$running" 2>/dev/null || { cat "$work/log" >&2; die "the server did not start"; }
    sleep 0.2
  done
  [[ $(pod exec "$container" id -u) == 10001 ]] || die "the server does not run as user 10001"
  .venv/bin/python - "$url_base" <<'END' || die "responses of the server"
import base64, io, json, sys, urllib.request
from PIL import Image
from trainer.config import DataOptions
from trainer.data import loader

test = loader.load(DataOptions(data="mnist")).test
file = io.BytesIO()
Image.fromarray(test.examples[1, ..., 0]).save(file, "png")
instances = [test.examples[0].tolist(), {"b64": base64.b64encode(file.getvalue()).decode()}]
urllib.request.urlopen(f"{sys.argv[1]}/v1/health", timeout=10).read()
body = json.dumps({"instances": instances}).encode()
request = urllib.request.Request(
    f"{sys.argv[1]}/v1/models/1:predict", body, {"Content-Type": "application/json"}
)
response = json.load(urllib.request.urlopen(request, timeout=10))
assert [int(each["class"]) for each in response["predictions"]] == test.labels[:2].tolist(), response
metrics = urllib.request.urlopen(f"{sys.argv[1]}/metrics", timeout=10).read().decode()
assert 'trainer_requests_total{route="predict",status="200"} 1.0' in metrics, metrics
END
  pod stop -t 9 "$container" >/dev/null
  expect_exit 0
  logged 'stopped'
  cp -r "$work/out/shipped" "$work/damaged"
  printf x >>"$work/damaged/saved_model/saved_model.pb"
  offline 3 -v "$work/damaged:/damaged:ro" "$image" /damaged
  logged 'saved_model.pb: differs from the manifest'
  say "served as user 10001: an image as list and as PNG, metrics; SIGTERM exits with 0, a damaged run with 3"
fi

say "OK, $((SECONDS - started)) s in total"
