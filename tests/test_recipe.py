"""The user's own choices: what fits nothing is an error."""

from __future__ import annotations

from pathlib import Path

import pytest
from pass_helpers import program

from qcompiler import Recipe, ir
from qcompiler.errors import RecipeError
from qcompiler.recipe import load_recipe


def graph() -> ir.Graph:
    made = program("(float[2] x) => (float[2] y) { a = Relu(x) b = Tanh(a) y = Relu(b) }")
    for node, name in zip(made.nodes, ("body/relu", "body/tanh", "head/relu")):
        node.name = name
    return made


@pytest.mark.parametrize(
    "pattern, names",
    [
        ("body/tanh", {"body/tanh"}),
        ("body/*", {"body/relu", "body/tanh"}),
        ("op:Relu", {"body/relu", "head/relu"}),
        ("*/rel?", {"body/relu", "head/relu"}),
    ],
)
def test_patterns(pattern: str, names: set[str]) -> None:
    kept = Recipe(keep_float=(pattern,)).kept(graph())
    assert set(kept) == names and all(f"'{pattern}'" in reason for reason in kept.values())


def test_names_with_brackets_are_names_first() -> None:
    made = graph()
    made.nodes[0].name = "layer[0]"
    assert set(Recipe(keep_float=("layer[0]",)).kept(made)) == {"layer[0]"}


@pytest.mark.parametrize(
    "pattern, hint",
    [("body/tnah", "did you mean body/tanh?"), ("op:Rleu", "did you mean Relu?"), ("qqq", "qcompiler inspect")],
)
def test_patterns_that_fit_nothing(pattern: str, hint: str) -> None:
    with pytest.raises(RecipeError) as caught:
        Recipe(keep_float=(pattern,)).kept(graph())
    assert f"'{pattern}'" in str(caught.value) and hint in str(caught.value)


def test_sources(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text('keep_float = ["a", "op:Conv"]\nobserver = "entropy"\n')
    wanted = Recipe(("a", "op:Conv"), "entropy")
    assert load_recipe(path) == load_recipe(str(path)) == load_recipe(wanted) == wanted
    assert load_recipe({"keep_float": ["a", "op:Conv"], "observer": "entropy"}) == wanted
    assert load_recipe(None) == Recipe()


@pytest.mark.parametrize(
    "text, words",
    [
        ("keep_flaot = []", ("unknown key 'keep_flaot'", "did you mean keep_float?")),
        ("keep_float = 'a'", ("not a list of names", "keep_float = [")),
        ("keep_float = [1]", ("not a list of names",)),
        ("keep_float = [", ("is not TOML",)),
        ("\xff", ("is not TOML",)),
    ],
)
def test_files_that_cannot_be_used(tmp_path: Path, text: str, words: tuple[str, ...]) -> None:
    path = tmp_path / "recipe.toml"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    assert str(path) in str(caught.value) and all(word in str(caught.value) for word in words), caught.value


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="cannot be read"):
        load_recipe(tmp_path / "gone.toml")


# --- observers of single tensors ---


def test_the_first_pattern_that_fits_a_tensor_counts() -> None:
    recipe = load_recipe({"observers": {"a": "minmax", "[ab]": "percentile"}})
    assert recipe.observers_of(graph()) == {"a": "minmax", "b": "percentile"}


@pytest.mark.parametrize(
    "observers, words",
    [
        ({"aa": "minmax"}, ("no tensor fits 'aa'", "did you mean a?")),
        ({"a": "minmx"}, ("there is no observer 'minmx'", "did you mean minmax?")),
        ({"a": 3}, ("there is no observer '3'",)),
    ],
)
def test_observers_that_cannot_be_used(observers: dict[str, object], words: tuple[str, ...]) -> None:
    with pytest.raises(RecipeError) as error:
        load_recipe({"observers": observers}).observers_of(graph())
    assert all(word in str(error.value) for word in words)


def test_observers_are_a_table() -> None:
    with pytest.raises(RecipeError, match="'observers' is no table"):
        load_recipe({"observers": "minmax"})
