# syntax=docker/dockerfile:1
# Yiwen as an image, of two kinds:
#   docker build -t yiwen .                         for NVIDIA cards; without one it runs on the CPU
#   docker build -t yiwen:slim --target slim .      for CPUs, a third of the size
# Arguments: MODEL=tencent/Hy-MT2-7B bakes a model of the hub in, whose licence you have read then (python app.py models);
# PIP_INDEX_URL, TORCH_INDEX_URL and HF_ENDPOINT name mirrors.
# Nothing is written but below /data and /tmp:
#   docker run --gpus all --read-only --tmpfs /tmp -v yiwen:/data -v ~/models:/models:ro -p 7860:7860 yiwen
# Where no Docker is, `python -m tests.packaging.image` takes the steps of slim in a clean Debian, and looks at what runs.

# What both kinds need of the system: Python. The user has the number that a Hugging Face Space runs images with.
FROM debian:bookworm-slim AS cpu
# Debian has one version of each package at a time, the one with all security fixes: a pin would break the build
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates python3 \
    && rm -rf /var/lib/apt/lists/*
RUN useradd --create-home --uid 1000 user \
    && install --directory --owner=user --group=user /data /models

# The wheels of torch bring CUDA's libraries; the base is for what asks the driver, and the variables of NVIDIA's runtime
FROM nvidia/cuda:13.0.2-base-ubuntu24.04 AS cuda
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates python3 \
    && rm -rf /var/lib/apt/lists/*
# Ubuntu's images have a user of their own with this number
RUN userdel --remove ubuntu \
    && useradd --create-home --uid 1000 user \
    && install --directory --owner=user --group=user /data /models

# What Python imports: the longest step, done anew only when a lock changes
FROM cpu AS cpu-packages
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3-venv \
    && rm -rf /var/lib/apt/lists/*
ARG PIP_INDEX_URL
ARG TORCH_INDEX_URL=https://download.pytorch.org/whl/cpu
COPY requirements-cpu.lock /
RUN --mount=type=cache,target=/root/.cache/pip \
    python3 -m venv /opt/venv \
    && /opt/venv/bin/pip install --require-hashes --only-binary=:all: \
        --extra-index-url "$TORCH_INDEX_URL" --requirement /requirements-cpu.lock
# Weights to be baked in, if any; those behind a gate with `--secret id=hf_token,env=HF_TOKEN`
ARG MODEL
ARG HF_ENDPOINT
RUN --mount=type=secret,id=hf_token,env=HF_TOKEN \
    if [ -n "$MODEL" ]; then /opt/venv/bin/hf download "$MODEL" --local-dir "/models/$MODEL"; fi

FROM cuda AS cuda-packages
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3-venv \
    && rm -rf /var/lib/apt/lists/*
ARG PIP_INDEX_URL
COPY requirements.lock /
RUN --mount=type=cache,target=/root/.cache/pip \
    python3 -m venv /opt/venv \
    && /opt/venv/bin/pip install --require-hashes --only-binary=:all: --requirement /requirements.lock
ARG MODEL
ARG HF_ENDPOINT
RUN --mount=type=secret,id=hf_token,env=HF_TOKEN \
    if [ -n "$MODEL" ]; then /opt/venv/bin/hf download "$MODEL" --local-dir "/models/$MODEL"; fi

FROM cpu AS slim
LABEL org.opencontainers.image.title="Yiwen" \
      org.opencontainers.image.description="A translation studio and server of your own, for CPUs" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=cpu-packages /opt/venv /opt/venv
COPY --from=cpu-packages --chown=user /models /models
WORKDIR /app
COPY . .
RUN python3 -m compileall -q .
ARG MODEL
# Docker gives a program 10 s to stop
ENV PATH=/opt/venv/bin:$PATH \
    HOME=/home/user \
    XDG_CACHE_HOME=/data/cache \
    HF_HOME=/data/huggingface \
    YIWEN_DATA_DIR=/data/yiwen \
    YIWEN_MODEL=${MODEL:+/models/$MODEL} \
    YIWEN_HOST=0.0.0.0 \
    YIWEN_PORT=7860 \
    YIWEN_GRACE_SECONDS=8
USER 1000:1000
EXPOSE 7860
STOPSIGNAL SIGTERM
# A large model may be downloaded first
HEALTHCHECK --interval=30s --timeout=10s --start-period=30m --start-interval=2s --retries=3 \
    CMD ["python", "-c", "import http.client, os, sys; asked = http.client.HTTPConnection('127.0.0.1', int(os.environ['YIWEN_PORT']), timeout=8); asked.request('GET', '/readyz'); sys.exit(asked.getresponse().status != 200)"]
ENTRYPOINT ["python", "app.py"]

FROM cuda AS gpu
LABEL org.opencontainers.image.title="Yiwen" \
      org.opencontainers.image.description="A translation studio and server of your own, for NVIDIA cards" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=cuda-packages /opt/venv /opt/venv
COPY --from=cuda-packages --chown=user /models /models
WORKDIR /app
COPY . .
RUN python3 -m compileall -q .
ARG MODEL
ENV PATH=/opt/venv/bin:$PATH \
    HOME=/home/user \
    XDG_CACHE_HOME=/data/cache \
    HF_HOME=/data/huggingface \
    YIWEN_DATA_DIR=/data/yiwen \
    YIWEN_MODEL=${MODEL:+/models/$MODEL} \
    YIWEN_HOST=0.0.0.0 \
    YIWEN_PORT=7860 \
    YIWEN_GRACE_SECONDS=8
USER 1000:1000
EXPOSE 7860
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=10s --start-period=30m --start-interval=2s --retries=3 \
    CMD ["python", "-c", "import http.client, os, sys; asked = http.client.HTTPConnection('127.0.0.1', int(os.environ['YIWEN_PORT']), timeout=8); asked.request('GET', '/readyz'); sys.exit(asked.getresponse().status != 200)"]
ENTRYPOINT ["python", "app.py"]
