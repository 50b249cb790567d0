"""The command that classifies pictures: any picture, folders of them, and what is damaged."""

import json
import re

import numpy as np
import pytest
from PIL import Image
from support.commands import bad, good, tinyres

import tinyres as tr
from tinyres import checkpoints

pytestmark = pytest.mark.usefixtures("small_world")


@pytest.mark.parametrize(
    ("name", "mode", "size"),
    [
        ("a.png", "RGB", (16, 16)),
        ("a.jpg", "RGB", (40, 30)),
        ("a.png", "RGBA", (20, 50)),
        ("a.png", "L", (7, 9)),
        ("a.png", "1", (8, 8)),
        ("a.png", "P", (16, 20)),
        ("a.png", "LA", (16, 20)),
        ("a.png", "I;16", (16, 20)),
        ("a.jpg", "CMYK", (16, 20)),
        ("a.png", "RGB", (1, 1)),
        ("a.png", "RGB", (3000, 2)),
        ("a.png", "RGB", (1, 2000)),
    ],
)
def test_predict_takes_any_picture(run, tmp_path, name, mode, size):
    Image.new(mode, size).save(tmp_path / name)
    text = good("predict", run / "best.safetensors", tmp_path / name, "--top", "1")
    assert any(kind[:4] in text for kind in tr.data.SHAPES_CLASSES)
    assert "%" in text


def test_predict_agrees_with_the_network(run, tmp_path):
    images, _ = tr.data.shapes(3, "test", size=16)
    model, info = checkpoints.load_model(run / "best.safetensors")
    paths = [tmp_path / f"{i}.png" for i in range(3)]
    for path, image in zip(paths, images, strict=True):
        Image.fromarray(image.transpose(1, 2, 0)).save(path)
        np.testing.assert_array_equal(tr.data.read_picture(path, 16), image)
    x = (images.astype(np.float32) / 255 - np.array(info["mean"])[:, None, None]) / np.array(info["std"])[:, None, None]
    p = tr.ops.softmax(model(tr.Tensor(x.astype(np.float32)))).data
    text = good("predict", run / "best.safetensors", *(f"{i}.png" for i in range(3)), "--top", "1")
    for i in range(3):
        best = int(p[i].argmax())
        assert re.search(rf"{i}\.png +│ {tr.data.SHAPES_CLASSES[best]} {p[i, best]:.1%}", text)


def test_predict_sees_pictures_as_a_trainer_saw_its_images(tmp_path):
    images, labels = tr.data.shapes(40, size=16)
    picture = Image.fromarray(images[0].transpose(1, 2, 0))
    picture.save(tmp_path / "colour.png")
    for channels, name in ((3, "colour"), (1, "grey")):
        grey = np.stack([np.asarray(Image.fromarray(i.transpose(1, 2, 0)).convert("L")) for i in images])
        seen = images if channels == 3 else grey
        trainer = tr.Trainer("tiny", epochs=1, lr=0.05, verbose=False)
        trainer.fit(seen, labels)
        trainer.save(tmp_path / f"{name}.safetensors")
        (row,) = json.loads(good("predict", tmp_path / f"{name}.safetensors", "colour.png", "--json"))
        best = int(trainer.predict_proba(seen[:1])[0].argmax())
        assert row["top"][0]["class"] == str(trainer.classes[best])
        # folded, in float32
        assert row["top"][0]["probability"] == pytest.approx(trainer.predict_proba(seen[:1])[0, best], rel=1e-4)
        good("export", tmp_path / f"{name}.safetensors", "--safetensors", tmp_path / "weights.safetensors")
    trainer = tr.Trainer("tiny", epochs=1, verbose=False)
    trainer.fit(images / 255, labels)
    trainer.save(tmp_path / "floats.safetensors")
    message = bad("predict", tmp_path / "floats.safetensors", tmp_path / "colour.png")
    assert "the network was trained on floats, so it cannot classify pictures" in message
    assert "these images were given to a tr.Trainer in Python" in bad("eval", tmp_path / "colour.safetensors")


def test_predict_folders_and_json(run, tmp_path):
    """Pictures of a folder are found, in order, each once, and say what they say alone."""
    folder = tmp_path / "some [of] them"
    (folder / "more").mkdir(parents=True)
    images, _ = tr.data.shapes(3, "test", size=16)
    paths = [folder / "a.png", folder / "more" / "b.PNG", folder / "z.png"]
    for path, image in zip(paths, images, strict=True):
        Image.fromarray(image.transpose(1, 2, 0)).save(path)
    (folder / "notes.txt").write_text("no picture")
    weights = run / "best.safetensors"
    found = json.loads(good("predict", weights, folder, paths[0], "--json", "--top", "2"))
    assert [entry["image"] for entry in found] == [str(path) for path in paths]
    assert all(len(entry["top"]) == 2 for entry in found)
    for path, entry in zip(paths, found, strict=True):
        (alone,) = json.loads(good("predict", weights, path, "--json", "--top", "99"))
        assert [top["class"] for top in alone["top"][:2]] == [top["class"] for top in entry["top"]]
        assert {top["class"] for top in alone["top"]} == set(tr.data.SHAPES_CLASSES)
        assert sum(top["probability"] for top in alone["top"]) == pytest.approx(1)
        np.testing.assert_allclose(
            [top["probability"] for top in alone["top"][:2]],
            [top["probability"] for top in entry["top"]],
            rtol=1e-5,  # sums of another batch
        )


def test_predict_a_folder_in_parts(run, tmp_path, monkeypatch):
    """What is read together does not matter."""
    for i, image in enumerate(tr.data.shapes(5, "test", size=16)[0]):
        Image.fromarray(image.transpose(1, 2, 0)).save(tmp_path / f"{i}.png")
    whole = good("predict", run / "best.safetensors", tmp_path)
    monkeypatch.setattr("tinyres.cli.predict.BATCH", 2)
    assert good("predict", run / "best.safetensors", tmp_path) == whole


def test_predict_passes_over_what_a_folder_has_damaged(run, tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    assert "no pictures in this folder" in bad("predict", run / "best.safetensors", folder)
    (folder / "bad.png").write_bytes(b"no picture")
    assert "none of the 1 pictures can be read" in bad("predict", run / "best.safetensors", folder)
    Image.new("RGB", (16, 16)).save(folder / "good.png")
    result = tinyres("predict", run / "best.safetensors", folder, "--json")
    assert result.exit_code == 0
    assert [entry["image"] for entry in json.loads(result.stdout)] == [str(folder / "good.png")]
    assert result.stderr.startswith(f"Passed over: {folder / 'bad.png'}: not an image")
    assert "bad.png: not an image" in bad("predict", run / "best.safetensors", folder, folder / "bad.png")
