"""Make a two-class set of simulated particle collisions, of any size, in constant memory.

    python examples/make_collisions.py 1000000 collisions.npy      also collisions-y.npy
    python examples/make_collisions.py 1000000 collisions.parquet  one file, the label in "signal"
    python examples/make_collisions.py 1000000 collisions --files 8  a folder of Parquet files

The 28 columns are those of the HIGGS set: 21 measured quantities (momenta, angles and b-tags of a
lepton, of the missing energy and of four jets) and 7 invariant masses derived from them. The
numbers are drawn, not taken from it: both classes end in W W b b, the signal by way of heavy
resonances (H0 -> W H, H -> W h, h -> b b), the background from two top quarks, and all energies are
blurred as a detector does. Every decay is the exact two-body decay, isotropic at rest.

Row i is a function of the seed and of i alone, so a smaller set is the beginning of a larger one.

Source of the two processes and of the columns: Baldi, Sadowski and Whiteson, "Searching for exotic
particles in high-energy physics with deep learning", Nature Communications 5, 2014.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

COLUMNS = [
    "lepton_pt",
    "lepton_eta",
    "lepton_phi",
    "missing_energy",
    "missing_energy_phi",
    "jet1_pt",
    "jet1_eta",
    "jet1_phi",
    "jet1_b_tag",
    "jet2_pt",
    "jet2_eta",
    "jet2_phi",
    "jet2_b_tag",
    "jet3_pt",
    "jet3_eta",
    "jet3_phi",
    "jet3_b_tag",
    "jet4_pt",
    "jet4_eta",
    "jet4_phi",
    "jet4_b_tag",
    "m_jj",
    "m_jjj",
    "m_lv",
    "m_jlv",
    "m_bb",
    "m_wbb",
    "m_wwbb",
]
TARGET = "signal"
BLOCK_ROWS = 2**16

# Masses in GeV.
W, TOP, B, HIGGS, CHARGED, HEAVY = 80.4, 172.5, 4.7, 125.0, 325.0, 425.0


class Draws:
    """Random numbers of one block: functions of the seed and the block's number."""

    def __init__(self, seed: int, block: int) -> None:
        self._generator = np.random.Generator(np.random.Philox(key=[seed, block]))

    def uniform(self, low: float = 0.0, high: float = 1.0) -> np.ndarray:
        return low + (high - low) * self._generator.random(BLOCK_ROWS)

    def exponential(self, mean: float) -> np.ndarray:
        return -mean * np.log1p(-self.uniform())

    def normal(self, deviation: float = 1.0) -> np.ndarray:
        radius = np.sqrt(-2 * np.log1p(-self.uniform()))
        return deviation * radius * np.cos(2 * np.pi * self.uniform())


def mass(p: np.ndarray) -> np.ndarray:
    """The invariant mass of four-momenta (n, 4), energy first: sqrt(E^2 - |p|^2)."""
    return np.sqrt(np.maximum(p[:, 0] ** 2 - np.sum(p[:, 1:] ** 2, axis=1), 0))


def polar(pt: np.ndarray, eta: np.ndarray, phi: np.ndarray, m: np.ndarray) -> np.ndarray:
    """Four-momenta from transverse momentum, pseudorapidity, angle and mass."""
    momentum = np.stack([pt * np.cos(phi), pt * np.sin(phi), pt * np.sinh(eta)], axis=1)
    energy = np.sqrt(m**2 + np.sum(momentum**2, axis=1))
    return np.column_stack([energy, momentum])


def decay(
    parent: np.ndarray, m1: float | np.ndarray, m2: float | np.ndarray, draws: Draws
) -> tuple[np.ndarray, np.ndarray]:
    """The four-momenta of two daughters, isotropic where the parent rests, then boosted."""
    m = np.maximum(mass(parent), m1 + m2 + 1e-3)
    p = np.sqrt((m**2 - (m1 + m2) ** 2) * (m**2 - (m1 - m2) ** 2)) / (2 * m)
    cosine, phi = draws.uniform(-1, 1), draws.uniform(-np.pi, np.pi)
    sine = np.sqrt(1 - cosine**2)
    momentum = p[:, None] * np.stack([sine * np.cos(phi), sine * np.sin(phi), cosine], axis=1)
    energy = np.sqrt(m1**2 + p**2)
    # The boost: E' = (E E_q + P q) / M, q' = q + P (q P / (E + M) + E_q) / M.
    along = np.sum(parent[:, 1:] * momentum, axis=1)
    total = np.sqrt(m**2 + np.sum(parent[:, 1:] ** 2, axis=1))
    first = np.empty_like(parent)
    first[:, 0] = (total * energy + along) / m
    factor = (along / (total + m) + energy) / m
    first[:, 1:] = momentum + parent[:, 1:] * factor[:, None]
    whole = np.column_stack([total, parent[:, 1:]])
    return first, whole - first


