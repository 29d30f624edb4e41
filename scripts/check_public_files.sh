#!/usr/bin/env bash
# Check by their schemas what programs of others read: the package's metadata, the manifest,
# the citation, and the files of GitHub and Read the Docs. Nothing is fetched.
set -euo pipefail
cd "$(dirname "$0")/.."

by_schema() { check-jsonschema --quiet --builtin-schema "vendor.$1" "${@:2}"; }

validate-pyproject pyproject.toml packages/napari-emseg-data/pyproject.toml
npe2 validate --imports napari-emseg
by_schema citation-file-format CITATION.cff
by_schema github-workflows .github/workflows/*.yml
by_schema github-issue-forms .github/ISSUE_TEMPLATE/bug.yml .github/ISSUE_TEMPLATE/wish.yml
by_schema github-issue-config .github/ISSUE_TEMPLATE/config.yml
by_schema dependabot .github/dependabot.yml
by_schema readthedocs .readthedocs.yaml
