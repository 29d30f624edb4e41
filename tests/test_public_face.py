"""What strangers and programs of others see first: links, metadata, workflows, recipes.

Their schemas are checked by `scripts/check_public_files.sh`.
"""

from __future__ import annotations

import re
import shlex
import tomllib
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml
from npe2 import PluginManifest
from PIL import Image
from test_dependencies import EXTRAS, PROJECT, REQUIRED, names, normalised

from napari_emseg._installed import TESTED
from napari_emseg.cli.app import COMMANDS

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "napari_emseg"
REPOSITORY = PROJECT["urls"]["Source Code"]
RAW = REPOSITORY.replace("github.com", "raw.githubusercontent.com") + "/main/"
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def load(name: str) -> Any:
    return yaml.safe_load(text(name))


def links(page: str) -> list[str]:
    """Return where a page of Markdown links to, in each of the ways to do so."""
    inline = re.findall(r"\]\(([^)\s]+)\)", page)
    named = re.findall(r"^\[[^\]]+\]: (\S+)$", page, re.MULTILINE)
    return inline + named + re.findall(r"(?:src|href)=\"([^\"]+)\"", page)


def anchors(page: str) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


def missing(link: str) -> str | None:
    """Say what an absolute link into the own repository names and isn't there."""
    name = None
    if link.startswith(RAW):
        name = link.removeprefix(RAW)
    elif link.startswith(f"{REPOSITORY}/"):
        rest = link.removeprefix(f"{REPOSITORY}/")
        if rest in ("issues", "security/advisories/new"):
            return None
        if not rest.startswith("blob/main/"):
            return f"{link} is no page of the repository that is known here"
        name = rest.removeprefix("blob/main/")
    if name is None:
        return None
    name, _, anchor = name.partition("#")
    if not (ROOT / name).is_file():
        return f"{name} isn't there"
    if anchor and anchor not in anchors(text(name)):
        return f"{name} has no heading #{anchor}"
    return None


class TestLinks:
    def test_those_of_the_readme_work_where_only_the_readme_is_shown(self) -> None:
        found = links(text("README.md"))
        assert len(found) > 20
        assert [at for at in found if not at.startswith(("https://", "#"))] == []

    def test_pictures_of_the_readme_are_pictures_and_not_pages_about_them(self) -> None:
        found = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", text("README.md"))
        assert found
        assert all(at.startswith(RAW) for at in found)

    def test_every_name_in_brackets_of_the_readme_is_explained(self) -> None:
        code = re.compile(r"(?s:```.*?```)|^ {4}.*$|`[^`]*`", re.MULTILINE)
        page = code.sub("", text("README.md"))
        named = set(re.findall(r"^\[([^\]]+)\]: https", page, re.MULTILINE))
        used = {
            target or shown
            for shown, target in re.findall(
                r"\[([^\]]+)\](?:\[([^\]]*)\])?(?!\(|: https)", page
            )
        }
        assert {re.sub(r"\s+", " ", each) for each in used} == named

    @pytest.mark.parametrize(
        "name",
        [
            *("README.md", "CODE_OF_CONDUCT.md", "CONTRIBUTING.md", "SECURITY.md"),
            *("CITATION.cff", "pyproject.toml", "recipe/recipe.yaml"),
            ".github/ISSUE_TEMPLATE/config.yml",
            *(
                f"packages/napari-emseg-data/{n}"
                for n in ("README.md", "pyproject.toml")
            ),
        ],
    )
    def test_those_into_the_own_repository_name_what_is_there(self, name: str) -> None:
        found = re.findall(r"https://[^\s\"')>\]]+", text(name))
        assert [bad for link in found if (bad := missing(link))] == []

    def test_a_link_to_nothing_is_told(self) -> None:
        assert missing(f"{REPOSITORY}/blob/main/docs/gone.md") is not None
        assert missing(f"{REPOSITORY}/blob/main/docs/formats.md#gone") is not None
        assert missing(f"{REPOSITORY}/wiki") is not None
        assert missing(RAW + "docs/images/gone.png") is not None
        assert missing("https://napari.org") is None


