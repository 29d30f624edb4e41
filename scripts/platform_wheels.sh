#!/usr/bin/env bash
# Say for which systems and Pythons every dependency has a wheel, with uv (pip install uv).
# That shows what pip can install without a compiler, not that it works there.
set -euo pipefail
cd "$(dirname "$0")/.."

command -v uv >/dev/null || {
    echo "error: uv is needed: pip install uv" >&2
    exit 1
}

systems=(
    x86_64-unknown-linux-gnu aarch64-unknown-linux-gnu x86_64-pc-windows-msvc
    aarch64-apple-darwin x86_64-apple-darwin
)
log=$(mktemp)
trap 'rm -f "$log"' EXIT
for system in "${systems[@]}"; do
    for version in 3.11 3.12 3.13 3.14; do
        answer=yes
        uv pip compile --quiet pyproject.toml --extra all --only-binary :all: \
            --python-platform "$system" --python-version "$version" >/dev/null 2>"$log" \
            || answer="no: $(tr '\n' ' ' <"$log" | tr --squeeze-repeats ' ' | cut -c 1-300)"
        echo "$system, Python $version: $answer"
    done
done
