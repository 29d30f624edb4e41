#!/usr/bin/env bash
# Build the wheels of both distributions, napari-emseg and napari-emseg-data, into a folder,
# and check what is in them. PYTHON is the interpreter whose pip builds them; with hatchling
# installed there nothing is fetched.
# Usage: build_wheels.sh FOLDER
set -euo pipefail
out=$(realpath --canonicalize-missing "${1:?a folder for the wheels}")
cd "$(dirname "$0")/.."

python=${PYTHON:-python}
options=(--quiet --no-deps --wheel-dir "$out")
! "$python" -c "import hatchling" 2>/dev/null || options+=(--no-build-isolation)
"$python" -m pip wheel "${options[@]}" . packages/napari-emseg-data
"$python" scripts/check_wheel.py "$out"/napari_emseg-*.whl "$out"/napari_emseg_data-*.whl
