# A node of a codex_ray cluster: no root, no compiler, every version pinned. Build it on the machine
# that has the registry's login, from the repository:
#   docker build --tag registry.example/codex_ray:0.1.0 .
#   docker build --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cpu ...   # without CUDA
# Give PYTHON_IMAGE with its digest (python@sha256:...) where builds have to be the same to the byte.
ARG PYTHON_IMAGE=python:3.11-slim-bookworm
FROM ${PYTHON_IMAGE} AS build
ARG TORCH_INDEX=https://pypi.org/simple
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/codex_ray
ENV PATH=/opt/codex_ray/bin:$PATH
WORKDIR /src
COPY cluster/requirements.lock ./
RUN pip install --no-deps --require-hashes -r requirements.lock
RUN pip install --index-url ${TORCH_INDEX} torch==2.13.0
COPY pyproject.toml README.md LICENSE ./
COPY codex_ray codex_ray
RUN pip install --no-deps --no-build-isolation . && pip check

FROM ${PYTHON_IMAGE}
# KubeRay's probes ask with wget.
RUN apt-get update && apt-get install --yes --no-install-recommends wget \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 1000 ray && useradd --uid 1000 --gid ray --create-home ray
COPY --from=build /opt/codex_ray /opt/codex_ray
COPY experiments /home/ray/experiments
ENV PATH=/opt/codex_ray/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    RAY_AUTH_MODE=token \
    RAY_USAGE_STATS_ENABLED=0
USER 1000:1000
WORKDIR /home/ray
CMD ["codex-ray", "--help"]
