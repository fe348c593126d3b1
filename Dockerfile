# The job as an image:
#
#   docker build -t trainer .                       for GPUs, with CUDA
#   docker build -t trainer:root --target root .    the same as root, for Vertex AI's tuning trials
#   docker build -t trainer:cpu --target cpu .      without CUDA
#   docker build -t trainer:serve --target serve .  to serve a run's model over HTTP, without CUDA
#
# The two bases must have the same Python. Pin one with --build-arg BASE_IMAGE=docker.io/nvidia/cuda@sha256:...
# CUDA in the base is there for the driver's checks; what TensorFlow loads comes from wheels.
ARG BASE_IMAGE=docker.io/nvidia/cuda:12.5.1-base-ubuntu24.04
ARG CPU_BASE_IMAGE=docker.io/library/ubuntu:24.04

# --- Where packages are installed; nothing of it is kept but /opt/trainer --------------------------
FROM ${CPU_BASE_IMAGE} AS builder
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends binutils ca-certificates python3-pip python3-venv \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* \
    && python3 -m venv --without-pip /opt/trainer
ENV PIP_PYTHON=/opt/trainer/bin/python PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /build

FROM builder AS packages
COPY requirements/cpu.txt ./
# Headers and clang are for those who compile kernels, symbols for those who debug TensorFlow.
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
# Only /tmp need be writable, by whatever user: caches go there.
ENV PATH=/opt/trainer/bin:$PATH HOME=/tmp PYTHONUNBUFFERED=1 TRAINER_IMAGE=cpu
ARG CPU_BASE_IMAGE
ARG VERSION
ARG GIT_COMMIT
ENV TRAINER_GIT_COMMIT=$GIT_COMMIT
LABEL org.opencontainers.image.title="trainer" \
      org.opencontainers.image.description="Trains a model on labelled data and leaves a run directory behind" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version=$VERSION \
      org.opencontainers.image.revision=$GIT_COMMIT \
      org.opencontainers.image.base.name=$CPU_BASE_IMAGE
WORKDIR /job
USER 10001:10001
ENTRYPOINT ["python", "-m", "trainer.task"]

# --- To serve a run: what cpu has, and a web server -----------------------------------------------
FROM builder AS web
COPY requirements/cpu.txt requirements/serve.txt ./
RUN awk 'NR == FNR { known[$1]; next } /^[^ ]/ { more = !($1 in known) } more' cpu.txt serve.txt > more.txt \
    && pip install --no-deps --require-hashes -r more.txt

FROM cpu AS serve
COPY --from=web /opt/trainer /opt/trainer
ENV TRAINER_IMAGE=serve
LABEL org.opencontainers.image.description="Answers requests to a trained model over HTTP"
EXPOSE 8080
ENTRYPOINT ["python", "-m", "trainer", "serve"]

# --- With CUDA: the layers that change least come first -------------------------------------------
FROM builder AS cuda
COPY requirements/gpu.txt ./
# TensorFlow has no call of cuRAND, nor of cuSOLVER's part for several GPUs.
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
# GKE mounts the driver's libraries into /usr/local/nvidia. Whether the driver is new enough is told by
# the program, and not by a refusal of the base's to start.
ENV PATH=/opt/trainer/bin:$PATH HOME=/tmp PYTHONUNBUFFERED=1 TRAINER_IMAGE=gpu \
    NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    NVIDIA_DISABLE_REQUIRE=1 \
    TF_FORCE_GPU_ALLOW_GROWTH=true LD_LIBRARY_PATH=/usr/local/nvidia/lib64
ARG BASE_IMAGE
ARG VERSION
ARG GIT_COMMIT
ENV TRAINER_GIT_COMMIT=$GIT_COMMIT
LABEL org.opencontainers.image.title="trainer" \
      org.opencontainers.image.description="Trains a model on labelled data and leaves a run directory behind" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version=$VERSION \
      org.opencontainers.image.revision=$GIT_COMMIT \
      org.opencontainers.image.base.name=$BASE_IMAGE
WORKDIR /job
ENTRYPOINT ["python", "-m", "trainer.task"]

FROM gpu-packages AS root

FROM gpu-packages AS gpu
USER 10001:10001
