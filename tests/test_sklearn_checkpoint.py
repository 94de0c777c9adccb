"""Checkpoints of BCENetClassifier's fits: all that it learns is as if it had never stopped."""

from __future__ import annotations

import os
import pickle
import re
import signal
import subprocess
import sys

import numpy as np
import pytest
from helpers import Begun, digest, kill_and_go_on
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import bcenet
from bcenet import model_file
from bcenet.callbacks import LearningRateLogger
from bcenet.sklearn import BCENetClassifier
from bcenet.sklearn.fitting import LEARNED

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

RNG = np.random.default_rng(0)
X = RNG.normal(size=(90, 5))
SCORE = X[:, 0] + X[:, 1] * X[:, 2] + RNG.logistic(size=90) * 0.5
Y = np.where(SCORE > 0, "yes", "no")
LABELS = np.column_stack([SCORE > 0, X[:, 3] > 0, SCORE + X[:, 4] > 1]).astype(int)
CLASSES = np.digitize(SCORE, [-1.0, 0.0, 1.0])
WEIGHT = RNG.uniform(0.5, 2.0, 90)
X_VAL, Y_VAL = X[:40] + 0.1, Y[:40]


def make(**changed):
    plain = {"hidden_layer_sizes": (6,), "batch_size": 20, "max_iter": 4, "random_state": 3}
    plain |= {"learning_rate_init": 0.01, "tol": 0.0}
    return BCENetClassifier(**(plain | changed))


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "run.bcenet")


def learned(classifier):
    """All that a fit leaves, by name: equal only for equal bits."""
    found = {}
    for name, value in vars(classifier).items():
        if name in ("network_", "_training", "_labels") or name not in (*LEARNED, "n_features_in_"):
            continue
        found[name] = repr(np.asarray(value).tolist())
    networks = {"network": classifier.network_, "last": classifier._training.network}
    if classifier._training.best is not None:
        networks["best"] = classifier._training.best
    for name, network in networks.items():
        found[name] = digest(network.parameters), digest(network.statistics)
    training = classifier._training
    optimizer = training.optimizer
    found["optimizer"] = repr(optimizer), optimizer.step, optimizer.epoch, optimizer.seed
    found |= {name: digest(array) for name, array in optimizer.state.items()}
    found["schedule"] = training.schedule and sorted(vars(training.schedule).items(), key=repr)
    found["schedule"] = repr(found["schedule"])
    found["average"] = training.averaging and (
        digest(training.averaging.raw),
        digest(training.averaging.average),
        training.averaging.count,
    )
    found["made from"] = repr(training.made_from), repr(training.asked)
    found["no improvement"] = training.no_improvement
    split = training.split
    found["split"] = split and (split.get_state()[1].tolist(), split.get_state()[2:])
    labels = classifier._labels
    found["labels"] = labels.kind, repr(labels.classes.tolist()), str(labels.classes.dtype)
    return found


FITS = {
    "plain": {},
    "several classes": {"y": CLASSES},
    "several labels": {"y": LABELS, "class_weight": "balanced", "pos_weight": [1.0, 2.0, 3.0]},
    "weights": {"sample_weight": WEIGHT, "class_weight": {"yes": 2.0, "no": 1.0}},
    "offset": {"offset": 0.5 * SCORE, "output_bias": "base_rate"},
    "early stopping": {"early_stopping": True, "validation_fraction": 0.3},
    "a scorer": {"early_stopping": True, "early_stopping_metric": "neg_log_loss"},
    "own validation rows": {
        "X_val": X_VAL,
        "y_val": Y_VAL,
        "sample_weight_val": WEIGHT[:40],
        "early_stopping": True,
        "early_stopping_metric": "log_loss",
        "threshold": "f1",
    },
    "stopped early": {"early_stopping": True, "n_iter_no_change": 1, "tol": 0.5, "max_iter": 50},
    "stopped by the loss": {"n_iter_no_change": 2, "tol": 0.5, "max_iter": 50},
    "inverse scaling": {"solver": "sgd", "learning_rate": "invscaling"},
    "adaptive": {"solver": "sgd", "learning_rate": "adaptive", "tol": 1.0, "n_iter_no_change": 1},
    "a schedule": {"learning_rate": "cosine", "dropout": 0.2},
    "an average": {"averaging": bcenet.EMA(0.9), "normalization": "batch"},
    "an optimizer": {"solver": bcenet.AdamW(0.02), "loss": bcenet.FocalLoss(1.5)},
    "float32": {"dtype": "float32", "max_norm": 1.0},
}
DATA = ("y", "sample_weight", "offset", "X_val", "y_val", "sample_weight_val")


