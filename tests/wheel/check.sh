#!/usr/bin/env bash
# Builds the wheel, installs it into a fresh environment with the locked requirements of the
# developers' one, and uses it from an empty directory: the tree must not be needed.
set -euo pipefail
python=$1
root=$(cd "$(dirname "$0")/../.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

"$python" -m pip wheel --quiet --no-build-isolation --no-deps --wheel-dir "$work/dist" "$root"
"$python" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps \
  -r "$root/requirements/dev.txt"
"$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps "$work"/dist/*.whl
mkdir "$work/elsewhere"
cd "$work/elsewhere"
"$work/venv/bin/python" - <<'PY'
import pathlib

import device_svc._core
import gateway.__main__
import tokenizer_svc.__main__
import tpuserve.v1.generation_pb2_grpc

for module in (device_svc._core, gateway.__main__, tokenizer_svc.__main__, tpuserve.v1.generation_pb2_grpc):
    assert "site-packages" in pathlib.Path(module.__file__).parts, module.__file__
PY
"$work/venv/bin/tpuserve" inspect "$root/models/demo" >/dev/null
"$work/venv/bin/tpuserve" compile --help >/dev/null
if command -v python3.10 >/dev/null; then
  # Seven nets of one layer, from nothing but the sizes.
  "$work/venv/bin/tpuserve" compile "$root/models/demo/config" --seq 64 --chunk 32 --estimate | grep tok/s
else
  echo "no python3.10: the compiler of the wheel was not run"
fi
"$work/venv/bin/tpuserve" demo --model "$root/models/demo" --once
echo "the wheel works away from the tree"
