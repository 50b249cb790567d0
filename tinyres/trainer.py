"""`Trainer`: training on arrays or on your own batches, with methods as in Keras. The loop is the command line's."""

import contextlib
import dataclasses
import reprlib
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tinyres import checkpoints, data, models, recipes
from tinyres.callback import Callback, Logs, Training
from tinyres.data import Batches, Loader, Pictures
from tinyres.data.labelled import Labels, as_images, statistics
from tinyres.evaluation import BATCH, Scores
from tinyres.loop import Interrupted, Loss
from tinyres.lr_find import Found, lr_find
from tinyres.nn import Module
from tinyres.parallel.world import world
from tinyres.progress import ProgressBar
from tinyres.recipe import Config
from tinyres.runs import config_to_resume, has_begun, holds_run, read_progress
from tinyres.spelling import did_you_mean
from tinyres.start import create, freeze, load_weights, normalisation_for, whiten
from tinyres.tape import Array, no_grad
from tinyres.tensor import Tensor
from tinyres.train import Given, Run

GENTLE = {"lr": 0.1, "pad": 0, "flip": False}
"""Other defaults than in `Config`, whose defaults are for CIFAR-10: for example, letters must not be mirrored."""
NOT_HERE = ("dataset", "data", "image_size", "num_classes", "model", "validation", "subset")
"""Fields of a `Config` that describe the data. `fit` gets the data itself, so these cannot be set."""
OF_THE_FAMILY = ("stem", "shortcut", "zero_init_residual", "weights", "freeze")
"""Fields that say how a network is made by name. They cannot be set for a network that already exists."""
OF_BATCHES = ("batch_size", "pad", "flip", "alternate_flip", "cutout", "mixup", "cutmix")
"""Fields that say how batches are made from arrays."""

Validation = float | tuple[Any, Any] | Iterable[Any] | None