def split(name, **more):
    """The parameters and the data of a fit."""
    given = {"y": Y} | FITS[name] | more
    data = {key: given.pop(key) for key in DATA if key in given}
    return given, (X, data.pop("y")), data


@pytest.mark.parametrize("name", FITS)
def test_d4_resumed_at_any_step_equals_uninterrupted(every_checkpoint, path, name):
    given, arrays, data = split(name)
    expected = make(**given).fit(*arrays, **data)
    wanted = learned(expected)
    place = {"checkpoint": path, "checkpoint_every": 1}
    assert learned(make(**given).fit(*arrays, **data, **place)) == wanted
    rows = 90
    if given.get("early_stopping") and "X_val" not in data:
        rows -= -(-90 * int(100 * given.get("validation_fraction", 0.1)) // 100)
    steps = -(-rows // 20) * expected.n_iter_
    assert len(every_checkpoint) == steps
    for place in [*range(0, steps, max(1, steps // 8)), steps - 1]:
        with open(path, "wb") as file:
            file.write(every_checkpoint[place])
        resumed = make(**given)
        assert resumed.fit(*arrays, **data, checkpoint=path, resume=True) is resumed
        assert learned(resumed) == wanted
        assert resumed.predict(X).tolist() == expected.predict(X).tolist()


@pytest.mark.parametrize(
    ("name", "between"),
    [
        *((name, "fit") for name in ("early stopping", "adaptive", "a schedule", "an average")),
        *((name, "partial_fit") for name in ("adaptive", "a schedule")),
    ],
)
def test_d4_a_warm_start_that_was_stopped_goes_on(every_checkpoint, path, name, between):
    """The second fit is resumed, by a new estimator, and a third one goes on from it."""
    given, arrays, data = split(name, warm_start=True)

    def first():
        classifier = make(**given)
        if between == "fit":
            return classifier.fit(*arrays, **data)
        return classifier.partial_fit(X[:30], Y[:30], ["no", "yes"])

    expected = first().fit(*arrays, **data)
    second = learned(expected)
    third = learned(expected.fit(*arrays, **data))
    first().fit(*arrays, **data, checkpoint=path, checkpoint_every=3)
    for content in every_checkpoint[:]:
        with open(path, "wb") as file:
            file.write(content)
        resumed = make(**given).fit(*arrays, **data, checkpoint=path, resume=True)
        assert learned(resumed) == second
        resumed = pickle.loads(pickle.dumps(resumed))
        assert learned(resumed.fit(*arrays, **data)) == third


@pytest.mark.parametrize("seed", [None, np.random.RandomState(5)], ids=["none", "RandomState"])
def test_the_rows_held_out_are_those_of_the_fit_whatever_random_state_is(
    every_checkpoint, path, seed
):
    given = {"early_stopping": True, "random_state": seed}
    expected = make(**given).fit(X, Y, checkpoint=path, checkpoint_every=7)
    wanted = learned(expected)
    for content in every_checkpoint[:]:
        with open(path, "wb") as file:
            file.write(content)
        before = np.random.mtrand._rand.get_state()[1].tolist()
        resumed = make(**given).fit(X, Y, checkpoint=path, resume=True)
        assert learned(resumed) == wanted
        if seed is not None:
            assert np.random.mtrand._rand.get_state()[1].tolist() == before
    other = np.random.RandomState(np.random.PCG64(0))
    with pytest.raises(ValueError, match="random_state must have the bit generator MT19937"):
        make(early_stopping=True, random_state=other).fit(X, Y, checkpoint=path)


def test_callbacks_go_on(every_checkpoint, path):
    whole = LearningRateLogger()
    make(callbacks=whole, learning_rate="cosine").fit(X, Y)
    make(callbacks=[LearningRateLogger()], learning_rate="cosine").fit(X, Y, checkpoint=path)
    with open(path, "wb") as file:
        file.write(every_checkpoint[1])
    again = LearningRateLogger()
    epochs = []
    callbacks = [again, lambda state: epochs.append(state.epoch)]
    make(callbacks=callbacks, learning_rate="cosine").fit(X, Y, checkpoint=path, resume=True)
    assert again.learning_rates == whole.learning_rates
    assert epochs == [3, 4]
    with pytest.raises(ValueError, match="callbacks must be those of the checkpoint's fit"):
        make(learning_rate="cosine").fit(X, Y, checkpoint=path, resume=True)


def test_a_resumed_fit_says_what_the_whole_one_says(every_checkpoint, path, capsys):
    """Lines, and the warning that max_iter was the end."""
    given = {"verbose": True, "early_stopping": True}

    def say(**more):
        with pytest.warns(ConvergenceWarning, match=r"Maximum iterations \(4\) reached"):
            make(**given).fit(X, Y, **more)
        return capsys.readouterr().out.splitlines()

    lines = say(checkpoint=path)
    with open(path, "wb") as file:
        file.write(every_checkpoint[1])
    assert lines[4:] == say(checkpoint=path, resume=True)
    assert say(checkpoint=path, resume=True) == []


@pytest.mark.skipif(not hasattr(BCENetClassifier, "set_callbacks"), reason="scikit-learn < 1.9")
@pytest.mark.parametrize("done", [2, 4])
def test_scikit_learn_s_callbacks_see_the_epochs_that_are_left(every_checkpoint, path, done):
    class Recorder:
        def __init__(self):
            self.calls = []

        def setup(self, estimator, context):
            self.calls.append("setup")

        def teardown(self, estimator, context):
            self.calls.append("teardown")

        def on_fit_task_begin(self, estimator, context):
            self.calls.append(f"begin {context.task_name}")

        def on_fit_task_end(self, estimator, context):
            self.calls.append(f"end {context.task_name}")

    make().fit(X, Y, checkpoint=path)
    with open(path, "wb") as file:
        file.write(every_checkpoint[done - 1])
    recorder = Recorder()
    make().set_callbacks(recorder).fit(X, Y, checkpoint=path, resume=True)
    epochs = ["begin epoch", "end epoch"] * (4 - done)
    assert recorder.calls == ["setup", "begin fit", *epochs, "end fit", "teardown"]


def test_a_fitted_estimator_forgets_its_fit_when_it_goes_on_from_a_checkpoint(path):
    given, arrays, _ = split("plain", warm_start=True)
    wanted = learned(make(**given).fit(*arrays, checkpoint=path))
    other = make(**given).fit(X[:, :3], CLASSES)
    assert learned(other.fit(*arrays, checkpoint=path, resume=True)) == wanted


def test_ctrl_c_keeps_what_was_learned_and_the_rest_can_follow(path):
    wanted = learned(make(averaging=bcenet.SWA(0.2)).fit(X, Y))

    def interrupt(state):
        if state.epoch == 2:
            raise KeyboardInterrupt

    stopped = make(averaging=bcenet.SWA(0.2), callbacks=interrupt)
    with pytest.warns(UserWarning, match="Training interrupted by user"):
        stopped.fit(X, Y, checkpoint=path)
    assert stopped.n_iter_ == 2
    again = make(averaging=bcenet.SWA(0.2)).fit(X, Y, checkpoint=path, resume=True)
    assert again.n_iter_ == 4
    assert learned(again) == wanted


def test_in_a_pipeline_and_a_folder(tmp_path):
    """The same call again goes on, and there are the last two checkpoints."""
    folder = f"{tmp_path / 'run'}{os.sep}"

    def stop(state):
        if state.epoch == stopping:
            raise SystemExit

    def fit(**more):
        pipeline = make_pipeline(StandardScaler(), make(callbacks=stop))
        given = {"checkpoint": folder} | more
        pipeline.fit(X, Y, **{f"bcenetclassifier__{name}": v for name, v in given.items()})
        return learned(pipeline[-1])

    stopping = 3
    with pytest.raises(SystemExit):
        fit()
    assert len(os.listdir(folder)) == 2
    stopping = None
    wanted = learned(make_pipeline(StandardScaler(), make()).fit(X, Y)[-1])
    assert fit(resume=True) == wanted
    with pytest.raises(ValueError, match="checkpoint must be a folder without checkpoints of"):
        fit()


def test_sparse_rows(path, every_checkpoint):
    import scipy.sparse

    S = scipy.sparse.csr_array(np.where(np.abs(X) > 0.5, X, 0.0))
    wanted = learned(make(early_stopping=True).fit(S, Y, checkpoint=path))
    with open(path, "wb") as file:
        file.write(every_checkpoint[1])
    again = make(early_stopping=True).fit(S, Y, checkpoint=path, resume=True)
    assert learned(again) == wanted


# ------------------------------------------------------------------------------- kill -9

_KILLED = """
import sys
from test_sklearn_checkpoint import KILLED, X, Y, make
from helpers import Begun, checkpoints_in, digest

folder = sys.argv[1]
classifier = make(**KILLED, callbacks=Begun())
again = bool(checkpoints_in(folder))
classifier.fit(X, Y, checkpoint=folder + "/", checkpoint_every=1, resume=again)
print(digest(classifier.network_.parameters))
"""
KILLED = {"max_iter": 60, "early_stopping": True, "n_iter_no_change": np.inf}


def kill(folder, kills, seed):
    expected = make(**KILLED).fit(X, Y)

    def resume(there):
        resumed = make(**KILLED, callbacks=Begun())
        resumed.fit(X, Y, checkpoint=there, checkpoint_every=10**6, resume=True)
        assert learned(resumed) == learned(expected)
        return digest(resumed.network_.parameters)

    kill_and_go_on(_KILLED, folder, kills, seed, resume, digest(expected.network_.parameters))


def test_c1_a_killed_fit_goes_on(tmp_path):
    kill(tmp_path / "run", 4, seed=0)


@pytest.mark.slow
def test_c1_100_kills(tmp_path):
    kill(tmp_path / "run", 100, seed=1)


# ------------------------------------------------------------------------ what differs (C6)

CHANGED = {
    "alpha": (0.001, "alpha must be 0.0001, as in the checkpoint's fit; got 0.001"),
    "hidden_layer_sizes": ((7,), "hidden_layer_sizes must be [6], as in"),
    "max_iter": (9, "max_iter must be 4, as in the checkpoint's fit; got 9"),
    "random_state": (4, "random_state must be 3, as in the checkpoint's fit; got 4"),
    "early_stopping": (False, "early_stopping must be True, as in"),
    "validation_fraction": (0.2, "validation_fraction must be 0.1, as in"),
    "n_iter_no_change": (np.inf, "n_iter_no_change must be 10, as in"),
    "class_weight": ({"yes": 3.0}, "class_weight must be {'yes': 2.0}, as in"),
    "solver": ("sgd", "solver must be 'Adam(learning_rate=0.01"),
    "early_stopping_metric": (min, "early_stopping_metric must be 'accuracy', as in"),
    "dtype": (np.float32, "dtype must be None, as in the checkpoint's fit; got 'float32'"),
}
GIVEN = {"early_stopping": True, "class_weight": {"yes": 2.0}, "solver": bcenet.Adam(0.01)}


@pytest.fixture(scope="module")
def checkpointed(tmp_path_factory):
    path = str(tmp_path_factory.mktemp("checkpoint") / "run.bcenet")
    make(**GIVEN).fit(X, Y, checkpoint=path)
    return path


@pytest.mark.parametrize("name", CHANGED)
def test_c6_another_parameter_is_refused(checkpointed, name):
    value, message = CHANGED[name]
    classifier = make(**(GIVEN | {name: value}))
    with pytest.raises(ValueError, match=re.escape(message)):
        classifier.fit(X, Y, checkpoint=checkpointed, resume=True)
    assert not hasattr(classifier, "network_")


def test_c6_what_may_be_another(checkpointed):
    given = GIVEN | {
        "n_threads": 2,
        "warm_start": True,
        "alpha": np.float64(1e-4),
        "hidden_layer_sizes": np.array([6]),
        "solver": bcenet.Adam(0.01),
        "class_weight": {"yes": 2},
    }
    resumed = make(**given).fit(X, Y, checkpoint=checkpointed, resume=True)
    assert digest(resumed.network_.parameters) == digest(
        make(**GIVEN).fit(X, Y).network_.parameters
    )


def test_c6_other_data_are_refused(checkpointed):
    changed = X.copy()
    changed[7, 2] += 1e-9
    swapped = Y.copy()
    swapped[[0, 1, 2, 3, 4, 5, 6, 7]] = Y[[7, 6, 5, 4, 3, 2, 1, 0]]
    for arrays, message in [
        ((changed, Y), "X must hold the values of the checkpoint's fit"),
        ((X, swapped), "must hold the values of the checkpoint's fit"),
        ((X[:-1], Y[:-1]), "X must have the shape of the checkpoint's fit"),
        ((X, Y, WEIGHT), "sample_weight must hold the values"),
    ]:
        with pytest.raises(ValueError, match=message):
            make(**GIVEN).fit(*arrays, checkpoint=checkpointed, resume=True)


def test_mistakes(tmp_path, path, checkpointed):
    for given, message in [
        ({"resume": True}, "checkpoint must be a path with resume=True; got None"),
        ({"checkpoint_every": 3}, "checkpoint_every must be None without checkpoint; got 3"),
        ({"checkpoint": path, "checkpoint_every": 0}, "checkpoint_every must be at least 1"),
    ]:
        with pytest.raises(ValueError, match=message):
            make().fit(X, Y, **given)
    for given, message in [
        ({"checkpoint": path, "resume": 1}, "resume must be True or False; got 1"),
        ({"checkpoint": 3}, "checkpoint must be a path; got 3"),
    ]:
        with pytest.raises(TypeError, match=message):
            make().fit(X, Y, **given)
    for solver in ("lbfgs", bcenet.LBFGS()):
        with pytest.raises(ValueError, match="solver must not be 'lbfgs' with checkpoint"):
            make(solver=solver).fit(X, Y, checkpoint=path)
    with pytest.raises(FileNotFoundError):
        make().fit(X, Y, checkpoint=path, resume=True)
    assert os.listdir(tmp_path) == []
    bcenet.fit(bcenet.Network([5, 1]), X, Y == "yes", checkpoint=path)
    with pytest.raises(ValueError, match="checkpoint must be of a fit of BCENetC"):
        make().fit(X, Y, checkpoint=path, resume=True)
    with pytest.raises(ValueError, match=r"callbacks must be those of the .*: Monitor; got none"):
        bcenet.resume(checkpointed, X, Y == "yes")


def put(*keys, value):
    def change(tensors, state):
        for key in keys[:-1]:
            state = state[key]
        state[keys[-1]] = value

    return change


def put_tensor(name, change):
    return lambda tensors, state: tensors.update({name: change(tensors[name])})


NONSENSE = {
    "no parameters": put("parameters", value=3),
    "nothing learned": put("learned", value={}),
    "epochs below 0": put("learned", "n_iter_", value=-1),
    "a text for a score": put("learned", "best_validation_score_", value="best"),
    "a text for a truth": put("stopped", value="no"),
    "no place of a generator": put("split", value=[1, 2]),
    "a short key": put_tensor("callbacks.0.split_key", lambda a: a[:5].copy()),
    "a best of another shape": put_tensor("callbacks.0.best_parameters", lambda a: a[1:].copy()),
    "no curve": put("loss_curve_", value=4),
}


@pytest.mark.parametrize("name", NONSENSE)
def test_m1_nonsense_with_a_right_digest_is_refused(checkpointed, tmp_path, name):
    tensors, metadata = model_file.read(checkpointed)
    if name == "no curve":
        del tensors["callbacks.0.loss_curve_"]
    NONSENSE[name](tensors, metadata["config"]["epoch"]["callbacks"][0]["state"])
    path = tmp_path / "bad.bcenet"
    model_file.write(path, tensors, metadata)
    classifier = make(**GIVEN)
    with pytest.raises(bcenet.ModelFormatError, match=re.escape(str(path))):
        classifier.fit(X, Y, checkpoint=path, resume=True)
    assert not hasattr(classifier, "network_")


# ------------------------------------------------------------------------- scikit-learn's


def test_it_is_no_parameter_so_clones_and_searches_share_no_file(path):
    classifier = make().fit(X, Y, checkpoint=path)
    assert not {"checkpoint", "checkpoint_every", "resume"} & set(clone(classifier).get_params())
    before = digest(np.fromfile(path, np.uint8))
    GridSearchCV(make(max_iter=2), {"alpha": [0.0, 0.1]}, cv=2).fit(X, Y)
    assert digest(np.fromfile(path, np.uint8)) == before


def test_sigterm_that_becomes_an_exception_leaves_a_checkpoint(tmp_path, path):
    """What docs/sklearn.md says of a job that is to be ended from outside."""
    code = """
import signal, sys
from test_sklearn_checkpoint import X, Y, make
def begun(state):
    if state.epoch == 1:
        print("begun", flush=True)
signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(143))
make(max_iter=10**6, n_iter_no_change=float("inf"), callbacks=begun).fit(
    X, Y, checkpoint=sys.argv[1], checkpoint_every=10**6
)
"""
    tests = os.path.dirname(__file__)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([tests, *sys.path])}
    command = [sys.executable, "-c", code, path]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as child:
        assert child.stdout.readline() == "begun\n"
        child.send_signal(signal.SIGTERM)
        child.communicate()
    assert child.returncode == 143
    assert bcenet.checkpoint.read(path).config["configuration"]["epochs"] == 10**6
