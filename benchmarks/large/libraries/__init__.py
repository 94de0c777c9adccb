"""The libraries, an adapter each, and the forms in which they take part.

An adapter has a ``Trainer(training, threads)`` for each of its forms: ``prepare(epochs)`` goes back
to the starting weights and is not timed, ``run()`` is timed and trains those epochs, and
``test_scores()`` gives the logits of the rows held out.
"""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.rivals.libraries import Library

OURS = "bcenet"
# Of the other adapters.
TITLES = {"vw": "Vowpal Wabbit", "sklearn": "scikit-learn", "torch": "PyTorch"}


@dataclass(frozen=True)
class Form(Library):
    """A library as it takes part.

    Attributes:
        method: of its updates: "sgd", or "adam", which stands for all that adapt their rates.
        batch: rows of an update.
        threads: "each" if it is run on each number of threads; "one" if it can use but one; "all"
            if it starts as many as it wants.
        options: of its own.
    """

    method: str = "sgd"
    batch: int = 1
    threads: str = "each"
    options: tuple[str, ...] = ()

    def counts(self, counts: list[int]) -> list[int]:
        """The numbers of threads that it is run on, of those asked for."""
        return {"each": counts, "one": [1], "all": [max(counts)]}[self.threads]


def _forms() -> dict[str, Form]:
    forms = {}
    for method, title in (("sgd", "SGD"), ("adam", "Adam")):
        for batch in (200, 2000):
            chosen = {"method": method, "batch": batch}
            forms[f"bcenet-file-{method}-{batch}"] = Form(
                f"bcenet from a file, {title}", OURS, (), ("bcenet",), prefix="File", **chosen
            )
            forms[f"bcenet-{method}-{batch}"] = Form(
                f"bcenet in memory, {title}", OURS, (), ("bcenet",), **chosen
            )
            forms[f"torch-{method}-{batch}"] = Form(
                f"PyTorch with a DataLoader, {title}", "torch", ("torch",), ("torch",), **chosen
            )
    sklearn = {"adapter": "sklearn", "needs": ("sklearn",), "distributions": ("scikit-learn",)}
    forms["mlp"] = Form(
        "MLPClassifier.partial_fit, Adam", **sklearn, prefix="Mlp", method="adam", batch=200
    )
    for dtype in ("float32", "float64"):
        forms[f"sgd-{dtype}"] = Form(
            f"SGDClassifier.partial_fit, {dtype}",
            **sklearn,
            prefix="Sgd",
            threads="one",
            options=(dtype,),
        )
    vw = {"adapter": "vw", "needs": ("vowpalwabbit",), "distributions": ("vowpalwabbit",)}
    forms["vw-sgd"] = Form(
        "Vowpal Wabbit --sgd", **vw, threads="all", options=("--sgd", "--power_t", "0")
    )
    forms["vw"] = Form("Vowpal Wabbit, adaptive", **vw, threads="all", method="adam")
    return forms


FORMS = _forms()


def form(name: str) -> Form:
    """The form of that name."""
    return FORMS[name]
