"""Pages: README.md and docs/. Links lead somewhere, and commands, code and files are there."""

import ast
import functools
import importlib
import importlib.util
import os
import re
import shlex
from pathlib import Path

import pytest

from experiments.cli import load_config

ROOT = Path(__file__).parents[1]
FRONT = ROOT / "README.md"
PAGES = [FRONT, *sorted((ROOT / "docs").glob("*.md"))]
BESIDE = sorted(path for name in ("colab", "tests") for path in (ROOT / name).rglob("README.md"))
PACKAGES = ("alcnet", "common", "convattn", "cssm", "experiments")
FOLDERS = (*PACKAGES, "colab", "docs", "tests", r"\.ci")
SOURCES = [path for name in (*PACKAGES, "colab") for path in sorted((ROOT / name).rglob("*.py"))]

FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"`([^`]+)`")
LINK = re.compile(r"\]\(([^)\s]+)\)")
STAND_INS = {"MODEL": "opponent", "VARIANT": "rte", "SEED": "0"}
"""What a reader puts in place of a word in capitals, where any word will not do."""


def name_of(path: Path) -> str:
    return os.fspath(path.relative_to(ROOT))


def prose(page: Path) -> str:
    """Returns a page without its blocks of code."""
    return FENCED.sub("", page.read_text(encoding="utf-8"))


def blocks(page: Path, language: str) -> list[str]:
    """Returns the blocks of code in a language."""
    found = FENCED.findall(page.read_text(encoding="utf-8"))
    return [text for kind, text in found if kind == language]


def anchors(page: Path) -> set[str]:
    """Returns the anchors of a page's headings, as GitHub makes them."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE):
        words = re.sub(r"\]\([^)]*\)", "]", heading).strip().lower()
        anchor = base = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
        count = 0
        while anchor in found:
            count += 1
            anchor = f"{base}-{count}"
        found.add(anchor)
    return found


def broken_links(page: Path) -> list[str]:
    """Returns the links of a page that lead to no file, or to no heading of it."""
    broken = []
    for link in LINK.findall(CODE.sub("", prose(page))):
        if re.match(r"\w+:", link):
            continue
        name, _, anchor = link.partition("#")
        path = (page.parent / name).resolve() if name else page
        if not path.exists() or (anchor and anchor not in anchors(path)):
            broken.append(link)
    return broken


def commands(page: Path) -> list[str]:
    """Returns what a page asks to run with python -m, from the module's name on."""
    lines = [
        line.partition(" #")[0]
        for text in blocks(page, "sh")
        for line in text.replace("\\\n", "").splitlines()
    ]
    lines += CODE.findall(re.sub(r"\s+", " ", prose(page)))
    found = [part for line in lines for part in line.split("python -m ")[1:]]
    return [part for part in found if part.startswith(PACKAGES)]


@functools.cache
def known_flags() -> set[str]:
    """Returns the flags that any program of the project takes."""
    texts = [source.read_text(encoding="utf-8") for source in SOURCES]
    return {flag for text in texts for flag in re.findall(r'"(--[a-z_-]+)"', text)}


each_page = pytest.mark.parametrize("page", PAGES, ids=name_of)


@pytest.mark.parametrize("page", PAGES + BESIDE, ids=name_of)
def test_links_lead_somewhere(page):
    assert broken_links(page) == []


def test_broken_links_are_found(tmp_path):
    (tmp_path / "other.md").write_text("# A `name`: one's own\n\n## Twice\n\n## Twice\n")
    page = tmp_path / "page.md"
    good = ["other.md", "other.md#a-name-ones-own", "other.md#twice-1", "https://a.org/b", "#here"]
    bad = ["none.md", "other.md#twice-2", "#there", "none.png"]
    page.write_text("# Here\n" + " ".join(f"[x]({link})" for link in good + bad))
    assert broken_links(page) == bad


def test_every_page_is_linked_from_the_front_page():
    links = {link.partition("#")[0] for link in LINK.findall(prose(FRONT))}
    assert [name_of(page) for page in PAGES[1:] if name_of(page) not in links] == []


@each_page
def test_files_that_a_page_names_exist(page):
    named = [
        text for text in CODE.findall(prose(page)) if re.match(rf"({'|'.join(FOLDERS)})/", text)
    ]
    files = [re.split(r"[: ]", text)[0] for text in named]
    assert [file for file in files if "*" not in file and not (ROOT / file).exists()] == []


@each_page
def test_commands_of_a_page_exist(page):
    for command in commands(page):
        module, *words = shlex.split(command.replace("[", "").replace("]", ""))
        assert importlib.util.find_spec(module), command
        given = [word.partition("=")[0] for word in words if word.startswith("--")]
        assert [
            f for f in given if f not in known_flags() and not f.startswith("--config.")
        ] == [], command


@each_page
def test_configs_of_a_page_load(page, monkeypatch):
    monkeypatch.chdir(ROOT)
    for command in commands(page):
        text = re.sub(r"\b[A-Z]+\b", lambda word: STAND_INS.get(word[0], word[0]), command)
        module, *words = shlex.split(text)
        settings = dict(word.split("=", 1) for word in words if word.startswith("--config"))
        if not settings:
            continue
        default = f"experiments/configs/{module.rpartition('.')[2]}.py"
        path = settings.pop("--config", default)
        load_config(path, {key.removeprefix("--config."): v for key, v in settings.items()})


@each_page
def test_python_of_a_page_compiles_and_imports_what_there_is(page):
    for text in blocks(page, "python"):
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ImportFrom):
                module = importlib.import_module(node.module or "")
                assert [a.name for a in node.names if not hasattr(module, a.name)] == []


@pytest.mark.slow
def test_the_code_of_the_front_page_runs(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    (text,) = blocks(FRONT, "python")
    exec(compile(text, FRONT, "exec"), {})
    whole, without = map(float, re.findall(r": ([\d.]+)$", capsys.readouterr().out, re.MULTILINE))
    assert whole > 0.9 and without < 0.7


def test_pages_that_sources_name_exist():
    named = {
        page
        for source in SOURCES
        for page in re.findall(r"docs/[\w-]+\.md", source.read_text(encoding="utf-8"))
    }
    assert [page for page in sorted(named) if not (ROOT / page).exists()] == []