class Trainer:
    """Trains a network to classify images, given as arrays or as your own batches.

    Parameters
    ----------
    model : str or Module
        A model's name, e.g. "resnet20"; `fit` then makes it for the given images and classes. Or your own network,
        which maps images (B, C, H, W) to logits (B, K).
    recipe : str or Config, optional
        A `Config`, or the name of a recipe (see `tinyres.recipes.names`), whose settings are used. By default, the
        settings are the defaults of `Config`, with the exceptions below.
    callbacks : Callback or sequence of them
    loss : callable, optional
        ``loss(logits, labels)`` takes a Tensor (B, K) and an array, and returns the loss of each image, a Tensor (B,).
        It replaces the cross entropy in training.
    transform : callable, optional
        A random change of each training image, see `tinyres.data.Loader`.
    folder : str or Path, optional
        Folder in which the run is saved, as with the command line, so that it can be resumed: see ``resume`` of `fit`.
        By default nothing is saved.
    verbose : bool
        Whether to show a progress bar, on a terminal or in a notebook, and a line for each epoch.
    **settings
        Fields of `Config`, such as ``epochs=10``, ``batch_size=128``, ``lr=0.1``, ``schedule="cosine"``,
        ``label_smoothing=0.1``, ``ema=0.99``, ``mixup=0.2``, ``seed=0``. Without a recipe, three defaults differ from
        those of `Config`: ``lr=0.1``, ``pad=0`` and ``flip=False``, so images are neither moved nor mirrored.

    Attributes
    ----------
    model : Module or str
        The network, or its name before `fit`.
    classes : list
        After `fit`, the labels of the classes, in the order of class numbers, as they were given.
    history : list of dict
        The records of the epochs of the last `fit`.
    run : tinyres.train.Run
        The run of the last `fit`.

    Raises
    ------
    TypeError
        If there is no such setting.
    ValueError
        If a setting is not valid, or would have no effect, such as an option for making a network when a Module is
        given.

    Examples
    --------
    >>> import tinyres as tr
    >>> images, labels = tr.data.shapes(300, size=16)
    >>> trainer = tr.Trainer("resnet20", epochs=2, batch_size=50, lr=0.1, verbose=False)
    >>> history = trainer.fit(images, [tr.data.SHAPES_CLASSES[label] for label in labels], validation=0.1)
    >>> [sorted(record)[:2] for record in history]
    [['epoch', 'lr'], ['epoch', 'lr']]
    >>> trainer.predict(images[:2]).shape, trainer.predict_proba(images[:2]).shape
    ((2,), (2, 10))
    """

    def __init__(
        self,
        model: str | Module = "resnet20",
        recipe: str | Config | None = None,
        *,
        callbacks: Callback | Sequence[Callback] = (),
        loss: Loss | None = None,
        transform: data.Transform | None = None,
        folder: str | Path | None = None,
        verbose: bool = True,
        **settings: Any,
    ) -> None:
        if isinstance(model, str):
            models.check_name(model)
        elif not isinstance(model, Module):
            raise TypeError(f"model: got a {type(model).__name__}, expected a name of the family or a Module")
        self.model, self.loss = model, loss
        self.callbacks = [callbacks] if isinstance(callbacks, Callback) else list(callbacks)
        self.transform, self.folder, self.verbose = transform, folder, verbose
        self.given = set(settings)
        self.agreed = set(settings)  # names of settings that must be equal in a run that is resumed
        self.config = self._configure(recipe, settings)
        if loss is not None and self.config.label_smoothing:
            smoothing = self.config.label_smoothing
            raise ValueError(f"label_smoothing: got {smoothing}, expected 0 with your own loss: do the smoothing in it")
        self.classes: list[Any] = []
        self.mean: Array | None = None
        self.std: Array | None = None
        self.history: list[Logs] = []
        self.run: Run | None = None
        self._info: dict[str, Any] = {}  # what a checkpoint has in addition to weights
        self._notes: list[str] = []  # messages for the user about how the network was made
        self._made: dict[str, Any] = {"name": "given", "options": {}}  # how the network can be made again

    def _configure(self, recipe: str | Config | None, settings: Mapping[str, Any]) -> Config:
        known = [field.name for field in dataclasses.fields(Config) if field.name not in NOT_HERE]
        for name in settings:
            if name not in known:
                raise TypeError(f"{name}: not a setting of a Trainer{did_you_mean(name, known)}; there are {known}")
            if name in OF_THE_FAMILY and isinstance(self.model, Module):
                raise ValueError(f"{name}: got a network, too, but this option needs the name of one, to make it")
        name = self.model if isinstance(self.model, str) else "given"
        if isinstance(recipe, Config):
            base = dataclasses.asdict(recipe)
        elif recipe is not None:
            base = recipes.find(recipe).settings(None if name == "given" else name)
        else:
            base = GENTLE
        base = {key: value for key, value in base.items() if key not in NOT_HERE}
        if recipe is not None:
            self.agreed |= base.keys()
        config = Config(**{**base, **settings, "dataset": "given", "model": name, "validation": 0})
        for callback in self.callbacks:
            if not isinstance(callback, Callback):
                raise TypeError(f"callbacks: got {callback!r}, expected instances of classes that derive from Callback")
            config = callback.configure(config)
        return config

    # ---------------------------------------------------------------- training
    def fit(
        self,
        x: Any,
        y: Any = None,
        *,
        validation: Validation = None,
        sample_weight: npt.ArrayLike | None = None,
        class_weight: Mapping[Any, float] | str | None = None,
        resume: bool = False,
    ) -> list[Logs]:
        """Train, starting with the current weights of the network.

        Parameters
        ----------
        x : array of shape (N, C, H, W) or (N, H, W), uint8 or float, or Pictures; or an iterable of batches
            Arrays of images, which are normalised by their own mean and standard deviation. Or batches ``(x, y)`` or
            ``(x, y, weight)`` that can be iterated over several times, see `tinyres.data.Batches`; or a
            `tinyres.data.Loader`. Batches are used without changes.
        y : array of shape (N,), of whole numbers or strings
            Labels. Leave it out with batches, which have their own.
        validation : float, (x, y) or iterable of batches, optional
            Images for validation after each epoch: the part of the images that is held out at random, such as 0.1; or
            other images. Validation computes the mean cross entropy and the accuracy, without weights and without your
            own `loss`.
        sample_weight : array of shape (N,), optional
            Weight of each image, 0 or more. The loss of a batch is the mean of weight times loss.
        class_weight : dict or "balanced", optional
            Weight of the images of each class, by label, as another factor. "balanced" is N / (K times the number of
            images of the class).
        resume : bool
            Continue the run in `folder`, on the same images. The result is equal to the last bit to that of a run
            without a stop. If there is no run in the folder, start one.

        Returns
        -------
        list of dict
            A record for each epoch, as callbacks get them.

        Raises
        ------
        ValueError
            If arrays do not fit each other or the network.
        FileExistsError
            If the folder has a run, and `resume` is not set.
        Diverged
            If the loss becomes NaN or infinite.
        KeyboardInterrupt
            After Ctrl-C. The current step has been finished and, with a folder, saved. The network has the weights
            after this step, or their average with ``ema``.
        """
        if resume and self.folder is None:
            raise ValueError("resume: got True, expected False without a folder: give one to the Trainer")
        with self._undone():
            if resume and holds_run(self.folder or ""):
                self.config = self._config_of_the_run()
            if _are_batches(x, y):
                if sample_weight is not None or class_weight is not None:
                    raise ValueError(
                        "sample_weight, class_weight: expected None with batches, which are (x, y, weight)"
                    )
                train = self._batches(x)
                held = None if validation is None else self._batches(validation, "validation")
            else:
                train, held = self._arrays(as_images(x), y, validation, (sample_weight, class_weight))
            began = resume and has_begun(self.folder or "")
            self._notes = []
            self.run = Run(self.config, self.folder, resume=resume, given=self._given(train, held, fresh=not began))
            self._train(self.run)
        return self.history

    def _train(self, run: Run) -> None:
        """Train to the end of the run, or until it stops, and keep its results."""
        own = any(isinstance(callback, ProgressBar) for callback in self.callbacks)
        bar = [ProgressBar()] if self.verbose and not own else []
        for note in self._notes + run.notes if bar else []:
            bar[0].print(note)
        try:
            run.train_to(run.total_steps, _Averaged(), *self.callbacks, *bar)
        except Interrupted:
            _Averaged().on_train_end(run)
            raise KeyboardInterrupt from None
        finally:
            run.disconnect()
            self.history, self.config = run.history, run.config
            self._info = run.description()
            self.mean, self.std = (np.array(run.info[key], np.float32) for key in ("mean", "std"))

    @contextlib.contextmanager
    def _undone(self) -> Iterator[None]:
        """If no step was done at the end of this block, restore the state from before it."""
        before = dict(vars(self))
        try:
            yield
        finally:
            if self.run is before["run"] or not (self.run and self.run.step):
                vars(self).update(before)

    def lr_find(self, x: Any, y: Any = None, **options: Any) -> Found:
        """Try learning rates on these images, see `tinyres.lr_find`. The network does not change.

        Examples
        --------
        >>> import tinyres as tr
        >>> images, labels = tr.data.shapes(100, size=16)
        >>> found = tr.Trainer("resnet20", batch_size=20).lr_find(images, labels, steps=20)
        >>> 1e-4 <= found.suggestion <= 10
        True
        """
        with self._undone():
            train = self._batches(x) if _are_batches(x, y) else self._arrays(as_images(x), y, None, (None, None))[0]
            run = Run(self.config, None, given=self._given(train, None, fresh=True))
            try:
                return lr_find(run, **options)
            finally:
                run.disconnect()

    # ---------------------------------------------------------------- predicting
    def logits(self, x: Any) -> Array:
        """The logits of images, float of shape (N, K). `x` is as for `fit`, or batches of only images.

        For batches, the order is that of the batches: a loader that shuffles has a different order each time.

        Raises
        ------
        RuntimeError
            Before `fit`.
        """
        model = self._fitted()
        training = model.training
        model.eval()
        try:
            with no_grad():
                found = [model(Tensor(batch)).data for batch in self._seen(x)]
        finally:
            model.train(training)
        if not found:
            raise ValueError("x: got no batches, expected at least one")
        return np.concatenate(found)

    def predict_proba(self, x: Any) -> Array:
        """The probability of each class, float64 of shape (N, K), in the order of `classes`."""
        logits = self.logits(x)
        return Scores(logits, np.zeros(len(logits), np.int64)).probabilities

    def predict(self, x: Any) -> Array:
        """The most probable label of each image, of shape (N,). Labels are as they were given to `fit`."""
        return Labels(self.classes).named(self.logits(x).argmax(1))

    def scores(self, x: Any, y: Any = None) -> Scores:
        """Confusion matrix, calibration and more, see `tinyres.evaluation.Scores`.

        For batches, the labels are those of the batches. If they are probabilities, the most probable class counts.

        Raises
        ------
        RuntimeError
            Before `fit`.
        ValueError
            If the number of labels is not that of images, or a label is not one of the classes.
        """
        self._fitted()
        if not _are_batches(x, y):
            images, numbers = as_images(x), Labels(self.classes).numbers(np.asarray(y))
            if len(numbers) != len(images):
                raise ValueError(f"y: got {len(numbers)} labels, expected one for each of {len(images)} images")
            return Scores(self.logits(images), numbers)
        labels: list[Array] = []

        def images_alone() -> Iterator[Array]:  # labels are taken in the same pass: the next may have another order
            for own, classes, *_ in self._batches(x, "batches").epoch(0):
                labels.append(classes if classes.ndim == 1 else classes.argmax(1))
                yield own

        return Scores(self.logits(images_alone()), np.concatenate(labels))

    def evaluate(self, x: Any, y: Any = None) -> Logs:
        """A dict with ``loss``, the mean cross entropy, and ``accuracy``. Parameters are those of `scores`."""
        scores = self.scores(x, y)
        return {"loss": scores.loss, "accuracy": scores.accuracy}

    def save(self, path: str | Path) -> None:
        """Write a checkpoint, for `Trainer.load`, ``tinyres predict`` and ``tinyres export``.

        It has the weights, the classes, and the mean and deviation for normalising images. The state of the optimizer,
        which resuming needs, is saved only in `folder`.

        Raises
        ------
        RuntimeError
            Before `fit`.
        OSError
            If it cannot be written. An old file is then unchanged.
        """
        weights = self._fitted().state_dict()
        checkpoints.save(path, {f"model.{name}": array for name, array in weights.items()}, self._info)

    @classmethod
    def load(cls, path: str | Path, model: Module | None = None, **options: Any) -> "Trainer":
        """Make a trainer from a checkpoint. It gives the same predictions as the saved one.

        Parameters
        ----------
        path : str or Path
            A file written by `save`.
        model : Module, optional
            Needed if the saved network was your own: a network of the same structure.
        **options
            Arguments of `Trainer`, for another `fit`, which starts with these weights.

        Raises
        ------
        CheckpointError
            If the file is damaged, is not a checkpoint, or belongs to another network.

        Examples
        --------
        >>> import tempfile, tinyres as tr
        >>> images, labels = tr.data.shapes(40, size=16)
        >>> trainer = tr.Trainer("resnet20", epochs=1, verbose=False)
        >>> _ = trainer.fit(images, labels)
        >>> trainer.save(path := tempfile.mkdtemp() + "/net.safetensors")
        >>> bool((tr.Trainer.load(path).predict(images) == trainer.predict(images)).all())
        True
        """
        if model is None:
            _expect_family(path)
            network, info = checkpoints.load_model(path)
        else:
            arrays, info = checkpoints.load(path)
            checkpoints.load_arrays(path, model, arrays)
            network = model.eval()
        made = cls(network, **options)
        try:
            made.classes, made._made, made._info = _classes(info), info["model"], info
            _, made.history, _ = read_progress(info, sys.maxsize)
            channels = len(info["mean"])
        except (KeyError, TypeError, ValueError) as error:
            raise checkpoints.CheckpointError(f"{path}: lacks information that a Trainer needs ({error})") from error
        made.mean, made.std = checkpoints.normalisation(path, info, channels)
        return made

    def __getstate__(self) -> dict[str, Any]:
        """The state that scikit-learn sends to other processes: everything but the run."""
        return {**self.__dict__, "run": None}

    # ---------------------------------------------------------------- images and labels
    def _batches(self, batches: Any, name: str = "x") -> Loader | Batches:
        """The batches, not changed. Settings for making batches raise ValueError."""
        own = [field for field in OF_BATCHES if field in self.given] + ["transform"] * (self.transform is not None)
        if own and name == "x":
            raise ValueError(f"{own[0]}: got batches, expected arrays: batches are used without changes")
        if isinstance(batches, (float, int, np.floating)):
            raise ValueError(f"{name}: got {batches}, expected batches: no part of batches can be held out")
        found = batches if isinstance(batches, Loader) else Batches(batches)
        count = _num_classes(found)
        if name == "x" and not self.classes:
            self.classes = list(range(count))
        if count > len(self.classes):
            raise ValueError(f"{name}: got the class {count - 1}, expected 0 to {len(self.classes) - 1}")
        return found

    def _arrays(
        self, x: Array, y: Any, validation: Any, weights: tuple[Any, Any]
    ) -> tuple[Loader | Batches, Loader | Batches | None]:
        """Loaders of the images to train on, and of those to validate on."""
        labels = Labels(self.classes) if self.classes else Labels.of(y)
        known = labels.numbers(y)
        if len(known) != len(x):
            raise ValueError(f"y: got {len(known)} labels, expected one for each of {len(x)} images")
        self.classes = labels.classes
        labels.weights(known, *weights)  # checks that they fit, before some are held out
        rest = np.arange(len(x))
        if isinstance(validation, (float, int, np.floating)):
            if not 0 < (n := round(validation * len(x))) < len(x) or validation >= 1:
                raise ValueError(f"validation: got {validation} of {len(x)} images, expected a part, such as 0.1")
            order = np.random.default_rng(self.config.seed).permutation(len(x))
            out, rest = np.sort(order[:n]), np.sort(order[n:])
            validation = _take(x, out), np.array(labels.classes)[known[out]]
            x, known = _take(x, rest), known[rest]
        sample, of_classes = weights
        weight = labels.weights(known, None if sample is None else np.asarray(sample)[rest], of_classes)
        mean, std = self._normalisation(x)
        _expect_channels(x, len(mean))
        self._expect_kind(x)
        config, part = self.config, (world().rank, world().size)
        how: dict[str, Any] = {
            "augment": config.augment,
            "mix": config.mix(len(self.classes)),
            "seed": config.seed,
            "part": part,
        }
        how |= {"weight": weight, "transform": self.transform}
        train = Loader(x, known, config.batch_size, mean=mean, std=std, **how)
        return train, self._held(validation, labels, train)

    def _normalisation(self, x: Any) -> tuple[Any, Any]:
        """Mean and deviation: those of the earlier training, those that pretrained weights expect, or those of these
        images if the initial weights are random."""
        if self.mean is not None:
            return self.mean, self.std
        if self.config.weights and x.dtype == np.uint8:
            return normalisation_for(self.config.weights, self.config) or statistics(x)
        return statistics(x)

    def _held(self, validation: Any, labels: Labels, train: Loader) -> Loader | Batches | None:
        """A loader of the validation images, normalised like the training images."""
        if validation is None:
            return None
        if not (isinstance(validation, tuple) and len(validation) == 2):
            return self._batches(validation, "validation")
        images, numbers = as_images(validation[0], "validation"), labels.numbers(validation[1], "validation")
        _expect_channels(images, len(train.mean), "validation")
        if len(numbers) != len(images):
            got = f"{len(images)} images and {len(numbers)} labels"
            raise ValueError(f"validation: got {got}, expected one for each")
        _expect_kind(images, train.images.dtype.kind == "f", "validation")
        return Loader(images, numbers, BATCH, mean=train.mean, std=train.std, shuffle=False)

    def _expect_kind(self, images: Any) -> None:
        """Check that images are uint8 or float as in training, since the two are normalised differently."""
        if "floats" in self._info:
            _expect_kind(images, self._info["floats"], "x")

    def _seen(self, x: Any) -> Iterator[Array]:
        """Batches of images, normalised for the network."""
        if isinstance(x, (list, tuple)) and x and all(getattr(image, "ndim", 4) < 4 for image in x):
            x = as_images(x)
        if not _are_batches(x, None):
            assert self.mean is not None
            images = as_images(x)
            _expect_channels(images, len(self.mean))
            self._expect_kind(images)
            none = np.zeros(len(images), np.int64)
            same: dict[str, Any] = {"mean": self.mean, "std": self.std}
            for batch, *_ in Loader(images, none, BATCH, **same, shuffle=False).epoch(0):
                yield batch
            return
        for arrays in x.epoch(0) if isinstance(x, Loader) else x:
            yield np.asarray(arrays[0] if isinstance(arrays, (tuple, list)) else arrays, np.float32)

    # ---------------------------------------------------------------- the network
    def _given(self, train: Loader | Batches, held: Loader | Batches | None, *, fresh: bool) -> Given:
        """The network, which is made first if it is a name, with images and descriptions for a `Run`."""
        config, shape = self.config, _shape(train)
        options: dict[str, Any] = {"num_classes": len(self.classes), **config.model_options}
        if shape[0] != 3:
            options["in_channels"] = shape[0]
        if isinstance(self.model, str):
            self._made = {"name": config.model, "options": options}
            self.model = create(config, **options)
            if config.weights and fresh:
                self._notes = [load_weights(self.model, config.weights)]
        self._check_network(shape)
        if config.whiten and fresh and self.mean is None:  # not a network that was trained before
            if not isinstance(train, Loader):
                raise ValueError("whiten: got True, expected False with batches: it needs all images as an array")
            whiten(self.model, train.images, train.std)
        elif config.whiten and isinstance(self.model, models.ResNet):
            self.model.conv1.freeze()
        freeze(self.model, config.freeze)
        mean, std = (train.mean, train.std) if isinstance(train, Loader) else (np.zeros(shape[0]), np.ones(shape[0]))
        trained_on = {name: part for name in ("labels", "weight") if (part := getattr(train, name, None)) is not None}
        info = {
            **checkpoints.described(list(map(str, self.classes)), shape[1], mean, std),
            "labels": self.classes,
            "digest": checkpoints.state_digest(trained_on, {})[:16],
            "floats": not isinstance(train, Loader) or train.images.dtype.kind == "f",
        }
        return Given(self.model, self._made, train, held, info, self.loss)

    def _check_network(self, shape: tuple[int, ...]) -> None:
        """Check that the network accepts these images, and has a logit for each class."""
        model = self._trained()
        training = model.training
        with no_grad():
            logits = model.eval()(Tensor(np.zeros((1, *shape), np.float32)))
        model.train(training)
        count = logits.shape[1] if logits.ndim == 2 else -1
        if count > len(self.classes) and self.classes == list(range(len(self.classes))):
            self.classes = list(range(count))  # the last ones do not occur in the data
        elif count > len(self.classes) and all(type(c) is int and 0 <= c < count for c in self.classes):
            raise ValueError(
                f"y: got the classes {self.classes}, but the network has {count} logits; expected 0 to {count - 1}, "
                "each at least once, or a network with a logit for each class"
            )
        if count != len(self.classes):
            raise ValueError(
                f"model: got logits of shape {logits.shape}, expected (1, {len(self.classes)}): a number for each of "
                f"{len(self.classes)} classes"
            )

    def _trained(self) -> Module:
        if isinstance(self.model, str):
            raise RuntimeError(f"model: {self.model!r} has not been made yet")
        return self.model

    def _fitted(self) -> Module:
        if self.mean is None:
            raise RuntimeError("Trainer: has not been trained yet: call fit first, or use Trainer.load")
        return self._trained()

    def _config_of_the_run(self) -> Config:
        """The configuration of the run in the folder, perhaps with more epochs. Given settings must be equal to it."""
        chosen = {name for callback in self.callbacks for name in callback.sets}
        names = [*sorted(self.agreed - chosen), "model", "dataset"]
        return config_to_resume(self.folder or "", {name: getattr(self.config, name) for name in names})


