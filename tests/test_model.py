"""Models and networks in files: what comes back, and what is refused though its digest is right."""

from __future__ import annotations

import math

import numpy as np
import pytest

import bcenet
from bcenet import model_file
from bcenet.errors import ModelFormatError
from bcenet.model import Model, load_model
from bcenet.tabular import TabularEncoder

ROWS = 60
RNG = np.random.default_rng(5)
TABLE = {
    "size": RNG.normal(size=ROWS),
    "count": np.where(RNG.random(ROWS) < 0.1, np.nan, RNG.integers(0, 9, ROWS)),
    "colour": RNG.choice(np.array(["red", "blue", "?", "grün"], dtype=object), ROWS),
}


def make_model(dtype="float32", labels=("no", "yes"), **options):
    encoder = TabularEncoder(min_frequency=2).fit(TABLE)
    network = bcenet.Network(
        [encoder.n_features_out, 5, 3, 1], ["tanh", "gelu"], dtype=dtype, random_state=1
    )
    return Model(encoder, network, labels, **options)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "saved.bcenet"


# --- models


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_model_comes_back_the_same(path, dtype):
    training = {"epochs": 3, "losses": [0.5, 0.25]}
    model = make_model(dtype, threshold=0.3, target="answer", training=training)
    model.save(path)
    again = load_model(path)
    assert again.labels == ("no", "yes")
    assert again.threshold == 0.3
    assert again.target == "answer"
    assert again.training == training
    assert again.network.config() == model.network.config()
    assert again.network.parameters.tobytes() == model.network.parameters.tobytes()
    assert again.encoder.feature_names_out == model.encoder.feature_names_out
    assert again.predict_proba(TABLE).tobytes() == model.predict_proba(TABLE).tobytes()
    again.save(path.with_name("again"))
    assert path.with_name("again").read_bytes() == path.read_bytes()


def test_probability_logit_and_label_agree():
    model = make_model("float64")
    logits = model.decision_function(TABLE)
    probability = model.predict_proba(TABLE)
    assert logits.shape == probability.shape == (ROWS,)
    np.testing.assert_allclose(probability, 1 / (1 + np.exp(-logits)), rtol=1e-15)
    expected = np.where(logits >= 0, "yes", "no")
    assert 0 < (expected == "yes").sum() < ROWS
    np.testing.assert_array_equal(model.predict(TABLE), expected)
    model.threshold = float(probability[7])
    assert model.predict(TABLE)[7] == "yes"  # at the threshold is positive
    model.threshold = math.nextafter(probability[7], 1)
    assert model.predict(TABLE)[7] == "no"


@pytest.mark.parametrize(
    "labels",
    [("no", "yes"), (0, 1), (False, True), (1.5, 2.5), ("0", 1), (np.int64(3), np.int64(1))],
)
def test_labels_keep_their_types(path, labels):
    model = make_model(labels=labels)
    model.save(path)
    predicted = load_model(path).predict(TABLE).tolist()
    assert {type(label) for label in predicted} <= {
        type(v.item() if isinstance(v, np.generic) else v) for v in labels
    }
    assert set(predicted) <= set(labels)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"labels": ("a",)}, ValueError, r"labels must be \(negative, positive\); got \('a',\)"),
        ({"labels": "ab"}, ValueError, "labels must be"),
        ({"labels": ("a", "a")}, ValueError, "labels must be different; got 'a' twice"),
        ({"labels": (0, False)}, ValueError, "labels must be different"),
        ({"labels": (None, "a")}, TypeError, "labels must be strings or numbers; got None"),
        ({"labels": (0.0, math.nan)}, ValueError, "labels must be finite; got nan"),
        ({"threshold": 1.5}, ValueError, "threshold must be finite, at least 0, at most 1"),
        ({"threshold": "0.5"}, TypeError, "threshold must be a number; got '0.5'"),
        ({"target": 3}, TypeError, "target must be a string; got 3"),
        ({"training": []}, TypeError, r"training must be a dict; got \[\]"),
    ],
)
def test_wrong_arguments(options, error, message):
    with pytest.raises(error, match=message):
        make_model(**options)