def resonance(m: float, width: float, draws: Draws) -> np.ndarray:
    """Masses of unstable particles: a Cauchy distribution, cut at eight widths."""
    shift = np.tan(np.pi * (draws.uniform() - 0.5)) * width / 2
    return m + np.clip(shift, -8 * width, 8 * width)


def produced(m: np.ndarray, draws: Draws) -> np.ndarray:
    """A system of mass m as it leaves the collision, with some transverse momentum."""
    return polar(draws.exponential(40.0), draws.normal(1.0), draws.uniform(-np.pi, np.pi), m)


def collisions(signal: bool, draws: Draws) -> tuple[np.ndarray, ...]:
    """True four-momenta of (lepton, neutrino, two light quarks, two b quarks)."""
    w1, w2 = resonance(W, 2.1, draws), resonance(W, 2.1, draws)
    if signal:
        charged = resonance(CHARGED, 12.0, draws)
        start = produced(resonance(HEAVY, 16.0, draws), draws)
        one, rest = decay(start, w1, charged, draws)
        two, light = decay(rest, w2, HIGGS, draws)
        b1, b2 = decay(light, B, B, draws)
    else:
        top1, top2 = resonance(TOP, 1.4, draws), resonance(TOP, 1.4, draws)
        start = produced(top1 + top2 + draws.exponential(90.0), draws)
        first, second = decay(start, top1, top2, draws)
        one, b1 = decay(first, w1, B, draws)
        two, b2 = decay(second, w2, B, draws)
    swap = draws.uniform() < 0.5
    leptonic = np.where(swap[:, None], one, two)
    hadronic = np.where(swap[:, None], two, one)
    return (*decay(leptonic, 0.0, 0.0, draws), *decay(hadronic, 0.0, 0.0, draws), b1, b2)


def measured(p: np.ndarray, resolution: float, draws: Draws) -> tuple[np.ndarray, ...]:
    """(pt, eta, phi) of true four-momenta as a detector sees them."""
    pt = np.hypot(p[:, 1], p[:, 2])
    eta = np.arcsinh(p[:, 3] / np.maximum(pt, 1e-6))
    phi = np.arctan2(p[:, 2], p[:, 1])
    blurred = pt * np.exp(draws.normal(1.0) * resolution * (1 + 10 / (pt + 10)))
    return blurred, np.clip(eta, -4, 4), phi


def measure(particles: tuple[np.ndarray, ...], draws: Draws) -> np.ndarray:
    """The 28 columns of a block."""
    lepton, neutrino, *partons = particles
    n = BLOCK_ROWS
    zero = np.zeros(n)
    columns = list(measured(lepton, 0.02, draws))
    seen_lepton = polar(*columns, zero)
    missing = neutrino[:, 1:3] + np.stack([draws.normal(25.0), draws.normal(25.0)], axis=1)
    energy = np.hypot(missing[:, 0], missing[:, 1])
    columns += [energy, np.arctan2(missing[:, 1], missing[:, 0])]

    jets = np.empty((n, 4, 4))  # pt, eta, phi, b-tag
    for j, parton in enumerate(partons):
        jets[:, j, :3] = np.stack(measured(parton, 0.22, draws), axis=1)
        # A quark is tagged by how much of its track starts away from the collision.
        is_b = j >= 2
        jets[:, j, 3] = np.clip(draws.normal(0.7) + (1.2 if is_b else 0.6), 0, 3)
    order = np.argsort(-jets[:, :, 0], axis=1, kind="stable")
    jets = np.take_along_axis(jets, order[:, :, None], axis=1)
    columns += [jets[:, j, k] for j in range(4) for k in range(4)]

    # The derived columns see only what was measured: the two best tags count as the b quarks.
    by_tag = np.argsort(-jets[:, :, 3], axis=1, kind="stable")
    jets = np.take_along_axis(jets, by_tag[:, :, None], axis=1)
    b1, b2, j1, j2 = (polar(jets[:, j, 0], jets[:, j, 1], jets[:, j, 2], zero) for j in range(4))
    seen_neutrino = polar(energy, neutrino_eta(seen_lepton, missing), columns[4], zero)
    light, leptonic, pair = j1 + j2, seen_lepton + seen_neutrino, b1 + b2
    closer = np.abs(mass(light + b1) - TOP) < np.abs(mass(light + b2) - TOP)
    near, far = np.where(closer[:, None], b1, b2), np.where(closer[:, None], b2, b1)
    columns += [
        mass(light),
        mass(light + near),
        mass(leptonic),
        mass(leptonic + far),
        mass(pair),
        mass(light + pair),
        mass(light + leptonic + pair),
    ]
    return np.stack(columns, axis=1)


