# Stages and vLLM on an accelerator, over vLLM's own image: for CUDA devices (GPU_BASE) or Ascend NPUs (ASCEND_BASE in bases.env). torch,
# vLLM and the device's libraries are the base's; what the pins of envs/ add lies in environments beside them. Only third-party
# packages are in an image: the repository is mounted where a job runs, so a change of code is seen.
ARG BASE
FROM ${BASE}
USER 0

LABEL org.opencontainers.image.title="ptqflow device" \
      org.opencontainers.image.description="vLLM for an accelerator with the packages of ptqflow's stages, as pinned in envs/" \
      org.opencontainers.image.licenses="Apache-2.0"

ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONDONTWRITEBYTECODE=1

# core: all pins but torch, which is the base's. vllm: what the stage `generate` needs beside vLLM.
COPY envs/ /opt/ptqflow/envs/
RUN set -eu; \
    python3 -m venv --system-site-packages /opt/ptqflow/core; \
    /opt/ptqflow/core/bin/pip install --quiet --no-deps --ignore-installed --require-hashes \
        --requirement /opt/ptqflow/envs/core.txt; \
    python3 -m venv --system-site-packages /opt/ptqflow/vllm; \
    awk '/^[^ ]/ {wanted = /^(pyarrow|pydantic|pydantic-core|tqdm|wrapt)==/} wanted' /opt/ptqflow/envs/core.txt > /tmp/vllm.txt; \
    /opt/ptqflow/vllm/bin/pip install --quiet --no-deps --require-hashes --requirement /tmp/vllm.txt; \
    rm /tmp/vllm.txt

# What an NPU's libraries need is set by scripts of theirs; jobs are `bash -c`, which reads this file first.
# hadolint ignore=SC2016
RUN printf '%s\n' \
    'for script in /usr/local/Ascend/ascend-toolkit/set_env.sh /usr/local/Ascend/nnal/atb/set_env.sh; do' \
    '    if [ -f "$script" ]; then . "$script"; fi' \
    'done' > /opt/ptqflow/environment.sh
ENV BASH_ENV=/opt/ptqflow/environment.sh PATH=/opt/ptqflow/core/bin:${PATH}

RUN useradd --create-home --uid 10001 ptqflow
USER 10001
WORKDIR /work

HEALTHCHECK --interval=5m --timeout=2m CMD ["bash", "-c", "python -c 'import torch, transformers' && /opt/ptqflow/vllm/bin/python -c 'import vllm'"]
ENTRYPOINT []
CMD ["python", "-m", "ptqflow", "--help"]