class TestMetadata:
    def test_the_manifest_names_an_icon_that_is_shipped_and_categories(self) -> None:
        manifest = PluginManifest.from_file(SOURCE / "napari.yaml")
        package, _, resource = str(manifest.icon).partition(":")
        assert package == "napari_emseg"
        with Image.open(SOURCE / resource) as icon:
            assert icon.format == "PNG"
            assert icon.size == (256, 256)
        assert "Segmentation" in manifest.categories

    def test_the_citation_is_of_this_version(self) -> None:
        citation = load("CITATION.cff")
        assert citation["version"] == PROJECT["version"]
        assert citation["repository-code"] == REPOSITORY
        assert PROJECT["license"].startswith(citation["license"])

    def test_the_version_has_a_dated_section_and_the_extra_the_data(self) -> None:
        said = re.findall(r"^## (\S+) - (\S+)$", text("CHANGELOG.md"), re.MULTILINE)
        assert said[0] == (PROJECT["version"], load("CITATION.cff")["date-released"])
        data = tomllib.loads(text("packages/napari-emseg-data/pyproject.toml"))
        (asked,) = EXTRAS["data"]
        assert data["project"]["version"].startswith(asked.partition(">=")[2])

    def test_pages_are_built_with_the_extra_docs(self) -> None:
        installs = [
            *load(".readthedocs.yaml")["build"]["jobs"]["install"],
            *(line for line in runs(load(".github/workflows/docs.yml"))),
        ]
        found = [re.findall(r'"([^"]+)"', line) for line in installs if "pip" in line]
        assert found == [EXTRAS["docs"]] * 2

    @pytest.mark.parametrize("kind", ["bug", "wish"])
    def test_a_form_asks_for_what_is_needed(self, kind: str) -> None:
        form = load(f".github/ISSUE_TEMPLATE/{kind}.yml")
        needed = [
            field["attributes"]["label"]
            for field in form["body"]
            if field.get("validations", {}).get("required")
        ]
        assert needed
        assert kind != "bug" or any("emseg doctor" in label for label in needed)


def runs(workflow: dict[str, Any]) -> list[str]:
    """Return every line of shell in a workflow."""
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    return [line for s in steps for line in s.get("run", "").splitlines() if line]


TARGETS = set(re.findall(r"^([a-z-]+):", text("Makefile"), re.MULTILINE))
MODULES = {"build", "pip", "pytest", "twine"}
PROGRAMS = {"apptainer", "docker", "emseg", "mkdocs", "pip", "test"}


def wrong(line: str) -> list[str]:
    """Return what a line of shell names that isn't there."""
    words = shlex.split(line)
    found = [
        f"{word}: no such file"
        for word in words
        if re.match(r"\.?/?(scripts|containers|tests|docs|src)/", word)
        and not (ROOT / word).exists()
    ]
    found += [
        f"emseg {name}: no such command"
        for name in re.findall(r"\bemseg(?:\.sif)? ([a-z]\w*)(?![\w/])", line)
        if name not in COMMANDS
    ]
    for each in re.findall(r"(?:^|[\s\"'])(?:\.|\S*napari-emseg)\[([^\]]+)\]", line):
        found += [f"extra {e}: unknown" for e in each.split(",") if e not in EXTRAS]
    if words[0] == "make":
        found += [f"make {name}: no such target" for name in {*words[1:]} - TARGETS]
    elif words[0] == "python":
        known = words[1] == "-m" and words[2] in MODULES
        found += [] if known or words[1].startswith("scripts/") else [line]
    elif words[0] not in PROGRAMS and not words[0].startswith("scripts/"):
        found.append(f"{words[0]}: unknown program")
    return found