def test_a_network_that_does_not_fit_the_encoder_is_refused():
    encoder = TabularEncoder(min_frequency=2).fit(TABLE)
    n = encoder.n_features_out
    with pytest.raises(ValueError, match=f"the encoder's {n} columns as inputs; got {n + 1}"):
        Model(encoder, bcenet.Network([n + 1, 1]), ("no", "yes"))
    with pytest.raises(ValueError, match="network must have one output; got 2"):
        Model(encoder, bcenet.Network([n, 2]), ("no", "yes"))


def test_a_missing_column_is_named():
    with pytest.raises(ValueError, match="missing: 'colour'"):
        make_model().predict({"size": [1.0], "count": [2.0]})


# --- networks


@pytest.mark.parametrize("sizes", [[3, 1], [3, 4, 2], [1, 1, 1, 1]])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_network_comes_back_the_same(path, sizes, dtype):
    network = bcenet.Network(sizes, "elu", dtype=dtype, random_state=2)
    network.save(path)
    again = bcenet.load(path)
    assert again.config() == network.config()
    assert again.parameters.tobytes() == network.parameters.tobytes()
    X = np.random.default_rng(0).normal(size=(5, sizes[0]))
    assert again.predict_proba(X).tobytes() == network.predict_proba(X).tobytes()
    again.parameters[:] = 0  # its own memory, to train on


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_are_not_saved(path, value):
    network = bcenet.Network([3, 2, 1])
    network.parameters[4] = value
    with pytest.raises(ValueError, match=r"must be finite; number 4 is -?(nan|inf)"):
        network.save(path)
    assert not path.exists()


def test_the_other_kind_of_file_is_refused_with_the_function_to_use(path):
    make_model().save(path)
    with pytest.raises(ModelFormatError, match=r"holds a 'model'.*bcenet\.load_model reads it"):
        bcenet.load(path)
    bcenet.Network([2, 1]).save(path)
    with pytest.raises(ModelFormatError, match=r"holds a 'network'.*bcenet\.load reads it"):
        load_model(path)


@pytest.mark.parametrize("load", [bcenet.load, load_model])
def test_a_missing_file_is_a_missing_file(path, load):
    with pytest.raises(FileNotFoundError):
        load(path)


# --- M1: wrong content under a right digest


def rewritten(path, kind, *, tensors=None, **config):
    """The parts of a saved file, some replaced, saved again; None takes a part away."""

    def merged(old, new):
        return {name: value for name, value in (old | new).items() if value is not None}

    old_tensors, metadata = model_file.read(path)
    model_file.write(
        path,
        merged(old_tensors, tensors or {}),
        {"kind": kind, "config": merged(metadata["config"], config)},
    )


NETWORK = {
    "layer_sizes": [3, 2, 1],
    "activations": ["relu"],
    "normalization": [None],
    "feature_scale": False,
    "dtype": "float32",
}
PARAMETERS = np.zeros(11, dtype=np.float32)


def test_the_unchanged_parts_are_accepted(path):
    bcenet.Network([3, 2, 1]).save(path)
    rewritten(path, "network", network=NETWORK, tensors={"network.parameters": PARAMETERS})
    assert bcenet.load(path).parameters.tolist() == [0] * 11


