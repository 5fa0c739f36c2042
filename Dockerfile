# The environment of the paper recipe: CUDA, compilers, every package of the hashed locks, this source tree.
#
#   make image        build it with docker, podman or buildah; reproduce/container/README.md says the rest
#
# Every package that pip or uv installs has its hash in a lock. Layers go from what changes least to what changes most.

# NVIDIA deletes old tags: reproduce/container/README.md says how to keep the built image and how to build on another base.
# A base needs apt and a python3 of version 3.11 or 3.12.
ARG BASE=nvidia/cuda:13.0.2-devel-ubuntu24.04@sha256:5dc1bca23d05bd37b011be68ec470c03b403a5da07ec3a86e41af9470e9d0cc6

FROM ${BASE}

# The compiler stays: Triton builds kernels when they run.
# DL3008, versions of Debian packages: the base, an argument, decides them. The built image is what gets archived.
# hadolint ignore=DL3008
RUN apt-get update \
 && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends \
      build-essential ca-certificates git make python3 python3-dev python3-venv \
 && rm -rf /var/lib/apt/lists/*

WORKDIR /app
ENV PATH=/app/.venv/bin:${PATH}

# uv comes from the lock too, so that pip checks its hash; a lock is complete, so nothing is resolved here.
COPY requirements.lock ./
RUN python3 -m venv .venv \
 && sed -n '/^uv==/,/# via/p' requirements.lock > /tmp/uv.lock \
 && python -m pip install --quiet --no-cache-dir --disable-pip-version-check --require-hashes -r /tmp/uv.lock \
 && uv pip install --no-cache --require-hashes --no-deps --compile-bytecode -r requirements.lock \
 && rm /tmp/uv.lock

# VLLM=1: the paper recipe's teacher, and an engine for rollouts.
ARG VLLM=1
COPY requirements-vllm.lock ./
RUN if [ "${VLLM}" != 0 ]; then \
      uv pip install --no-cache --require-hashes --no-deps --compile-bytecode -r requirements-vllm.lock; \
    fi

# FLASH_ATTN=1: compiled from its source, for the attention that the paper recipe names. Forced, because its setup
# would otherwise look for a ready-made wheel, which no hash of ours covers. By its authors' count a job of four
# threads takes 9 GB. The import at the end needs no GPU, and finds a library that was built for another torch.
ARG FLASH_ATTN=1
ARG FLASH_ATTN_CUDA_ARCHS="80;90;100"
ARG MAX_JOBS=4
ARG NVCC_THREADS=2
COPY requirements-flash-attn.lock ./
RUN if [ "${FLASH_ATTN}" != 0 ]; then \
      if ! command -v nvcc; then \
        echo "FLASH_ATTN=1 needs nvcc, this base has none: take a CUDA devel base, or build with FLASH_ATTN=0" >&2; \
        exit 1; \
      fi; \
      FLASH_ATTENTION_FORCE_BUILD=TRUE FLASH_ATTN_CUDA_ARCHS="${FLASH_ATTN_CUDA_ARCHS}" MAX_JOBS="${MAX_JOBS}" \
        NVCC_THREADS="${NVCC_THREADS}" \
        uv pip install --no-cache --require-hashes --no-deps --no-build-isolation --compile-bytecode \
        -r requirements-flash-attn.lock \
      && python -c 'import torch, flash_attn_2_cuda'; \
    fi

# Any user may run it (--user): the home folder and the folders that a run writes are open as /tmp is, the source is
# not. An unknown user has no name, which torch asks for: hence LOGNAME.
RUN useradd --no-log-init --create-home --uid 10001 --shell /bin/bash migrl && chmod 1777 /home/migrl
ENV HOME=/home/migrl LOGNAME=migrl LANG=C.UTF-8 NVIDIA_DRIVER_CAPABILITIES=compute,utility

# .dockerignore lists what comes along, with the modes of a checkout that may be private. The stamp, younger than
# every source, tells the Makefile that the environment is there.
COPY . ./
RUN uv pip install --no-cache --no-deps --no-build-isolation --editable . \
 && python -m compileall -q src \
 && mkdir -p runs data \
 && find . -path ./.venv -prune -o -exec chmod a+rX {} + \
 && chmod -R a+w results \
 && chmod 1777 . runs data \
 && touch .venv/.migrl-stamp

# What a manifest says about the image (src/migrl/running/container.py). No .git comes along, so the revision is told here.
ARG BASE
ARG REVISION=""
ARG DIRTY=null
RUN mkdir -p /etc/migrl \
 && printf '{"base": "%s", "revision": "%s", "dirty": %s, "tree": "/app"}\n' "${BASE}" "${REVISION}" "${DIRTY}" \
      > /etc/migrl/image.json
LABEL org.opencontainers.image.title="migrl" \
      org.opencontainers.image.description="Reproduction artifact of arXiv 2507.00748" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="${BASE}"

USER 10001:10001
# NVIDIA's base has an entrypoint that prints a page before each command.
ENTRYPOINT []
CMD ["make", "help"]
