#!/usr/bin/env bash
# Make .venv: uv when it is there, or fetched into the environment; the hashed pins; PyTorch; this project itself.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf '%s\n' "$*" >&2; }

python=${PYTHON:-python3}
command -v "$python" >/dev/null || { say "error: $python is not on PATH; install Python 3.11.4 or newer, or: make PYTHON=/path/to/python3"; exit 1; }
# Before 3.11.4 (Debian 12 has 3.11.2) tarfile cannot refuse what would leave its folder.
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11, 4))' || {
    say "error: Python must be 3.11.4 or newer, got $("$python" --version); choose another: make PYTHON=python3.12"
    exit 1
}
[ -x .venv/bin/python ] || "$python" -m venv .venv || {
    say "error: $python could not make .venv (on Debian and Ubuntu: apt-get install python3-venv)"
    exit 1
}
uv=$(command -v uv || true)
if [ -z "$uv" ]; then
    [ -x .venv/bin/uv ] || .venv/bin/python -m pip install --quiet --disable-pip-version-check "uv==$UV_VERSION"
    uv=.venv/bin/uv
fi
export VIRTUAL_ENV="$PWD/.venv"

say "setup: about 120 packages (0.5 GB installed)"
"$uv" pip install --quiet --require-hashes -r requirements/dev.txt

torch=$(grep -v '^#' requirements/torch.txt)
if "$VIRTUAL_ENV/bin/python" -c "import importlib.metadata as m, sys; sys.exit(m.version('torch').split('+')[0] != '${torch#*==}')" 2>/dev/null; then
    say "setup: $torch is there"
elif UV_HTTP_TIMEOUT=5 UV_HTTP_RETRIES=0 timeout 15 "$uv" pip install --quiet --dry-run --no-deps --torch-backend cpu "$torch" 2>/dev/null; then
    say "setup: $torch, PyTorch's own CPU build (0.2 GB)"
    "$uv" pip install --quiet --torch-backend cpu -r requirements/torch.txt -c requirements/dev.txt
else
    say "setup: $torch from PyPI, since PyTorch's own index does not answer (on Linux 5 GB, with CUDA)"
    "$uv" pip install --quiet -r requirements/torch.txt -c requirements/dev.txt
fi
"$uv" pip install --quiet --no-deps --no-build-isolation --editable .

# Compiled now rather than at each first start, also where PYTHONDONTWRITEBYTECODE is set. Of pulumi_aws, 120 MB of source, only
# what the program loads.
say "setup: compiling"
site=$("$VIRTUAL_ENV/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
services=$(sed -n 's/^from pulumi_aws import //p' components/*.py | tr -d ',' | tr ' ' '\n' | sort -u)
# shellcheck disable=SC2046,SC2086 # a word for each folder
"$VIRTUAL_ENV/bin/python" -m compileall -q -j 0 $(find "$site" -mindepth 1 -maxdepth 1 -type d -not -name pulumi_aws) \
    $(printf "$site/pulumi_aws/%s " $services) >/dev/null || true # some packages ship files of other Python versions
"$VIRTUAL_ENV/bin/python" -m compileall -q -l "$site/pulumi_aws" >/dev/null || true
say "setup: done; the command is .venv/bin/pushtrain"
