"""The pages are true: their links, commands, choices and keys exist."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from crystalline.command import CONF_DIR, register
from tests.running import ROOT

PAGES = [
    *sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md")),
    *("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "multirun/README.md"),
]
GROUPS = ("model", "objective", "data", "optimizer", "trainer", "callbacks", "logger")
VOCAB = ("v3_assoc", "v8_graph", "v11_tpg", "v13_embed", "v15_predictive")
_FAMILY = "docs/adding_a_family.md"  # its own choices are made by its own test
_KEY = re.compile(rf"(?<![\w/@.])((?:{'|'.join(GROUPS)})(?:\.[a-z]\w*)+)(?![\w/(]|\.[a-z])")
_CHOICE = re.compile(
    r"(?<![\w/.@])((?:experiment|grid|model|data|trainer|logger|objective)=)(\w+(?:/\w+)*)"
)


def text(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def keys() -> set[str]:
    """Every dotted key of the config, with each choice that brings keys of its own."""
    register()
    found = set()
    models = (
        "ziggurat",
        "transformer",
        "crystalline",
        "sae",
        "crystal",
        "crystal/rising_tide_v3",
        "abstractinator",
        "abstractinator_top",
    )
    corpora = ("shakespeare", "fsm", "tasks", "tinyshakespeare", "fineweb")
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        for other in (
            *([f"model={name}"] for name in models),
            *([f"data={name}"] for name in corpora),
            ["tokenizer@data.tokenizer=pretrained"],
            ["data=fsm", "callbacks=states"],
            ["callbacks=steering"],
            ["callbacks=gradients"],
            ["callbacks=segments"],
            *([f"model=vocab/{name}"] for name in VOCAB),
            ["optimizer=muon"],
        ):
            config = compose("config", [*other, "paths.run_dir=x"])
            found |= _dotted(OmegaConf.to_container(config), "")
    return found


def _dotted(node: object, prefix: str) -> set[str]:
    if not isinstance(node, dict):
        return set()
    names = {f"{prefix}{name}" for name in node}
    return names.union(*(_dotted(value, f"{prefix}{name}.") for name, value in node.items()))


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_to_a_file(page):
    folder = (ROOT / page).parent
    words = re.sub(r"^```.*?^```|`[^`\n]*`", "", text(page), flags=re.MULTILINE | re.DOTALL)
    targets = re.findall(r"(?<!!)\[[^\]]*\]\(([^)#:]+)(?:#[^)]*)?\)", words)
    assert [t for t in targets if not (folder / t).exists()] == []


@pytest.mark.parametrize("page", PAGES)
def test_every_command_exists(page):
    names = set(re.findall(r"python -m (crystalline(?:\.\w+)+)", text(page)))
    assert [name for name in names if importlib.util.find_spec(name) is None] == []


@pytest.mark.parametrize("page", [page for page in PAGES if page != _FAMILY])
def test_every_choice_exists(page):
    chosen = {(g.rstrip("="), option) for g, option in _CHOICE.findall(text(page))}
    missing = [f"{g}={o}" for g, o in chosen if not (CONF_DIR / g / f"{o}.yaml").is_file()]
    assert missing == []


@pytest.mark.parametrize("page", [page for page in PAGES if page != _FAMILY])
def test_every_key_exists(page, keys):
    named = {key for key in _KEY.findall(text(page)) if not key.endswith((".py", ".yaml", ".md"))}
    assert sorted(named - keys) == []


def test_the_page_of_quantizers_has_exactly_their_keys():
    table = text("docs/quantizers.md").split("| key (below")[1].split("\n\n")[0]
    named = set(re.findall(r"^\| `(\w+)` \|", table, flags=re.MULTILINE))
    known = {
        key
        for path in (CONF_DIR / "quantizer").glob("*.yaml")
        for key in OmegaConf.to_container(OmegaConf.load(path), resolve=False)
        if not str(key).startswith("_")
    }
    assert named == known


def test_readme_has_the_two_commands_that_ci_runs():
    for name in ("train", "test"):
        block = re.search(rf"<!-- ci: {name} -->\n```bash\n(.+)\n```\n", text("README.md"))
        assert block is not None
        assert block[1].startswith("python3 -m venv .venv && .venv/bin/pip install -e ")


def test_every_experiment_and_grid_says_how_it_is_run():
    for group in ("experiment", "grid"):
        for path in (CONF_DIR / group).glob("[!_]*.yaml"):  # others are made of the rest
            head = path.read_text(encoding="utf-8").split("\n\n")[0]
            assert f"python -m crystalline.run {group}={path.stem}" in head, path


def test_no_page_names_a_folder_of_one_machine():
    for page in [*PAGES, ".ci/run", ".pre-commit-config.yaml"]:
        assert not re.search(r"(?<![\w.:/])/(?:home|root|work|tmp)/|\.\./shared", text(page)), page
        assert Path(ROOT / page).is_file()
