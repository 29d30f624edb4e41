#!/usr/bin/env bash
# Create .venv-lowest with the lowest versions that pyproject.toml allows: the floors are
# only true if something runs on them. Set TORCH to try another torch than the lowest,
# e.g. TORCH=2.13.0 for a build that is here already.
set -euo pipefail
cd "$(dirname "$0")/.."

venv=.venv-lowest
say() { echo "· $*" >&2; }

# The oldest Python has wheels of the oldest releases.
python=${PYTHON:-}
if [[ -z $python ]]; then
    read -r _ python < <(scripts/pythons.sh | sort --version-sort) || {
        echo "error: no Python 3.11 or newer was found; set PYTHON" >&2
        exit 1
    }
fi

rm -rf "$venv"
"$python" -m venv "$venv"
"$venv/bin/python" -m pip install -qq "uv>=0.9"
say "Resolving the lowest versions for $("$python" --version)"
overrides=()
[[ -z ${TORCH:-} ]] || overrides=(--overrides <(echo "torch==$TORCH"))
"$venv/bin/uv" pip compile --quiet --python "$venv/bin/python" --no-annotate --no-header \
    --resolution lowest-direct --extra all --extra test "${overrides[@]}" \
    --output-file "$venv/lowest.txt" pyproject.toml
say "Installing them: minutes the first time"
"$venv/bin/python" -m pip install -qq -r "$venv/lowest.txt"
"$venv/bin/python" -m pip install -qq --no-deps --editable . --editable packages/napari-emseg-data
