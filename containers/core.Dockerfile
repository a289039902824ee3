# The stages and the engine transformers, on CPUs or, with torch's default build, on CUDA devices; FAMILIES="core vllm" adds vLLM for
# CPUs. Only third-party packages are in an image: the repository is mounted where a job runs, so a change of code is seen.
ARG BASE
FROM ${BASE}

ARG FAMILIES=core
# Where torch's builds for CPUs lie; leave it empty for those for CUDA, from PyPI.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu

LABEL org.opencontainers.image.title="ptqflow core" \
      org.opencontainers.image.description="Packages of ptqflow's stages, as pinned in envs/" \
      org.opencontainers.image.licenses="Apache-2.0"

ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONDONTWRITEBYTECODE=1

# An environment of each family, where environments.py looks for it in an image. All pins are listed, with hashes; nothing else is
# resolved but what a CUDA build of torch brings.
COPY envs/ /opt/ptqflow/envs/
RUN set -eu; \
    for family in ${FAMILIES}; do \
        python3 -m venv "/opt/ptqflow/${family}"; \
        "/opt/ptqflow/${family}/bin/pip" install --quiet --no-deps --require-hashes \
            --requirement "/opt/ptqflow/envs/${family}.txt"; \
        "/opt/ptqflow/${family}/bin/pip" install --quiet ${TORCH_INDEX:+--extra-index-url "${TORCH_INDEX}"} \
            --requirement /opt/ptqflow/envs/torch.txt; \
    done

ENV PATH=/opt/ptqflow/core/bin:${PATH}

RUN useradd --create-home --uid 1000 ptqflow
USER 1000
WORKDIR /work

HEALTHCHECK --interval=5m --timeout=2m CMD ["python", "-c", "import torch, transformers; torch.ones(1) + 1"]
CMD ["python", "-m", "ptqflow", "--help"]