class _Averaged(Callback):
    """At the end of training, puts the average of weights into the model, if there is one."""

    def on_train_end(self, training: Training) -> None:
        arrays, _ = training.state()
        training.use(checkpoints.part(arrays, "model"))


def _expect_family(path: str | Path) -> None:
    """Raise CheckpointError if the network of a checkpoint cannot be made from its description."""
    info = checkpoints.load_info(path) or {}
    if isinstance(info.get("model"), dict) and info["model"].get("name") == "given":
        raise checkpoints.CheckpointError(
            f"{path}: belongs to your own network: give a network of the same structure as `model`"
        )


def _classes(info: Mapping[str, Any]) -> list[Any]:
    """The labels in a checkpoint, as they were given."""
    labels = info.get("labels", info["classes"])
    known = isinstance(labels, list) and all(isinstance(label, (int, str)) for label in labels)
    if not known or len(set(labels)) != len(labels):
        raise ValueError(f"labels: got {reprlib.repr(labels)}, expected a list of numbers or strings, each once")
    return labels


def _expect_channels(images: Any, channels: int, name: str = "x") -> None:
    if images.shape[1] != channels:
        expected = f"(N, {channels}, H, W); for one image (C, H, W), write {name}[None]"
        raise ValueError(f"{name}: got images of shape {images.shape}, expected {expected}")