class TestWorkflows:
    @pytest.mark.parametrize("path", WORKFLOWS, ids=lambda p: p.name)
    def test_what_runs_is_there(self, path: Path) -> None:
        workflow = load(str(path))
        found = runs(workflow)
        assert found
        assert [bad for line in found for bad in wrong(line)] == []
        assert "workflow_dispatch" in workflow[True]  # YAML 1.1 takes `on` for a bool
        assert all("timeout-minutes" in job for job in workflow["jobs"].values())

    @pytest.mark.parametrize(
        "line",
        [
            "make everything",
            "emseg paint",
            "docker run --rm emseg paint",
            'python -m pip install ".[everything]"',
            "python scripts/gone.py",
            "scripts/gone.sh",
            "tox",
        ],
    )
    def test_what_is_not_there_is_told(self, line: str) -> None:
        assert wrong(line)

    def test_all_pythons_on_all_systems(self) -> None:
        matrix = load(".github/workflows/tests.yml")["jobs"]["tests"]["strategy"]
        pythons = matrix["matrix"]["python"]
        assert len(matrix["matrix"]["system"]) == 3
        classified = re.findall(
            r":: (3\.\d+)$", "\n".join(PROJECT["classifiers"]), re.M
        )
        assert set(classified) <= set(pythons)
        assert pythons[0] == PROJECT["requires-python"].removeprefix(">=")

    def test_only_a_tag_publishes_and_without_a_password(self) -> None:
        job = load(".github/workflows/release.yml")["jobs"]["publish"]
        assert job["if"] == "github.event_name == 'push'"
        assert job["permissions"] == {"id-token": "write"}
        assert "secrets" not in text(".github/workflows/release.yml")
        assert load(".github/workflows/release.yml")[True]["push"] == {"tags": ["v*"]}


class TestContainers:
    copied = pytest.mark.parametrize(
        "found",
        [
            [
                name
                for line in re.findall(
                    r"^COPY (.+) \S+$", text("containers/Dockerfile"), re.MULTILINE
                )
                for name in line.split()
            ],
            re.findall(
                r"^ {4}(\S+) /opt/", text("containers/apptainer.def"), re.MULTILINE
            ),
            re.findall(r"^!(.+)$", text(".dockerignore"), re.MULTILINE),
        ],
        ids=["Docker", "Apptainer", "what Docker is given"],
    )

    @copied
    def test_what_the_package_is_built_of_is_copied(self, found: list[str]) -> None:
        licences = {name.partition("/")[0] for name in PROJECT["license-files"]}
        assert {*found} == {"pyproject.toml", PROJECT["readme"], "src", *licences}

    @pytest.mark.parametrize("name", ["Dockerfile", "apptainer.def"])
    def test_commands_and_extras_are_there(self, name: str) -> None:
        lines = text(f"containers/{name}").splitlines()
        shell = [
            re.sub(r"^(RUN|#?) +", "", line)
            for line in lines
            if re.match(r"^(RUN|#?) +(pip|docker|apptainer) ", line)
        ]
        assert len(shell) > 4
        assert [bad for line in shell for bad in wrong(line)] == []


CONDA_NAMES = {"torch": "pytorch", "dask": "dask-core", "napari": "napari-base"}
"""What conda-forge calls packages that PyPI has another name for; `napari-base` and
`dask-core` are those without extras, as PyPI's are."""


def test_the_conda_recipe_asks_for_what_the_package_asks_for() -> None:
    recipe = load("recipe/recipe.yaml")
    assert recipe["context"]["version"] == PROJECT["version"]
    assert recipe["context"]["python_min"] == PROJECT["requires-python"][2:]
    found = recipe["requirements"]["run"]
    wanted = [re.fullmatch(r"([\w-]+)(>=.+)", line) for line in PROJECT["dependencies"]]
    expected = [f"{CONDA_NAMES.get(m[1], m[1])} {m[2]}" for m in wanted if m]
    assert found == ["python >=${{ python_min }}", *expected]
    assert recipe["about"]["summary"] == PROJECT["description"]
    assert recipe["about"]["license"] == PROJECT["license"]
    for name in recipe["about"]["license_file"]:
        assert (ROOT / name).is_file()
    (script,) = [test["script"] for test in recipe["tests"] if "script" in test]
    assert [bad for line in script for bad in wrong(line)] == []


