"""Plugins are found: in packages that pip installed, in folders that the command line gives; none hides another."""

import importlib
import re
import shlex
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from hydra.utils import get_object
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rlbench.comparing.runs import Unreadable, origin
from rlbench.discovery import PLACES, config_dirs, find_plugins, flags
from rlbench.help import explain, is_one_line, known_keys, print_help
from rlbench.multirun.repeating import completes, repeats
from rlbench.plugins import plain
from rlbench.types import ConfigError

MINE = """
# Mine
defaults:
- grpo
- _self_

extra: 3 # more of it
"""


def write(root: Path, files: dict[str, str]) -> Path:
    """A folder with files, by their relative paths."""
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def package(root: Path, name: str, options: dict[str, str], code: str = "") -> None:
    """A package with these options, as pip leaves it in a folder of the path."""
    write(root / name, {"__init__.py": code, "conf/__init__.py": ""} | {f"conf/{o}": y for o, y in options.items()})
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"
    entry = f"[rlbench.conf]\n{name} = {name}.conf\n"
    write(root / f"{name}-1.0.dist-info", {"METADATA": metadata, "entry_points.txt": entry})


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A folder of the path, for packages. What is found in a test is forgotten after it."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.setattr(sys, "path", [*sys.path, str(folder)])
    importlib.invalidate_caches()
    yield folder
    PLACES.clear()


def composed(*words):
    with initialize_config_module("rlbench.conf", version_base="1.3"):
        return compose("config", list(words), return_hydra_config=True)


def test_the_built_in_options_are_found_by_an_entry_point_like_all_others(site):
    package(site, "fresh", {"algo/fresh.yaml": MINE})
    find_plugins([])
    sources = composed("algo=fresh").hydra.runtime.config_sources
    assert [source.provider for source in sources] == ["hydra", "rlbench", "fresh", "schema"]
    assert [source.schema for source in sources] == ["pkg", "options", "options", "structured"]


def test_a_packages_option_may_extend_a_built_in_one(site):
    package(site, "extending", {"algo/extending.yaml": MINE})
    find_plugins([])
    algo = composed("algo=extending").algo
    assert algo.extra == 3 and algo == {**composed("algo=grpo").algo, "extra": 3}


def test_a_package_may_bring_options_of_any_group_and_groups_of_its_own(site):
    groups = ["model", "runner", "tracker", "optimizer", "tokenizer", "warmth"]
    options = {f"{group}/theirs.yaml": "mark: 1\n" for group in groups}
    options["experiment/theirs.yaml"] = "# @package _global_\nsteps: 77\n"
    package(site, "broad", options)
    find_plugins([])
    config = composed(*(f"{group}=theirs" for group in groups[:-1]), "experiment=theirs", "+warmth=theirs")
    assert [config[group].mark for group in groups] == [1] * len(groups) and config.steps == 77


@pytest.mark.parametrize("chosen", ["algo=grpo", "algo=child"])
def test_an_option_that_two_places_offer_is_refused_where_it_is_used(site, chosen):
    package(site, "rival", {"algo/grpo.yaml": MINE, "algo/child.yaml": MINE, "algo/other.yaml": "a: 1\n"})
    find_plugins([])
    with pytest.raises(ConfigError) as refused:
        composed(chosen)
    assert str(refused.value) == "algo=grpo: offered by rival and by rlbench; rename or remove one"
    assert composed("algo=other").algo.a == 1
    with initialize_config_module("rlbench.conf", version_base="1.3"):
        assert "grpo" in GlobalHydra.instance().config_loader().get_group_options("algo"), "listing needs no meaning"


def test_a_folder_that_is_given_and_installed_too_is_one_place(site):
    package(site, "edited", {"algo/edited.yaml": MINE})
    find_plugins(["--config-dir", str(site / "edited/conf")])
    assert composed("algo=edited").algo.extra == 3


BROKEN = [
    ("raise ValueError('not\\ntoday')", "ValueError: not today"),
    ("import a_library_that_is_not_there", "ModuleNotFoundError: No module named 'a_library_that_is_not_there'"),
]


@pytest.mark.parametrize(("code", "reason"), BROKEN, ids=["raises", "lacks a library"])
def test_a_package_that_cannot_be_imported_is_left_out_and_named(site, capsys, code, reason):
    package(site, "broken", {"algo/broken.yaml": MINE}, code)
    package(site, "whole", {"algo/whole.yaml": MINE})
    find_plugins([])
    assert capsys.readouterr().err == f"rlbench: the plugin broken is left out: broken.conf: {reason}\n"
    assert composed("algo=whole").algo.extra == 3