def neutrino_eta(lepton: np.ndarray, missing: np.ndarray) -> np.ndarray:
    """The neutrino's pseudorapidity, from the mass of the W that it came from with the lepton.

    m_W^2 = 2 pt_l pt_v (cosh(eta_l - eta_v) - cos(phi_l - phi_v)); the solution nearer to 0, and
    the lepton's own where there is none.
    """
    pt, energy = np.hypot(lepton[:, 1], lepton[:, 2]), np.hypot(missing[:, 0], missing[:, 1])
    product = np.maximum(pt * energy, 1e-6)
    eta = np.arcsinh(lepton[:, 3] / np.maximum(pt, 1e-6))
    cosine = (lepton[:, 1] * missing[:, 0] + lepton[:, 2] * missing[:, 1]) / product
    gap = np.arccosh(np.maximum(W**2 / (2 * product) + cosine, 1.0))
    return np.clip(np.where(eta > 0, eta - gap, eta + gap), -4, 4)


def block(seed: int, number: int) -> tuple[np.ndarray, np.ndarray]:
    """One block of rows: X float32 (65536, 28) and y uint8 (65536,), 1 for signal."""
    draws = Draws(seed, number)
    chosen = draws.uniform() < 0.53  # as in the HIGGS set
    signal = measure(collisions(True, draws), draws)
    background = measure(collisions(False, draws), draws)
    X = np.where(chosen[:, None], signal, background)
    momenta = [i for i, name in enumerate(COLUMNS) if name[:2] == "m_" or "_pt" in name]
    X[:, [*momenta, COLUMNS.index("missing_energy")]] /= 100.0  # in units near 1
    return X.astype(np.float32), chosen.astype(np.uint8)


def blocks(rows: int, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """All rows, block by block."""
    for number in range(-(-rows // BLOCK_ROWS)):
        X, y = block(seed, number)
        held = min(BLOCK_ROWS, rows - number * BLOCK_ROWS)
        yield X[:held], y[:held]


def write_npy(rows: int, path: Path, seed: int) -> None:
    """X to ``path``, y beside it with "-y" added to the name: no half-written file is left."""
    paths = [path, path.with_name(f"{path.stem}-y.npy")]
    unfinished = [p.with_name(p.name + ".unfinished") for p in paths]
    with open(unfinished[0], "wb") as file_x, open(unfinished[1], "wb") as file_y:
        for file, shape, dtype in (
            (file_x, (rows, len(COLUMNS)), np.float32),
            (file_y, (rows,), np.uint8),
        ):
            header = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
        for X, y in blocks(rows, seed):
            file_x.write(X.tobytes())
            file_y.write(y.tobytes())
    for old, new in zip(unfinished, paths, strict=True):
        os.replace(old, new)


def write_parquet(rows: int, path: Path, seed: int, files: int | None) -> None:
    """One file, or a folder of ``files`` of about equal size, a block a row group."""
    import pyarrow
    import pyarrow.parquet

    fields = [(name, pyarrow.float32()) for name in COLUMNS]
    schema = pyarrow.schema([*fields, (TARGET, pyarrow.uint8())])
    targets = [path]
    if files is not None:
        path.mkdir(parents=True, exist_ok=True)
        targets = [path / f"part-{i:04d}.parquet" for i in range(files)]
    parts = blocks(rows, seed)
    count = -(-rows // BLOCK_ROWS)
    for i, target in enumerate(targets):
        unfinished = target.with_name(target.name + ".unfinished")
        with pyarrow.parquet.ParquetWriter(unfinished, schema) as writer:
            for _ in range(count * i // len(targets), count * (i + 1) // len(targets)):
                X, y = next(parts)
                arrays = [*X.T, y]
                writer.write_table(
                    pyarrow.table([pyarrow.array(a) for a in arrays], schema=schema),
                    row_group_size=BLOCK_ROWS,
                )
        os.replace(unfinished, target)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rows", type=int)
    parser.add_argument("path", type=Path, help="NAME.npy, NAME.parquet or, with --files, a folder")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--files", type=int, help="write a folder of so many Parquet files")
    options = parser.parse_args(arguments)
    if options.rows < 1 or options.seed < 0:
        parser.error("rows must be at least 1 and the seed at least 0")
    if options.files is not None:
        if not 1 <= options.files <= -(-options.rows // BLOCK_ROWS):
            parser.error(f"--files must be from 1 to rows / {BLOCK_ROWS}, rounded up")
        write_parquet(options.rows, options.path, options.seed, options.files)
    elif options.path.suffix == ".npy":
        write_npy(options.rows, options.path, options.seed)
    elif options.path.suffix == ".parquet":
        write_parquet(options.rows, options.path, options.seed, None)
    else:
        parser.error("the path must end in .npy or .parquet, or be a folder, with --files")


if __name__ == "__main__":
    main()