PACKED = ("gz", "bz2")


class TestPages:
    def test_the_table_of_drags_says_who_claims_a_name(self) -> None:
        (naparis,) = (
            found.manifest
            for found in PluginManifest.discover()
            if found.manifest and found.manifest.name == "napari"
        )
        theirs = {
            p
            for reader in naparis.contributions.readers or []
            for p in reader.filename_patterns
        }
        ours = PluginManifest.from_file(SOURCE / "napari.yaml").contributions.readers
        (reader,) = ours or []
        assert not reader.accepts_directories
        page = text("docs/formats.md").split("## What a drag onto napari does")[1]
        page = page.partition("\n## ")[0]
        rows = re.findall(r"^\| (.+?) \| (us|napari)\b.* \| (.+) \|$", page, re.M)
        said = {
            f"*{end}": (by, asked == "nothing")
            for cells, by, asked in rows
            for end in re.findall(r"`(\.[\w.]+)`", cells.partition(";")[0])
        }
        del said["*.emseg"]  # a folder, which no pattern claims
        packed = {f"*.{x}.{y}" for x in ("mrc", "map", "rec", "st") for y in PACKED}
        mine = {*reader.filename_patterns} - packed - {"project.json"}
        assert {p for p, (by, _) in said.items() if by == "us"} == mine
        for pattern, (by, alone) in said.items():
            both = pattern in theirs and pattern in reader.filename_patterns
            assert alone != both, pattern
            assert (by == "us") or pattern in theirs, pattern

    def test_the_page_on_installation_names_the_bounds_that_others_cannot_meet(
        self,
    ) -> None:
        bounds = dict(line.split(">=") for line in PROJECT["dependencies"])
        words = f"napari {bounds['napari']} and Zarr {bounds['zarr']} or newer are"
        assert words in text("docs/installation.md")

    def test_every_dependency_below_1_has_a_row_with_a_test(self) -> None:
        page = text("docs/dependencies.md").split("## What may still change")[1]
        rows = re.findall(r"^\| ([\w-]+) \| ([\d.]+) \| (.+) \| `(.+)` \|$", page, re.M)
        young = {
            name
            for name in {*REQUIRED, *names(EXTRAS["neuroglancer"])}
            if version(name).startswith("0.")
        }
        assert {normalised(row[0]) for row in rows} == young
        assert {name: tested for name, tested, *_ in rows} == TESTED
        for _, _, homes, test in rows:
            assert (ROOT / test).is_file(), test
            for home in re.findall(r"`([^`]+)`", homes):
                assert (SOURCE / home).exists(), home

    def test_extras_that_the_pages_name_exist(self) -> None:
        pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
        found = {
            extra
            for page in pages
            for each in re.findall(
                r"napari-emseg\[([^\]]+)\]", page.read_text(encoding="utf-8")
            )
            for extra in each.split(",")
        }
        assert found
        assert found <= set(EXTRAS)


CONNECTING = re.compile(
    r"^\s*(?:import|from) (aiohttp|fsspec|ftplib|http|requests|socket|urllib)\b", re.M
)
"""Imports of modules by which a program reaches a network."""


def test_nothing_reaches_a_network_by_itself() -> None:
    found = {
        path.relative_to(SOURCE).as_posix(): name
        for path in SOURCE.rglob("*.py")
        for name in CONNECTING.findall(path.read_text(encoding="utf-8"))
    }
    assert found == {
        "io/compressed.py": "socket",  # for the name of this machine
        # weights that a package names by an address, once its user has agreed
        "models/importing.py": "urllib",
    }


def test_tools_of_the_checks_come_with_the_extra_dev() -> None:
    wanted = {"check-jsonschema", "twine", "validate-pyproject"}
    assert wanted <= names(EXTRAS["dev"])
    assert tomllib.loads(text("pyproject.toml"))["project"]["urls"] == PROJECT["urls"]