@pytest.mark.parametrize(
    "changes",
    [
        {"network": None},
        {"network": []},
        {"network": "text"},
        {"network": 3},
        {"network": {}},
        {"network": NETWORK | {"extra": 1}},
        {"network": NETWORK | {"layer_sizes": [3, 2, 2]}},
        {"network": NETWORK | {"layer_sizes": [2**40, 2**40, 1]}},
        {"network": NETWORK | {"layer_sizes": [10**30, 1]}},
        {"network": NETWORK | {"layer_sizes": [-11, 2, 1]}},
        {"network": NETWORK | {"layer_sizes": [3.0, 2, 1]}},
        {"network": NETWORK | {"layer_sizes": [True, 2, 1]}},
        {"network": NETWORK | {"layer_sizes": [11]}},
        {"network": NETWORK | {"layer_sizes": []}},
        {"network": NETWORK | {"layer_sizes": "321"}},
        {"network": NETWORK | {"activations": ["reluu"]}},
        {"network": NETWORK | {"activations": []}},
        {"network": NETWORK | {"activations": [["relu"]]}},
        {"network": NETWORK | {"activations": None}},
        {"network": NETWORK | {"normalization": ["bach"]}},
        {"network": NETWORK | {"normalization": ["layer"]}},  # its gains are missing
        {"network": NETWORK | {"normalization": [None, None]}},
        {"network": NETWORK | {"normalization": None}},
        {"network": NETWORK | {"feature_scale": 1}},
        {"network": NETWORK | {"feature_scale": True}},  # its factors are missing
        {"network": NETWORK | {"dtype": "float16"}},
        {"network": NETWORK | {"dtype": "float64"}},
        {"network": NETWORK | {"dtype": None}},
        {"network": NETWORK | {"dtype": ["f4"]}},
        {"tensors": {"network.parameters": None}},
        {"tensors": {"network.parameters": PARAMETERS[:-1]}},
        {"tensors": {"network.parameters": PARAMETERS.reshape(1, 11)}},
        {"tensors": {"network.parameters": PARAMETERS.astype(np.float64)}},
        {"tensors": {"network.parameters": PARAMETERS.astype(np.uint8)}},
        {"tensors": {"network.parameters": PARAMETERS + np.float32(np.nan)}},
        {"tensors": {"network.parameters": PARAMETERS + np.float32(np.inf)}},
        {"tensors": {"more": PARAMETERS}},
        {"tensors": {"network.statistics": PARAMETERS[:4]}},
    ],
)
def test_m1_wrong_networks(path, changes):
    bcenet.Network([3, 2, 1]).save(path)
    rewritten(path, "network", **changes)
    with pytest.raises(ModelFormatError, match=f"^{path}: "):
        bcenet.load(path)


@pytest.mark.parametrize(
    "changes",
    [
        {"network": NETWORK, "tensors": {"network.parameters": PARAMETERS}},
        {"encoder": None},
        {"encoder": []},
        {"encoder": {}},
        {"labels": None},
        {"labels": ["a"]},
        {"labels": ["a", "a"]},
        {"labels": ["a", ["b"]]},
        {"labels": "ab"},
        {"threshold": None},
        {"threshold": -0.5},
        {"threshold": "half"},
        {"threshold": True},
        {"target": 3},
        {"target": None},
        {"training": [1]},
        {"tensors": {"encoder.center": None}},
        {"tensors": {"encoder.center": np.array([np.nan, 0.0])}},
        {"tensors": {"encoder.scale": np.zeros((2, 1))}},
        {"tensors": {"encoder.n_edges": np.array([2**62, 2**62])}},
        {"tensors": {"encoder.more": np.zeros(1)}},
        {"tensors": {"more": np.zeros(1)}},
    ],
)
def test_m1_wrong_models(path, changes):
    make_model().save(path)
    rewritten(path, "model", **changes)
    with pytest.raises(ModelFormatError, match=f"^{path}: "):
        load_model(path)


def test_m1_every_part_of_the_encoder_is_checked(path):
    """Replace each value of the encoder's configuration, one after the other."""
    make_model().save(path)
    _, metadata = model_file.read(path)
    config = metadata["config"]["encoder"]

    def variants(value, rebuild):
        for wrong in (None, -1, "wrong", [], {}, [None]):
            if wrong != value:
                yield rebuild(wrong)
        if isinstance(value, dict):
            for key, part in value.items():
                yield from variants(part, lambda new, key=key: rebuild(value | {key: new}))
        elif isinstance(value, list):
            for i, part in enumerate(value):
                yield from variants(
                    part, lambda new, i=i: rebuild([*value[:i], new, *value[i + 1 :]])
                )

    refused = accepted = 0
    for wrong in variants(config, lambda new: new):
        rewritten(path, "model", encoder=wrong)
        try:
            load_model(path)
            accepted += 1
        except ModelFormatError:
            refused += 1
    # accepted: other names for columns and missing values, and options used by fit alone
    assert refused > 5 * accepted > 0