def test_an_entry_point_that_names_no_package_is_left_out_and_named(site, capsys):
    package(site, "empty", {})
    write(site / "empty-1.0.dist-info", {"entry_points.txt": "[rlbench.conf]\nempty = empty.nowhere\n"})
    find_plugins([])
    said = capsys.readouterr().err
    assert said == "rlbench: the plugin empty is left out: empty.nowhere: ImportError: no such package\n"


WAYS = [["--config-dir", "{}"], ["--config-dir={}"], ["-cd", "{}"], ["-cd={}"]]


@pytest.mark.parametrize("way", WAYS, ids=" ".join)
@pytest.mark.parametrize("relative", [True, False])
def test_the_folder_above_a_config_dir_is_importable(site, tmp_path, monkeypatch, way, relative):
    name = f"given_{WAYS.index(way)}_{relative}"
    write(tmp_path / name, {f"{name}.py": "here = 1\n", f"conf/algo/{name}.yaml": MINE, "elsewhere/x": ""})
    monkeypatch.chdir(tmp_path / name / "elsewhere")
    conf = "../conf" if relative else str(tmp_path / name / "conf")
    find_plugins(["seed=1", *(word.format(conf) for word in way), f"algo={name}"])
    config = composed(f"algo={name}")
    assert config.algo.extra == 3 and get_object(f"{name}.here") == 1
    assert config_dirs(config) == [str(tmp_path / name / "conf")]


def test_each_of_several_config_dirs_counts(site, tmp_path):
    for name in ("one", "two"):
        write(tmp_path, {f"{name}/conf/algo/{name}.yaml": MINE})
    find_plugins([f"--config-dir={tmp_path}/one/conf", "-cd", f"{tmp_path}/two/conf"])
    assert composed("algo=one").algo == composed("algo=two").algo
    assert {str(tmp_path / "one"), str(tmp_path / "two")}.issubset(sys.path)


@pytest.mark.parametrize("words", [["--config-dir", "nowhere"], ["-cd=nowhere"], ["--config-dir="], ["-cd"]])
def test_a_config_dir_that_is_not_there_is_refused(site, words):
    with pytest.raises(ConfigError, match=r"^--config-dir=(nowhere)?: no such folder$"):
        find_plugins(words)


def test_a_file_of_ones_own_goes_before_what_is_installed_and_after_the_standard_library(site, tmp_path, monkeypatch):
    monkeypatch.setattr("site.getsitepackages", lambda: [str(site)])
    write(site, {"tried_before.py": "age = 'old'\n"})
    write(tmp_path / "mine", {"conf/x": "", "tried_before.py": "age = 'new'\n", "tabnanny.py": "age = 'mine'\n"})
    find_plugins(["--config-dir", str(tmp_path / "mine/conf")])
    assert importlib.import_module("tried_before").age == "new"
    assert not hasattr(importlib.import_module("tabnanny"), "age")


def test_a_mistake_is_told_what_is_near_in_a_plugin(site):
    package(site, "knowing", {"algo/knowing.yaml": MINE})
    find_plugins([])
    assert "algo.extra" in known_keys(["algo=knowing", "steps=3", f"cache={'x' * 999}"])
    assert "algo.extra" not in known_keys(["algo=ppo"])
    with pytest.raises(Exception, match="knowin") as missing:
        composed("algo=knowin")
    assert explain(missing.value, []) == "algo=knowin: no such option; nearest: knowing"


def test_help_lists_what_plugins_offer_and_whose_it_is(site, tmp_path, capsys):
    package(site, "listed", {"algo/listed.yaml": MINE, "warmth/high.yaml": "# Hot\ndegrees: 9\n"})
    write(tmp_path, {"conf/task/given.yaml": "# @package task\n# Given\na: 1 # one\n"})
    find_plugins(["--config-dir", str(tmp_path / "conf")])
    print_help(["algo=listed", "task=given"])
    shown = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert {"* listed Mine [listed]", f"* given Given [{tmp_path}/conf]", "warmth", "high Hot [listed]"}.issubset(shown)
    assert {"algo.extra 3 more of it", "task.a 1 one", "algo.group_size 8 attempts at each problem"}.issubset(shown)