def _expect_kind(images: Any, floats: bool, name: str) -> None:
    if floats != (images.dtype.kind == "f"):
        expected = "floats in the same unit" if floats else "uint8, 0 to 255,"
        raise ValueError(f"{name}: got {images.dtype}, expected {expected} as in the training images")


def _take(x: Any, index: Array) -> Any:
    """Some of the images."""
    return x.only(index) if isinstance(x, Pictures) else x[index]


def _num_classes(loader: Loader | Batches) -> int:
    if isinstance(loader, Batches):
        return loader.num_classes
    if loader.mix is not None:
        return loader.mix.classes
    return loader.labels.shape[1] if loader.labels.ndim == 2 else int(loader.labels.max()) + 1


def _shape(loader: Loader | Batches) -> tuple[int, ...]:
    """Channels, height and width of the images that the network gets."""
    if isinstance(loader, Batches):
        return loader.shape
    if loader.transform is None:
        return loader.images.shape[1:]
    return next(loader.epoch(0))[0].shape[1:]


def _are_batches(x: Any, y: Any) -> bool:
    """Whether x is batches, not one array of images. A list is batches if there are no labels."""
    if y is not None or isinstance(x, (np.ndarray, Tensor, Pictures)):
        return False
    return isinstance(x, Loader) or not hasattr(x, "__array__")
