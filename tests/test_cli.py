"""The command line: settings from words and files, rewards by name, and what a command imports."""

import subprocess
import sys

import pytest

from mocapfree_nb.cli.adapting import _grid
from mocapfree_nb.cli.common import find_function
from mocapfree_nb.cli.settings import parse_pair, read_settings
from mocapfree_nb.files import UserError


def test_settings_come_from_a_file_then_words_then_iterations(tmp_path):
    (tmp_path / "a.toml").write_text("learning_rate = 1\nweigh_timesteps = false\niterations = 3\n")
    (tmp_path / "a.json").write_text('{"learning_rate": 0.5, "objective": "score"}')
    found = read_settings("ddpo", ["learning_rate=3e-4"], tmp_path / "a.toml")
    assert found == {"learning_rate": 3e-4, "weigh_timesteps": False, "iterations": 3}
    assert read_settings("ddpo", ["weigh_timesteps=TRUE"], tmp_path / "a.toml", 9)["iterations"] == 9
    assert read_settings("ddpo", None, tmp_path / "a.json") == {"learning_rate": 0.5, "objective": "score"}
    assert read_settings("ddpo", None) == {} and read_settings("exploration", None, None, 2) == {"rounds": 2}
    assert isinstance(read_settings("ddpo", None, tmp_path / "a.toml")["learning_rate"], float)


@pytest.mark.parametrize("pair, words", [
    ("learning_rte=1", "did you mean 'learning_rate'"), ("iterations=many", "iterations is a whole number"),
    ("iterations=1.5", "a whole number"), ("weigh_timesteps=2", "true or false"), ("learning_rate=fast", "is a number"),
    ("learning_rate", "KEY=VALUE"), ("learning_rate=", "KEY=VALUE"), ("=1", "no setting ''"),
    ("kl_weight=1,2", "mocapfree sweep"), ("qqqq=1", "there are iterations"),
])  # fmt: skip
def test_a_setting_that_is_none_is_one_line(pair, words):
    with pytest.raises(UserError, match="--set") as found:
        read_settings("ddpo", [pair])
    assert words in str(found.value) and "\n" not in str(found.value)


@pytest.mark.parametrize("name, text, words", [
    ("a.toml", "iterations = 'x'", "a whole number"), ("a.toml", "iterations = true", "a whole number"),
    ("a.toml", "= 1", "not TOML"),
    ("a.json", '{"learning_rte": 1}', "did you mean"), ("a.json", '{"weigh_timesteps": 1}', "true or false"),
    ("a.json", '{"learning_rate": null}', "a number"), ("a.json", "{", "a.json"),
])  # fmt: skip
def test_a_file_of_settings_that_holds_something_else_is_named(name, text, words, tmp_path):
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=name) as found:
        read_settings("ddpo", None, tmp_path / name)
    assert words in str(found.value)


def test_several_values_make_all_combinations():
    assert parse_pair("lora_rank=0,8", "ddpo") == ("lora_rank", [0, 8])
    assert _grid(["lora_rank=0,8", "kl_weight=0.5"]) == {
        "lora_rank=0 kl_weight=0.5": {"lora_rank": 0, "kl_weight": 0.5},
        "lora_rank=8 kl_weight=0.5": {"lora_rank": 8, "kl_weight": 0.5},
    }  # fmt: skip


def test_a_function_is_found_by_name_in_the_folder_one_is_in(tmp_path, monkeypatch):
    code = "def high(motion, lengths, prompts):\n    return motion[:, :, 3].mean(1)\nseven = 7\n"
    (tmp_path / "my_rewards_in_a_test.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert find_function("--reward", "my_rewards_in_a_test:high").__name__ == "high"
    for name, words in (("high", "MODULE:FUNCTION"), ("my_rewards_in_a_test:low", "low"), ("nowhere_at_all:f", "nowhere_at_all"),
                        ("my_rewards_in_a_test:seven", "not a function")):  # fmt: skip
        with pytest.raises(UserError, match="--reward") as found:
            find_function("--reward", name)
        assert words in str(found.value)
    (tmp_path / "broken_rewards_of_a_test.py").write_text("x = 1\nhigh = undefined\n")
    with pytest.raises(UserError, match=r"--reward broken_rewards_of_a_test: NameError: .*broken_rewards_of_a_test.py, line 2"):
        find_function("--reward", "broken_rewards_of_a_test:high")


def imported(code: str) -> set[str]:
    command = [sys.executable, "-c", f"{code}\nimport sys; print(*sys.modules)"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_help_imports_nothing_that_computes_and_generate_no_more_than_it_uses():
    help_ = imported("import typer, mocapfree_nb.cli as cli; typer.main.get_command(cli.app)")
    assert "typer" in help_ and not help_ & {"torch", "numpy", "scipy", "transformers", "matplotlib", "mocapfree_nb.experiment"}
    made = imported("import mocapfree_nb.generation")
    assert "torch" in made and not made & {
        "matplotlib", "plotly", "anywidget", "IPython", "transformers", "accelerate", "mocapfree_nb.ddpo",
        "mocapfree_nb.experiment",
        "mocapfree_nb.models.latent", "mocapfree_nb.models.unet", "mocapfree_nb.models.mdm", "mocapfree_nb.published.checkpoints",
    }  # fmt: skip
