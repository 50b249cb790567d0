"""A residual network as a scikit-learn estimator."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tinyres.nn import Module
from tinyres.nn.init import manual_seed
from tinyres.tape import Array
from tinyres.trainer import Trainer

try:
    from sklearn.base import BaseEstimator, ClassifierMixin
    from sklearn.utils import check_random_state
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data
except ImportError as error:
    raise ImportError("tinyres.sklearn: scikit-learn is not installed: pip install 'tinyres[sklearn]'") from error


class ResNetClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """Classifies images, as a scikit-learn estimator: for pipelines, grid searches and cross-validation.

    Parameters
    ----------
    model : str or callable
        Name of a model; or a function of ``in_channels`` and ``num_classes`` that makes a network.
    image_shape : (int, int, int), optional
        Channels, height and width of the image in a row of X. By default, a row is a grey square image if its number of
        features is a square, else an image of one line. X of shape (N, C, H, W) is used as it is.
    epochs, batch_size, lr, weight_decay
        As for `tinyres.Trainer`.
    settings : dict, optional
        Other settings of `tinyres.Trainer`, such as ``{"label_smoothing": 0.1, "ema": 0.99}``.
    class_weight : dict or "balanced", optional
        See `tinyres.Trainer.fit`.
    random_state : int, RandomState or None
        Seed. The same number gives the same result.
    verbose : bool
        Whether to show a progress bar and a line for each epoch.

    Attributes
    ----------
    classes_ : array of shape (K,)
    n_features_in_ : int
        Number of values in an image.
    n_iter_ : int
        Number of training steps.
    trainer_ : tinyres.Trainer
        It has the network, ``trainer_.model``, and the records of epochs, ``trainer_.history``.

    Notes
    -----
    One of scikit-learn's checks fails: that an image with weight 2 has the same effect as the same image twice
    (``check_sample_weight_equivalence_on_dense_data``). With random batches and batch norm, this is not possible, since
    the two cases have different batches. The mean loss over all batches is the same.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.model_selection import cross_val_score
    >>> from sklearn.neural_network import MLPClassifier
    >>> import tinyres as tr
    >>> def tiny(in_channels, num_classes):
    ...     return tr.models.ResNet(
    ...         tr.models.BasicBlock, [1, 1], num_classes, in_channels=in_channels, widths=[16, 32]
    ...     )
    >>> X, y = load_digits(return_X_y=True)
    >>> net = ResNetClassifier(tiny, epochs=8, random_state=0)
    >>> ours = cross_val_score(net, X, y, cv=3).mean()
    >>> theirs = cross_val_score(MLPClassifier(max_iter=400, random_state=0), X, y, cv=3).mean()
    >>> bool(ours > theirs)
    True
    """

    def __init__(
        self,
        model: str | Callable[..., Module] = "resnet20",
        *,
        image_shape: tuple[int, int, int] | None = None,
        epochs: int = 20,
        batch_size: int = 32,
        lr: float = 0.1,
        weight_decay: float = 5e-4,
        settings: Mapping[str, Any] | None = None,
        class_weight: Mapping[Any, float] | str | None = None,
        random_state: Any = None,
        verbose: bool = False,
    ) -> None:  # scikit-learn's searches set parameters by name, so each one to search over has a name of its own
        self.model, self.image_shape = model, image_shape
        self.epochs, self.batch_size, self.lr, self.weight_decay = epochs, batch_size, lr, weight_decay
        self.settings, self.class_weight = settings, class_weight
        self.random_state, self.verbose = random_state, verbose

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> "ResNetClassifier":
        """Train a new network.

        Parameters
        ----------
        X : array of shape (N, features) or (N, C, H, W)
        y : array of shape (N,)
            Labels of any kind that scikit-learn accepts.
        sample_weight : array of shape (N,), optional
            Images of weight 0 are left out.

        Returns
        -------
        self
        """
        X, y = validate_data(self, X, y, allow_nd=True, ensure_min_samples=2)
        check_classification_targets(y)
        self.classes_, numbers = np.unique(y, return_inverse=True)
        self._shape = self._image_shape(X)
        images = X.reshape(len(X), *self._shape)
        weight = None if sample_weight is None else _check_sample_weight(sample_weight, X, ensure_non_negative=True)
        if weight is not None:
            images, numbers, weight = images[weight > 0], numbers[weight > 0], weight[weight > 0]
        in_channels, count = self._shape[0], len(self.classes_)
        if len(there := np.unique(numbers)) < 2:
            raise ValueError(f"y: got {len(there)} class, expected 2 or more classes")
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        model = self.model
        if isinstance(model, Module):
            raise TypeError(
                f"model: got a {type(model).__name__}, expected a name, or a function that makes a network: each fit "
                "trains a new one"
            )
        if callable(model):
            manual_seed(seed)
            model = model(in_channels=in_channels, num_classes=count)
        options = {"epochs": self.epochs, "lr": self.lr, "weight_decay": self.weight_decay, "seed": seed}
        options["batch_size"] = min(self.batch_size, len(images))
        self.trainer_ = Trainer(model, verbose=self.verbose, **{**options, **(self.settings or {})})
        self.trainer_.classes = list(range(count))
        weights = self.class_weight
        if isinstance(weights, Mapping):
            known = dict(zip(self.classes_.tolist(), range(count), strict=True))
            if unknown := [label for label in weights if label not in known]:
                raise ValueError(f"class_weight: got a weight for {unknown[0]!r}, expected weights for {list(known)}")
            weights = {known[label]: value for label, value in weights.items()}
        self.trainer_.fit(_floats(images), numbers, sample_weight=weight, class_weight=weights)
        assert self.trainer_.run is not None
        self.n_iter_ = self.trainer_.run.step
        return self

    def _image_shape(self, X: Array) -> tuple[int, int, int]:
        if X.ndim == 4:
            if self.image_shape not in (None, X.shape[1:]):
                raise ValueError(f"image_shape: got {self.image_shape}, expected {X.shape[1:]} or None, as X has it")
            return X.shape[1:]
        if X.ndim != 2:
            raise ValueError(f"X: got shape {X.shape}, expected (N, features) or (N, C, H, W)")
        side = round(X.shape[1] ** 0.5)
        found = (1, side, side) if side * side == X.shape[1] else (1, 1, X.shape[1])
        shape = tuple(self.image_shape or found)
        if len(shape) != 3 or np.prod(shape) != X.shape[1]:
            raise ValueError(f"image_shape: got {shape}, expected (C, H, W) of {X.shape[1]} numbers, those of a row")
        return shape

    def _logits(self, X: Any) -> Array:
        check_is_fitted(self)
        X = validate_data(self, X, allow_nd=True, reset=False)
        if X.ndim == 4 and X.shape[1:] != self._shape:
            raise ValueError(f"X: got images of shape {X.shape[1:]}, expected {self._shape}")
        return self.trainer_.logits(_floats(X.reshape(len(X), *self._shape)))

    def decision_function(self, X: Any) -> Array:
        """Logits of shape (N, K). For two classes, the second logit minus the first, of shape (N,)."""
        logits = self._logits(X).astype(np.float64)
        return logits[:, 1] - logits[:, 0] if len(self.classes_) == 2 else logits

    def predict_proba(self, X: Any) -> Array:
        """The probability of each class, of shape (N, K), in the order of `classes_`."""
        logits = self._logits(X).astype(np.float64)
        e = np.exp(logits - logits.max(1, keepdims=True))
        return e / e.sum(1, keepdims=True)

    def predict(self, X: Any) -> Array:
        """The most probable label of each image, of shape (N,)."""
        answers = self._logits(X).argmax(1)
        return self.classes_[answers]


def _floats(images: Array) -> Array:
    """Images as floats of one dtype, since X may have another dtype in each call."""
    return images.astype(np.float32)
