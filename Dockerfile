# syntax=docker/dockerfile:1
# Three images from one file: docker build --target {tokenizer,device,gateway} -t tpuserve/TARGET:0.1.0 .
# Each holds Python, one virtual environment and nothing to build or install with. They run as a
# user without a name, need no writable file system but /tmp, and stop on SIGTERM.

FROM python:3.11-slim-bookworm AS build
# Debian keeps only the newest version of a package, so a pinned one would stop to build.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends g++ \
 && rm -rf /var/lib/apt/lists/*
RUN pip install --no-cache-dir uv==0.13.8
ENV UV_LINK_MODE=copy UV_NO_CACHE=1 UV_PYTHON=/build/bin/python PATH=/build/bin:$PATH
WORKDIR /src
# requirements/dev.txt pins every version and hash; as a constraint it installs none of them.
COPY requirements/dev.txt requirements/dev.txt
RUN python -m venv --without-pip /build \
 && uv pip install --constraint requirements/dev.txt \
      cmake grpcio-tools mypy-protobuf ninja pybind11 scikit-build-core
COPY pyproject.toml CMakeLists.txt README.md ./
COPY protos protos
COPY cmake cmake
COPY csrc csrc
COPY tpuserve tpuserve
COPY tokenizer_svc tokenizer_svc
COPY device_svc device_svc
COPY gateway gateway
RUN uv build --wheel --no-build-isolation --out-dir /dist

# The environments have the path that they have in the images: their scripts name it.
FROM build AS tokenizer-env
RUN python -m venv --without-pip /opt/tpuserve \
 && uv pip install --python /opt/tpuserve/bin/python --compile-bytecode \
      --constraint requirements/dev.txt "tpuserve[tokenizer] @ file://$(echo /dist/*.whl)"

FROM build AS device-env
RUN python -m venv --without-pip /opt/tpuserve \
 && uv pip install --python /opt/tpuserve/bin/python --compile-bytecode \
      --constraint requirements/dev.txt "tpuserve[device] @ file://$(echo /dist/*.whl)"

FROM build AS gateway-env
RUN python -m venv --without-pip /opt/tpuserve \
 && uv pip install --python /opt/tpuserve/bin/python --compile-bytecode \
      --constraint requirements/dev.txt "tpuserve[gateway] @ file://$(echo /dist/*.whl)"

FROM python:3.11-slim-bookworm AS base
ENV PATH=/opt/tpuserve/bin:$PATH PYTHONDONTWRITEBYTECODE=1
WORKDIR /
USER 65532:65532

FROM base AS tokenizer
COPY --from=tokenizer-env /opt/tpuserve /opt/tpuserve
EXPOSE 50052 9102
ENTRYPOINT ["python", "-m", "tokenizer_svc"]

# The vendor's libraries are mounted: they must match the host's driver (see k8s/README.md).
FROM base AS device
COPY --from=device-env /opt/tpuserve /opt/tpuserve
EXPOSE 50053 9103
ENTRYPOINT ["python", "-m", "device_svc"]

FROM base AS gateway
COPY --from=gateway-env /opt/tpuserve /opt/tpuserve
EXPOSE 50051 8000
ENTRYPOINT ["python", "-m", "gateway"]