def test_commands_that_repeat_give_the_folder_again(site, tmp_path):
    """A job's, a sweep's, and that of a comparison, which reads what Hydra leaves in a run's folder."""
    conf = write(tmp_path / "it's mine/conf", {"algo/repeated.yaml": MINE})
    find_plugins(["--config-dir", str(conf)])
    config = composed("algo=repeated", "hydra.sweep.dir=there", "hydra.mode=RUN")
    flag = shlex.quote(f"--config-dir={conf}")
    assert repeats(["algo=repeated"], config) == f"rlbench {flag} algo=repeated"
    assert completes(config) == f"rlbench -m {flag} algo=repeated hydra.sweep.dir=there"
    left = {".hydra/overrides.yaml": "[algo=repeated]", ".hydra/hydra.yaml": OmegaConf.to_yaml({"hydra": config.hydra})}
    assert origin(write(tmp_path / "run", left))[0] == [f"--config-dir={conf}", "algo=repeated"]
    write(tmp_path / "run", {".hydra/hydra.yaml": "hydra: {}"})
    with pytest.raises(Unreadable, match=r"hydra\.yaml: no hydra\.runtime"):
        origin(tmp_path / "run")


def test_the_words_that_compose_a_config_again_name_its_folders_and_itself():
    def composed_of(name: str) -> dict:
        sources = [{"path": "/a b", "provider": "--config-dir"}, {"path": "/c", "provider": "rlbench"}]
        return {"hydra": {"job": {"config_name": name}, "runtime": {"config_sources": sources}}}

    assert flags(composed_of("config")) == ["--config-dir=/a b"]
    assert flags(composed_of("own")) == ["--config-dir=/a b", "--config-name=own"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a: 1\n\tb: 2\n", ":2: found character '\\t' that cannot start any token"),
        ("a: 1: 2\n", ":1: mapping values are not allowed here"),
        ("a: {1\n", r":2: expected ',' or '}', but got '<stream end>'"),
        ("? [a, b]\n: 1\n", ":1: found unhashable key"),
        ("a: 1\na: 2\n", ":2: found duplicate key a"),
        (b"# gr\xfc\n", ": 'utf-8' codec can't decode byte 0xfc in position 4"),
    ],
)
def test_a_file_that_is_no_yaml_is_named_with_its_line(site, tmp_path, text, reason):
    file = write(tmp_path, {"conf/algo/mine.yaml": ""}) / "conf/algo/mine.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    find_plugins(["--config-dir", str(tmp_path / "conf")])
    with pytest.raises(ConfigError) as raised:
        composed("algo=mine")
    assert str(raised.value).startswith(f"algo=mine: {file}{reason}")


@pytest.mark.parametrize(
    ("text", "word", "line"),
    [
        ("", "algo.group_size={8", r"algo.group_size={8: no key=value that can be read; .*quotes.*"),
        ("", "steps==3", "steps==3: no key=value that can be read; .*"),
        ("", "steps", "steps: no key=value that can be read; .*"),
        ("", "+algo=3", "Config group override must be a string or a list. Got int"),
        ("", "tracker=[nowhere]", "tracker=nowhere: no such option.*"),
        ("defaults: [grpoo]", "steps=3", "algo=grpoo: no such option; nearest: grpo.*"),
        ("defaults: grpo", "steps=3", "Invalid defaults list in 'algo/mine', defaults must be a list .*"),
    ],
)
def test_what_hydra_refuses_is_one_line_that_names_the_word(site, tmp_path, text, word, line):
    write(tmp_path, {"conf/algo/mine.yaml": text})
    find_plugins(["--config-dir", str(tmp_path / "conf")])
    with pytest.raises((HydraException, ValueError)) as raised:
        composed("algo=mine", word)
    assert is_one_line(raised.value)
    assert re.fullmatch(line, " ".join(explain(raised.value, ["algo=mine", word]).split()))


def test_an_interpolation_of_nothing_names_its_key():
    with pytest.raises(OmegaConfBaseException) as raised:
        plain(OmegaConf.create({"algo": {"a": "${nowhere}"}}))
    assert explain(raised.value, []) == "Interpolation key 'nowhere' not found, for algo.a"


def test_an_error_of_ours_keeps_its_traceback():
    with pytest.raises(ValueError, match="invalid literal") as raised:
        int("a")
    assert not is_one_line(raised.value)
