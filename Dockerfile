# Container images of the training job:
#
#   docker build -t trainer .                       for GPUs, with CUDA
#   docker build -t trainer:root --target root .    the same, run as root, for tuning trials on Vertex AI
#   docker build -t trainer:cpu --target cpu .      without CUDA
#   docker build -t trainer:serve --target serve .  serves a run's model over HTTP, without CUDA
#
# Both base images must have the same Python. Pin one with --build-arg BASE_IMAGE=docker.io/nvidia/cuda@sha256:...
# TensorFlow loads CUDA from wheels; the CUDA of the base image serves the driver's checks.
ARG BASE_IMAGE=docker.io/nvidia/cuda:12.5.1-base-ubuntu24.04
ARG CPU_BASE_IMAGE=docker.io/library/ubuntu:24.04

# --- Installs packages; only /opt/trainer is copied to the images ---------------------------------
FROM ${CPU_BASE_IMAGE} AS builder
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends binutils ca-certificates python3-pip python3-venv \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* \
    && python3 -m venv --without-pip /opt/trainer
ENV PIP_PYTHON=/opt/trainer/bin/python PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /build

FROM builder AS packages
COPY requirements/cpu.txt ./
# Removes what only compiling kernels (headers, clang) or debugging TensorFlow (symbols) needs.
RUN pip install --require-hashes -r cpu.txt \
    && cd /opt/trainer/lib/python3*/site-packages \
    && rm -rf clang tensorflow/include \
    && find numpy scipy -name tests -exec rm -rf {} + \
    && strip --strip-unneeded tensorflow/lib*.so.2

FROM packages AS program
COPY LICENSE NOTICE README.md pyproject.toml setup.py ./
COPY trainer trainer
RUN pip install --no-deps --no-build-isolation --root /program .

# --- Without CUDA ---------------------------------------------------------------------------------
FROM ${CPU_BASE_IMAGE} AS cpu
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends python3 \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* \
    && install -d -o 10001 -g 10001 /job
COPY --from=packages /opt/trainer /opt/trainer
COPY --from=program /program /
# Only /tmp must be writable, for any user: HOME puts caches there.
ENV PATH=/opt/trainer/bin:$PATH HOME=/tmp PYTHONUNBUFFERED=1 TRAINER_IMAGE=cpu
ARG CPU_BASE_IMAGE
ARG VERSION
ARG GIT_COMMIT
ENV TRAINER_GIT_COMMIT=$GIT_COMMIT
LABEL org.opencontainers.image.title="trainer" \
      org.opencontainers.image.description="Trains a model on labelled data and writes a run directory" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version=$VERSION \
      org.opencontainers.image.revision=$GIT_COMMIT \
      org.opencontainers.image.base.name=$CPU_BASE_IMAGE
WORKDIR /job
USER 10001:10001
ENTRYPOINT ["python", "-m", "trainer.task"]

# --- Serving: the image cpu, with a web server ----------------------------------------------------
FROM builder AS web
COPY requirements/cpu.txt requirements/serve.txt ./
RUN awk 'NR == FNR { base[$1]; next } /^[^ ]/ { added = !($1 in base) } added' cpu.txt serve.txt > added.txt \
    && pip install --no-deps --require-hashes -r added.txt

FROM cpu AS serve
COPY --from=web /opt/trainer /opt/trainer
ENV TRAINER_IMAGE=serve
LABEL org.opencontainers.image.description="Serves a trained model over HTTP"
EXPOSE 8080
ENTRYPOINT ["python", "-m", "trainer", "serve"]

# --- With CUDA: layers that change rarely come first ----------------------------------------------
FROM builder AS cuda
COPY requirements/gpu.txt ./
# TensorFlow does not call cuRAND, nor cuSOLVER's library for several GPUs.
RUN awk '/^[^ ]/ { cuda = /^nvidia-/ } cuda' gpu.txt > cuda.txt \
    && pip install --no-deps --require-hashes -r cuda.txt \
    && cd /opt/trainer/lib/python3*/site-packages/nvidia \
    && rm -rf */include curand/lib cusolver/lib/libcusolverMg.so* \
    && find . -name '*.a' -delete

FROM ${BASE_IMAGE} AS gpu-packages
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends python3 \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* \
    && install -d -o 10001 -g 10001 /job
COPY --from=cuda /opt/trainer /opt/trainer
COPY --from=packages /opt/trainer /opt/trainer
COPY --from=program /program /
# GKE mounts the driver's libraries into /usr/local/nvidia. NVIDIA_DISABLE_REQUIRE lets the container
# start with an old driver, so that the program can report it.
ENV PATH=/opt/trainer/bin:$PATH HOME=/tmp PYTHONUNBUFFERED=1 TRAINER_IMAGE=gpu \
    NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    NVIDIA_DISABLE_REQUIRE=1 \
    TF_FORCE_GPU_ALLOW_GROWTH=true LD_LIBRARY_PATH=/usr/local/nvidia/lib64
ARG BASE_IMAGE
ARG VERSION
ARG GIT_COMMIT
ENV TRAINER_GIT_COMMIT=$GIT_COMMIT
LABEL org.opencontainers.image.title="trainer" \
      org.opencontainers.image.description="Trains a model on labelled data and writes a run directory" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version=$VERSION \
      org.opencontainers.image.revision=$GIT_COMMIT \
      org.opencontainers.image.base.name=$BASE_IMAGE
WORKDIR /job
ENTRYPOINT ["python", "-m", "trainer.task"]

FROM gpu-packages AS root

FROM gpu-packages AS gpu
USER 10001:10001
