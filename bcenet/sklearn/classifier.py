"""`BCENetClassifier`: networks with sigmoid outputs behind scikit-learn's interface."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any, ClassVar

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, _fit_context
from sklearn.metrics import accuracy_score, get_scorer_names
from sklearn.utils._param_validation import Interval, Options, StrOptions
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from bcenet import averaging as averaging_
from bcenet import kernels, losses, optimizers, schedules
from bcenet.sklearn import rows as rows_
from bcenet.sklearn import scores, solvers
from bcenet.sklearn.callbacks import CallbackSupportMixin
from bcenet.sklearn.fitting import Fit


def _is_stochastic(estimator: Any) -> bool:
    if solvers.is_lbfgs(estimator):
        raise AttributeError(
            "partial_fit is only available for stochastic optimizers. lbfgs is not stochastic."
        )
    return True


class BCENetClassifier(CallbackSupportMixin, ClassifierMixin, BaseEstimator):
    """A feed-forward network with sigmoid outputs, trained with binary cross-entropy.

    Two classes have one sigmoid, P(second class) = s(z). Several labels (y an indicator matrix of
    0 and 1) have one each. More than two classes have one sigmoid a class, "this class or
    another": predict takes the largest, predict_proba divides by their sum. The loss is the mean
    over rows of the sum over a row's sigmoids of -[t log s(z) + (1 - t) log s(-z)], plus alpha / 2
    times the sum of the squared weights, divided by the weights' sum of the batch.

    The parameters up to max_fun are those of scikit-learn's MLPClassifier, with its meanings and
    defaults; with the same random_state both start from the same weights, and without shuffling
    both take the same steps.

    Arguments:
        hidden_layer_sizes: widths of the hidden layers; () is logistic regression.
        activation: of the hidden layers: "relu", "tanh", "identity", "logistic" (or "sigmoid"),
            "leaky_relu", "elu", "selu", "gelu", "silu", "softplus".
        solver: "adam", "sgd", "adamw", "amsgrad", "rmsprop", "lion", "lbfgs" (full batch), or an
            optimizer of bcenet, of which a fresh copy is used with its own learning rate.
        alpha: L2 penalty, divided by the weights' sum of the batch as scikit-learn does.
        batch_size: rows of a step; "auto" is min(200, rows).
        learning_rate: "constant"; "invscaling" (learning_rate_init / (t_ + 1)^power_t after each
            epoch); "adaptive" (divided by 5 instead of stopping, until it is 1e-6). Adam ignores
            these two, as in scikit-learn. Or a schedule of bcenet, by name ("cosine", "one-cycle",
            "warm-up", "coslog4") or as an object; max_iter epochs are its horizon, if it has
            none of its own.
        learning_rate_init, power_t: see learning_rate.
        max_iter: epochs; iterations for "lbfgs".
        shuffle: take the rows in another order each epoch.
        random_state: of the first weights, the validation rows and the shuffling.
        tol, n_iter_no_change: the fit stops once the loss (the validation score with
            early_stopping) has not improved by tol for more than so many epochs in a row. With
            n_iter_no_change=numpy.inf it lasts max_iter epochs, and max_iter is no warning.
        verbose: print the loss of each epoch.
        warm_start: go on from where the last fit ended, with the optimizer's moments, counters
            and schedule: k epochs and then k more are 2 k epochs at once, bit for bit.
        momentum, nesterovs_momentum: of "sgd".
        early_stopping: keep the weights with the best score on validation rows, and stop by it.
        validation_fraction: rows held out for that where fit gets no X_val.
        beta_1, beta_2: of "adam", "adamw", "amsgrad". epsilon: of these and "rmsprop".
        max_fun: most evaluations of the loss by "lbfgs".
        hidden_activations: one a hidden layer, instead of activation.
        loss: "bce", "focal", or a loss of bcenet such as bcenet.FocalLoss(gamma=1.5).
        class_weight: None, "balanced", or {class: weight}; for several labels "balanced" (each
            label by itself) or a list with a dict {0: weight, 1: weight} a label.
        pos_weight: weight of the positive term of each sigmoid, a number or one an output.
        label_smoothing: e in [0, 1]; targets become t (1 - e) + e / 2.
        dropout: part of a hidden layer's outputs that a step drops, a number or one a layer.
        weight_decay: decoupled, of "adamw", "amsgrad", "lion" and "sgd"; None is the solver's
            own (0.01 for "adamw").
        l1: L1 penalty, divided like alpha.
        max_norm: largest norm of the weights into a unit. clip_norm: of a step's gradient.
        normalization: "batch" or "layer", or one a hidden layer.
        feature_scale: a learned factor a column of X.
        averaging: bcenet.EMA(...) or bcenet.SWA(...), whose average of the weights predicts.
        lazy: for sparse X: a step leaves alone the first layer's weights of the columns that its
            rows lack, with their moments and penalties: far faster where there are many columns,
            and another result. It goes with neither "lbfgs", averaging, clip_norm, max_norm nor
            feature_scale.
        missing_labels: "ignore" leaves NaN of an indicator matrix y out of the loss.
        output_bias: "random" as scikit-learn has it, or "base_rate": the log-odds of y.
        early_stopping_metric: "accuracy", "balanced_accuracy", "f1", "roc_auc",
            "average_precision", "log_loss", the name of another scorer of scikit-learn, or a
            scorer f(estimator, X, y).
        threshold: P(second class) from which predict says the second class, or the metric it is
            best for on the validation rows: "f1", "balanced_accuracy", "accuracy".
        dtype: of the weights and of all computing; None is float32 for X of float32, else float64.
        callbacks: of bcenet (see bcenet.callbacks), one or a list; used as they are, not copied.
        n_threads: None chooses from the work. The result is the same for any number.

    Attributes:
        classes_: the labels, sorted; the columns' numbers for several labels.
        network_: the bcenet.Network. coefs_, intercepts_: lists of views into it.
        loss_, loss_curve_: the loss with its penalties, of the last and of every epoch.
        validation_loss_curve_: of the validation rows, without penalties; None without any.
        validation_scores_, best_validation_score_: with early_stopping, else None.
        best_loss_: the smallest loss; None with early_stopping.
        n_iter_: epochs of the last fit. t_: rows seen by all fits that it went on from.
        threshold_: see threshold. class_weight_, pos_weight_: the weights used.
        n_features_in_, feature_names_in_, n_layers_, n_outputs_, out_activation_: as in
            scikit-learn.

    Example:
        >>> from bcenet.sklearn import BCENetClassifier
        >>> X = [[0.0, 1.0], [1.0, 1.0], [2.0, 0.0], [3.0, 0.0]]
        >>> y = ["no", "no", "yes", "yes"]
        >>> classifier = BCENetClassifier((8,), alpha=0.0, learning_rate_init=0.1, tol=0.01)
        >>> classifier.set_params(random_state=0).fit(X, y).predict(X).tolist()
        ['no', 'no', 'yes', 'yes']
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        "hidden_layer_sizes": ["array-like", Interval(Integral, 1, None, closed="left")],
        "activation": [StrOptions(solvers.activation_names())],
        "solver": [StrOptions(set(optimizers.BY_NAME)), optimizers.Optimizer, optimizers.LBFGS],
        "alpha": [Interval(Real, 0, None, closed="left")],
        "batch_size": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "learning_rate": [
            StrOptions({*solvers.RATES, *solvers.SCHEDULES}),
            schedules.Schedule,
        ],
        "learning_rate_init": [Interval(Real, 0, None, closed="neither")],
        "power_t": [Interval(Real, 0, None, closed="left")],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "shuffle": ["boolean"],
        "random_state": ["random_state"],
        "tol": [Interval(Real, 0, None, closed="left")],
        "verbose": ["verbose"],
        "warm_start": ["boolean"],
        "momentum": [Interval(Real, 0, 1, closed="left")],
        "nesterovs_momentum": ["boolean"],
        "early_stopping": ["boolean"],
        "validation_fraction": [Interval(Real, 0, 1, closed="left")],
        "beta_1": [Interval(Real, 0, 1, closed="left")],
        "beta_2": [Interval(Real, 0, 1, closed="left")],
        "epsilon": [Interval(Real, 0, None, closed="neither")],
        "n_iter_no_change": [
            Interval(Integral, 1, None, closed="left"),
            Options(Real, {np.inf}),
        ],
        "max_fun": [Interval(Integral, 1, None, closed="left")],
        "hidden_activations": ["array-like", None],
        "loss": [StrOptions(set(kernels.loss_names())), losses.FocalLoss],
        "class_weight": [StrOptions({"balanced"}), dict, list, None],
        "pos_weight": [Interval(Real, 0, None, closed="left"), "array-like", None],
        "label_smoothing": [Interval(Real, 0, 1, closed="both")],
        "dropout": [Interval(Real, 0, 1, closed="left"), "array-like"],
        "weight_decay": [Interval(Real, 0, None, closed="left"), None],
        "l1": [Interval(Real, 0, None, closed="left")],
        "max_norm": [Interval(Real, 0, None, closed="neither"), None],
        "clip_norm": [Interval(Real, 0, None, closed="neither"), None],
        "normalization": [StrOptions({"batch", "layer"}), "array-like", None],
        "feature_scale": ["boolean"],
        "averaging": [averaging_.Averaging, None],
        "lazy": ["boolean"],
        "missing_labels": [StrOptions({"error", "ignore"})],
        "output_bias": [StrOptions({"random", "base_rate"})],
        "early_stopping_metric": [
            StrOptions({*scores.MEASURES, *get_scorer_names()}),
            callable,
        ],
        "threshold": [
            Interval(Real, 0, 1, closed="both"),
            StrOptions({"accuracy", "balanced_accuracy", "f1"}),
        ],
        "dtype": [
            StrOptions({"float32", "float64"}),
            Options(type, {np.float32, np.float64}),
            None,
        ],
        "callbacks": "no_validation",
        "n_threads": [Interval(Integral, 1, None, closed="left"), None],
    }

    def __init__(
        self,
        hidden_layer_sizes=(100,),
        activation="relu",
        *,
        solver="adam",
        alpha=0.0001,
        batch_size="auto",
        learning_rate="constant",
        learning_rate_init=0.001,
        power_t=0.5,
        max_iter=200,
        shuffle=True,
        random_state=None,
        tol=1e-4,
        verbose=False,
        warm_start=False,
        momentum=0.9,
        nesterovs_momentum=True,
        early_stopping=False,
        validation_fraction=0.1,
        beta_1=0.9,
        beta_2=0.999,
        epsilon=1e-8,
        n_iter_no_change=10,
        max_fun=15000,
        hidden_activations=None,
        loss="bce",
        class_weight=None,
        pos_weight=None,
        label_smoothing=0.0,
        dropout=0.0,
        weight_decay=None,
        l1=0.0,
        max_norm=None,
        clip_norm=None,
        normalization=None,
        feature_scale=False,
        averaging=None,
        lazy=False,
        missing_labels="error",
        output_bias="random",
        early_stopping_metric="accuracy",
        threshold=0.5,
        dtype=None,
        callbacks=None,
        n_threads=None,
    ):
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.solver = solver
        self.alpha = alpha
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.learning_rate_init = learning_rate_init
        self.power_t = power_t
        self.max_iter = max_iter
        self.shuffle = shuffle
        self.random_state = random_state
        self.tol = tol
        self.verbose = verbose
        self.warm_start = warm_start
        self.momentum = momentum
        self.nesterovs_momentum = nesterovs_momentum
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon
        self.n_iter_no_change = n_iter_no_change
        self.max_fun = max_fun
        self.hidden_activations = hidden_activations
        self.loss = loss
        self.class_weight = class_weight
        self.pos_weight = pos_weight
        self.label_smoothing = label_smoothing
        self.dropout = dropout
        self.weight_decay = weight_decay
        self.l1 = l1
        self.max_norm = max_norm
        self.clip_norm = clip_norm
        self.normalization = normalization
        self.feature_scale = feature_scale
        self.averaging = averaging
        self.lazy = lazy
        self.missing_labels = missing_labels
        self.output_bias = output_bias
        self.early_stopping_metric = early_stopping_metric
        self.threshold = threshold
        self.dtype = dtype
        self.callbacks = callbacks
        self.n_threads = n_threads

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.classifier_tags.multi_label = True
        return tags

    # ---- fitting --------------------------------------------------------------------------

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(
        self,
        X,
        y,
        sample_weight=None,
        *,
        coefs_init=None,
        intercepts_init=None,
        X_val=None,
        y_val=None,
        sample_weight_val=None,
        offset=None,
        offset_val=None,
        checkpoint=None,
        checkpoint_every=None,
        resume=False,
    ):
        """Train the network.

        Arguments:
            X: (n, features), dense or sparse, an array or a table, finite. A sparse X stays
                sparse, and gives the same bits as the same rows made dense.
            y: labels (n,), or an indicator (n, k) of 0 and 1.
            sample_weight: (n,), not negative.
            coefs_init, intercepts_init: lists of arrays, the weights to start from instead of
                random ones. The fit then starts anew, even with warm_start.
            X_val, y_val: validation rows; early_stopping takes them instead of holding rows out.
            sample_weight_val: (n_val,), for the loss and the scores of the validation rows.
            offset, offset_val: base logits, (n,) or (n, outputs), added to the network's.
            checkpoint: a file, or a folder, where all is kept that the fit needs to go on, as of
                `bcenet.fit`; checkpoint_every: steps from one to the next, an epoch if None.
            resume: go on from the checkpoint to the end of its fit, with the same parameters and
                data: all that is learned has the bits of a fit that was never stopped.

        Returns: the estimator.

        Raises: ValueError and TypeError for bad data or parameters, as scikit-learn words them;
        ValueError saying what differs from the checkpoint's fit, ModelFormatError for a damaged
        checkpoint, FileNotFoundError where there is none to go on from;
        ValueError where training leaves the finite numbers. The estimator is then as it was.
        Ctrl-C ends the training with a warning and keeps what was learned, as MLPClassifier does;
        in the first epoch there is nothing to keep, and it is raised.
        """
        init = {"coefs_init": coefs_init, "intercepts_init": intercepts_init}
        validation = (X_val, y_val, sample_weight_val, offset_val)
        place = {"checkpoint": checkpoint, "checkpoint_every": checkpoint_every, "resume": resume}
        Fit(self, init=init, **place).run(X, y, sample_weight, offset, validation=validation)
        return self

    @available_if(_is_stochastic)
    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X, y, classes=None, sample_weight=None, offset=None):
        """Train one epoch on a part of the data, going on from earlier calls or a fit.

        Arguments:
            X, y, sample_weight, offset: as `fit` takes them.
            classes: all labels that y will ever hold, in the first call; an indicator y needs
                none.

        Returns: the estimator.

        Raises: ValueError for labels that classes does not hold, and as `fit` does.
        """
        Fit(self, incremental=True).run(X, y, sample_weight, offset, classes=classes)
        return self

    # ---- what was learned -----------------------------------------------------------------

    @property
    def coefs_(self):
        """The weights of each layer, (fan_in, fan_out): views into ``network_``."""
        return self.network_.coefs

    @property
    def intercepts_(self):
        """The intercepts of each layer, (fan_out,): views into ``network_``."""
        return self.network_.intercepts

    # ---- predictions ----------------------------------------------------------------------

    def _logits_of(self, X: Any, offset: np.ndarray | None) -> np.ndarray:
        return self.network_.decision_function(X, self.n_threads, offset)

    def _logits(self, X: Any, offset: Any) -> np.ndarray:
        check_is_fitted(self)
        X = rows_.read_X(self, X)
        return self._logits_of(X, rows_.read_offset(offset, X.shape[0], self.n_outputs_))

    def decision_function(self, X, offset=None):
        """The logits: (n,) for two classes, else (n, classes or labels).

        Arguments:
            offset: base logits, (n,) or (n, outputs), added to them.
        """
        return self._logits(X, offset)

    def predict(self, X, offset=None):
        """Labels (n,), or an indicator (n, k) of 0 and 1.

        The second class is predicted where its probability is at least threshold_; at the
        threshold 0.5, as scikit-learn has it, where the logit is above 0.
        """
        logits = self._logits(X, offset)
        return self._labels.predict(logits, self.threshold_)

    def predict_proba(self, X, corrected=False, offset=None):
        """Probabilities: (n, classes), or (n, k) that each label is there.

        Arguments:
            corrected: undo the weights of the training. A sigmoid whose positive term had the
                weight w says s(z) for the odds times w; s(z - log w) is the probability.
            offset: base logits, (n,) or (n, outputs).
        """
        logits, log_weight = self._corrected(X, corrected, offset)
        return self._labels.proba(logits, log_weight)

    def predict_log_proba(self, X, corrected=False, offset=None):
        """Logarithms of `predict_proba`, from the logits: finite where that rounds to 0 or 1.

        Arguments: as `predict_proba` takes them.
        """
        logits, log_weight = self._corrected(X, corrected, offset)
        return self._labels.log_proba(logits, log_weight)

    def _corrected(self, X: Any, corrected: bool, offset: Any) -> tuple[np.ndarray, Any]:
        logits = self._logits(X, offset)
        if not corrected:
            return logits, 0.0
        return self._labels.corrected(logits, self.class_weight_, self.pos_weight_)

    def score(self, X, y, sample_weight=None, offset=None):
        """The accuracy of `predict` (of whole rows for several labels)."""
        return accuracy_score(y, self.predict(X, offset), sample_weight=sample_weight)
