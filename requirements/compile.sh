#!/usr/bin/env bash
# Compile the pins from pyproject.toml, hashed and without an index named in them: `make pins`.
set -euo pipefail
cd "$(dirname "$0")/.."

compile=("${UV:-uv}" pip compile --universal --python-version 3.11 --generate-hashes --no-header
    --no-annotate --no-emit-index-url --quiet)
# PyTorch and what it brings along on Linux only: requirements/torch.txt says why.
apart=()
for package in torch triton cuda-{bindings,pathfinder,toolkit} nvidia-{cublas,cuda-cccl,cuda-cupti,cuda-nvrtc,cuda-runtime} \
    nvidia-{cudnn-cu13,cufft,cufile,curand,cusolver,cusparse,cusparselt-cu13,nccl-cu13,nvjitlink,nvshmem-cu13,nvtx}; do
    apart+=(--no-emit-package "$package")
done

"${compile[@]}" pyproject.toml --group dev "${apart[@]}" -o requirements/dev.txt
"${compile[@]}" pyproject.toml -c requirements/dev.txt -o requirements.txt
"${compile[@]}" --group pyproject.toml:trainer "${apart[@]}" -c requirements/dev.txt -o trainer/requirements.txt
"${compile[@]}" --group pyproject.toml:policy -o policy/requirements.txt
"${compile[@]}" --group pyproject.toml:checkov -o requirements/checkov.txt

# What the trainer's image weighs, by the sizes of its wheels: the budget is in image_size.py.
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${UV:-uv}" pip compile trainer/requirements.txt --format pylock.toml --python-version 3.13 \
    --python-platform x86_64-manylinux_2_28 --no-header --quiet -o "$folder/pylock.toml" >/dev/null
"${PYTHON:-.venv/bin/python}" requirements/image_size.py "$folder/pylock.toml"
