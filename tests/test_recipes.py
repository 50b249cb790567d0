"""Recipes: files that configurations start from, here and of one's own."""

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinyres as tr
from tinyres import recipes, train


def test_the_default_recipe_is_the_default():
    assert train.Config(**recipes.find("default").settings()) == train.Config()


@pytest.mark.parametrize("name", recipes.names())
def test_every_recipe_is_a_configuration_and_says_what_it_is(name):
    recipe = recipes.find(name)
    assert recipe.name == name
    assert 20 < len(recipe.summary) < 200
    given = {"data": "pictures", "weights": "a.safetensors"} if recipe.config.get("dataset") == "folder" else {}
    for model in (None, *recipe.models):
        train.Config(**recipe.settings(model) | given)


def test_the_recipe_of_the_paper_takes_64_000_steps():
    """Section 4.2: batches of 128 of 45,000 images, divided by 10 at 32,000 and 48,000."""
    config = train.Config(**recipes.find("paper").settings())
    total = config.epochs * -(-45_000 // config.batch_size)
    assert 64_000 <= total < 64_000 + 352
    rate = train.SCHEDULES[config.schedule](config, total)
    assert rate(0) == 0.1
    assert (rate(total // 2 - 1), rate(total // 2)) == (0.1, pytest.approx(0.01))
    assert rate(total * 3 // 4) == pytest.approx(0.001)
    deep = train.Config(**recipes.find("paper").settings("resnet110"))
    assert deep.model == "resnet110"
    assert train.SCHEDULES[deep.schedule](deep, total)(0) < 0.001
    assert train.SCHEDULES[deep.schedule](deep, total)(500) == 0.1


@given(
    epochs=st.integers(1, 99), lr=st.floats(1e-6, 10), flip=st.booleans(), cutout=st.integers(0, 16),
    clip_norm=st.none() | st.floats(0.1, 9), optimizer=st.sampled_from(["sgd", "adamw"]),
)  # fmt: skip
def test_a_runs_own_configuration_can_be_given_back(tmp_path_factory, **values):
    config = train.Config(**values)
    path = tmp_path_factory.mktemp("run") / "config.json"
    path.write_text(json.dumps(dataclasses.asdict(config)))
    assert train.Config(**recipes.read(path).settings()) == config
    toml = path.with_suffix(".toml")
    written = {name: value for name, value in values.items() if value is not None}
    toml.write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in written.items()))
    assert train.Config(**recipes.read(toml).settings()) == config


def test_settings_of_a_model_come_before_those_of_all(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(
        'summary = "x"\n[config]\nmodel = "resnet20"\nlr = 0.3\n[models.resnet32]\nlr = 0.2\nwarmup = 0.5\n'
    )
    mine = tr.recipes.read(path)
    assert mine.settings() == {"model": "resnet20", "lr": 0.3}
    assert mine.settings("resnet32") == {"model": "resnet32", "lr": 0.2, "warmup": 0.5}
    assert mine.settings("resnet44") == {"model": "resnet44", "lr": 0.3}


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("a.toml", "lr = ", "a.toml: expected TOML, or JSON in a file that ends in .json (Invalid value"),
        ("a.json", "{", "a.json: expected JSON (Expecting property name"),
        ("a.json", "[1, 2]", "a.json: got a list, expected settings by name"),
        ("a.toml", "epoch = 3", "a.toml: epoch: not a field of a configuration; did you mean epochs?"),
        (
            "a.toml",
            "[config]\n[model.resnet20]\n",
            "model: not a part of a recipe; expected summary, evidence, config, ",
        ),
        ("a.toml", "[models.resnet20]\nlrr = 3", "a.toml: lrr: not a field of a configuration; did you mean lr?"),
        ("a.toml", "config = 3", "a.toml: config: got 3, expected a dict"),
        ("a.toml", "[config]\n[models]\nresnet20 = 3", "a.toml: resnet20: got 3, expected settings by name"),
        (
            "a.toml",
            "[config]\n[models.resnet20]\nlrr = 3",
            "a.toml: lrr: not a field of a configuration; did you mean lr?",
        ),
    ],
)
def test_what_is_no_recipe_is_refused_in_words(tmp_path, file, content, message):
    (tmp_path / file).write_text(content)
    with pytest.raises(ValueError, match=r"expected|not a field") as caught:
        recipes.read(tmp_path / file)
    assert message in str(caught.value)


def test_a_part_of_a_recipe_is_enough(tmp_path):
    (tmp_path / "a.toml").write_text('summary = "mine"\n[models.resnet32]\nlr = 0.2\n')
    mine = recipes.read(tmp_path / "a.toml")
    assert (mine.summary, mine.settings(), mine.settings("resnet32")) == ("mine", {}, {"model": "resnet32", "lr": 0.2})


def test_a_model_that_is_no_name_is_left_for_the_configuration_to_refuse(tmp_path):
    (tmp_path / "a.json").write_text('{"model": ["resnet20"]}')
    settings = recipes.read(tmp_path / "a.json").settings()
    with pytest.raises(ValueError, match=r"model: got .*resnet20.*, expected str"):
        train.Config(**settings)


def test_bytes_that_are_no_text_are_refused_in_words(tmp_path):
    (tmp_path / "a.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=r"a\.toml: expected TOML"):
        recipes.read(tmp_path / "a.toml")
