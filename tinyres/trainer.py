"""`Trainer`: training on arrays or on your own batches, with methods as in Keras. The loop is the command line's."""

import contextlib
import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tinyres import checkpoints, data, models, recipes
from tinyres.callback import Callback, Callbacks, Logs, Training
from tinyres.classifier import Classifier, are_batches, expect_alike, numbers_of
from tinyres.data import Batches, Loader, Pictures
from tinyres.data.labelled import Labels, as_images, statistics
from tinyres.evaluation import BATCH, evaluating
from tinyres.loop import Interrupted, Loss
from tinyres.lr_range import Found, lr_find
from tinyres.nn import Module
from tinyres.parallel.world import world
from tinyres.progress import ProgressBar
from tinyres.recipe import Config
from tinyres.runs import config_to_resume, has_begun, holds_run
from tinyres.spelling import did_you_mean
from tinyres.start import create, freeze, load_weights, normalisation_for, whiten
from tinyres.tape import Array
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


class Trainer(Classifier):
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
        super().__init__(model)
        self.loss = loss
        self.callbacks = [callbacks] if isinstance(callbacks, Callback) else list(callbacks)
        self.transform, self.folder, self.verbose = transform, folder, verbose
        self.given = set(settings)
        self.agreed = set(settings)  # names of settings that must be equal in a run that is resumed
        self.config = self._configure(recipe, settings)
        if loss is not None and self.config.label_smoothing:
            smoothing = self.config.label_smoothing
            raise ValueError(f"label_smoothing: got {smoothing}, expected 0 with your own loss: do the smoothing in it")
        self.run: Run | None = None
        self._notes: list[str] = []  # messages for the user about how the network was made

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
        for callback in Callbacks(self.callbacks).callbacks:
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
            train, held = self._loaders(x, y, validation, (sample_weight, class_weight))
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
            train, _ = self._loaders(x, y)
            run = Run(self.config, None, given=self._given(train, None, fresh=True))
            try:
                return lr_find(run, **options)
            finally:
                run.disconnect()

    def __getstate__(self) -> dict[str, Any]:
        """The state that scikit-learn sends to other processes: everything but the run."""
        return {**self.__dict__, "run": None}

    # ---------------------------------------------------------------- images and labels
    def _loaders(
        self, x: Any, y: Any, validation: Any = None, weights: tuple[Any, Any] = (None, None)
    ) -> tuple[Loader | Batches, Loader | Batches | None]:
        """What to train on, and what to validate on: batches as they were given, or loaders of the images."""
        if not are_batches(x, y):
            return self._arrays(as_images(x), y, validation, weights)
        if any(weight is not None for weight in weights):
            raise ValueError("sample_weight, class_weight: expected None with batches, which are (x, y, weight)")
        own = [field for field in OF_BATCHES if field in self.given] + ["transform"] * (self.transform is not None)
        if own:
            raise ValueError(f"{own[0]}: got batches, expected arrays: batches are used without changes")
        train = self._batches(x, "x")
        return train, None if validation is None else self._batches(validation, "validation")

    def _arrays(
        self, x: Array, y: Any, validation: Any, weights: tuple[Any, Any]
    ) -> tuple[Loader | Batches, Loader | Batches | None]:
        labels = Labels(self.classes) if self.classes else Labels.of(y)
        known = numbers_of(labels, y, x)
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
        expect_alike(x, len(mean), self._info.get("floats"))
        config, part = self.config, (world().rank, world().size)
        how: dict[str, Any] = {"mean": mean, "std": std, "augment": config.augment, "transform": self.transform}
        how |= {"mix": config.mix(len(self.classes)), "seed": config.seed, "part": part, "weight": weight}
        train = Loader(x, known, config.batch_size, **how)
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
        expect_alike(images, len(train.mean), train.images.dtype.kind == "f", "validation")
        if len(numbers) != len(images):
            got = f"{len(images)} images and {len(numbers)} labels"
            raise ValueError(f"validation: got {got}, expected one for each")
        return Loader(images, numbers, BATCH, mean=train.mean, std=train.std, shuffle=False)

    # ---------------------------------------------------------------- the network
    def _given(self, train: Loader | Batches, held: Loader | Batches | None, *, fresh: bool) -> Given:
        """The network, which is made first if it is a name, with images and descriptions for a `Run`."""
        config, shape = self.config, _shape(train)
        options: dict[str, Any] = {"num_classes": len(self.classes), **config.model_options}
        if shape[0] != 3:
            options["in_channels"] = shape[0]
        made = self._info.get("model", {"name": "given", "options": {}})  # how the network can be made again
        if isinstance(self.model, str):
            made = {"name": config.model, "options": options}
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
        return Given(self.model, made, train, held, info, self.loss)

    def _check_network(self, shape: tuple[int, ...]) -> None:
        """Check that the network accepts these images, and has a logit for each class."""
        model = self._trained()
        with evaluating(model):
            logits = model(Tensor(np.zeros((1, *shape), np.float32)))
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


def _shape(loader: Loader | Batches) -> tuple[int, ...]:
    """Channels, height and width of the images that the network gets."""
    if isinstance(loader, Batches):
        return loader.shape
    if loader.transform is None:
        return loader.images.shape[1:]
    return next(loader.epoch(0))[0].shape[1:]


def _take(x: Any, index: Array) -> Any:
    """Some of the images."""
    return x.only(index) if isinstance(x, Pictures) else x[index]
