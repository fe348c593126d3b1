#!/usr/bin/env bash
# Builds the image: trainer:latest with CUDA, trainer:cpu, trainer:root, or trainer:serve.
#
#     scripts/build-image.sh [gpu|cpu|root|serve] [BUILD ARGUMENT...]
#
# Uses docker if its engine responds, else podman; ENGINE selects one. IMAGE sets the image's name.
# Further arguments are passed to the build: --build-arg BASE_IMAGE=docker.io/nvidia/cuda@sha256:...
set -euo pipefail
cd "$(dirname "$0")/.."

target=${1:-gpu}
[[ $target =~ ^(gpu|cpu|root|serve)$ ]] ||
  { echo "$0: found target '$target', expected gpu, cpu, root or serve" >&2; exit 2; }
shift $(($# > 0))
[[ ${ENGINE:-} ]] || { docker info >/dev/null 2>&1 && ENGINE=docker; } || ENGINE=podman
command -v "$ENGINE" >/dev/null || { echo "$0: found no $ENGINE, expected docker or podman" >&2; exit 2; }
tag=$target
[[ $target == gpu ]] && tag=latest

commit=$(git describe --always --dirty --abbrev=40 --exclude='*' 2>/dev/null || true)
version=$(sed -n 's/^__version__ = "\(.*\)"$/\1/p' trainer/__init__.py)
"$ENGINE" build --target "$target" --tag "${IMAGE:-trainer:$tag}" \
  --build-arg "GIT_COMMIT=$commit" --build-arg "VERSION=$version" "$@" .
