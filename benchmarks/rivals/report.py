"""The results as tables in Markdown."""

from __future__ import annotations

from typing import Any

from benchmarks.rivals.libraries import LIBRARIES, OURS

Record = dict[str, Any]


def best(result: Record, name: str) -> Record | None:
    """A library's record at its better number of threads (float32), None without a time."""
    timed = [
        record
        for record in result["contenders"]
        if record["library"] == name and record["dtype"] == "float32" and "seconds" in record
    ]
    return min(timed, key=lambda record: record["seconds"], default=None)


def of(result: Record, threads: int, dtype: str = "float32") -> Record | None:
    """bcenet's record on so many threads, None without a time."""
    for record in result["contenders"]:
        if (record["library"], record["threads"], record["dtype"]) == (OURS, threads, dtype):
            return record if "seconds" in record else None
    return None


def share_of_roof(result: Record, record: Record) -> float:
    """Useful operations a second / sgemm's on the same number of threads."""
    rate = result["useful_operations"] / record["seconds"]
    return rate / result["roof"][str(record["threads"])]


def three_digits(value: float) -> str:
    """Three digits, or all before the point: "4.57", "68.2", "1,610"."""
    digits = 2 if value < 9.995 else 1 if value < 99.95 else 0
    return f"{value:,.{digits}f}"


def microseconds(seconds: float) -> str:
    return three_digits(seconds * 1e6)


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table, its first column left, the others right."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _trained(results: Record) -> list[str]:
    """The libraries with a time in any workload, in the registry's order, bcenet first."""
    return [
        name
        for name in LIBRARIES
        if any(best(result, name) for result in results["training"].values())
    ]


def title(name: str, result: Record) -> str:
    """ "tab: 28-64-32-1, batch 200"."""
    return f"{name}: {'-'.join(map(str, result['layer_sizes']))}, batch {result['batch']}"


def _times(results: Record) -> str:
    names = _trained(results)
    rows = []
    for workload, result in results["training"].items():
        row = [title(workload, result)]
        for name in names:
            record = best(result, name)
            cell = f"{microseconds(record['seconds'])} ({record['threads']})" if record else "-"
            row.append(cell)
        rows.append(row)
    return table(["us a step (threads)", *(LIBRARIES[name].title for name in names)], rows)


def _ratios(results: Record) -> str:
    names = [name for name in _trained(results) if name != OURS]
    rows = []
    for workload, result in results["training"].items():
        ours = best(result, OURS)
        row = [workload]
        for name in names:
            record = best(result, name)
            row.append(
                three_digits(record["seconds"] / ours["seconds"]) if record and ours else "-"
            )
        rows.append(row)
    return table(["time / bcenet's", *(LIBRARIES[name].title for name in names)], rows)


def _ours(results: Record) -> str:
    counts = results["settings"]["threads"]
    header = ["bcenet"]
    for threads in counts:
        header += [f"us a step, {threads} thr.", f"sgemm GFLOP/s, {threads} thr.", "share of it"]
    header += [f"{threads} thr. against {counts[0]}" for threads in counts[1:]]
    header += [f"float64 rate / float32, {threads} thr." for threads in counts]
    rows = []
    for workload, result in results["training"].items():
        single = {threads: of(result, threads) for threads in counts}
        double = {threads: of(result, threads, "float64") for threads in counts}
        row = [workload]
        for threads, record in single.items():
            row.append(microseconds(record["seconds"]) if record else "-")
            row.append(f"{result['roof'][str(threads)] / 1e9:.0f}")
            row.append(f"{share_of_roof(result, record):.0%}" if record else "-")
        pairs = [(single[counts[0]], single[threads]) for threads in counts[1:]]
        pairs += [(single[threads], double[threads]) for threads in counts]
        for first, second in pairs:
            row.append(f"{first['seconds'] / second['seconds']:.2f}" if first and second else "-")
        rows.append(row)
    return table(header, rows)


def _predictions(results: Record) -> str:
    names = [
        name
        for name in LIBRARIES
        if any(best(result, name) for result in results["prediction"].values())
    ]
    rows = []
    for rows_of, result in results["prediction"].items():
        ours = best(result, OURS)
        row = [rows_of]
        for name in names:
            record = best(result, name)
            cell = microseconds(record["seconds"]) if record else "-"
            if record and ours and name != OURS:
                cell += f" (bcenet / it: {ours['seconds'] / record['seconds']:.2f})"
            row.append(cell)
        rows.append(row)
    return table(["us a call, one thread", *(LIBRARIES[name].title for name in names)], rows)


def _differences(results: Record) -> str:
    """The largest difference of a library over its numbers of threads: float32, float64."""
    names = _trained(results)
    rows = []
    for workload, result in results["training"].items():
        row = [workload]
        for name in names:
            found: dict[str, float] = {}
            for record in result["contenders"]:
                if record["library"] == name:
                    for what, value in record.get("differences", {}).items():
                        found[what] = max(value, found.get(what, 0.0))
            row.append(", ".join(f"{value:.0e}" for value in found.values()) or "-")
        rows.append(row)
    return table(["float32, float64", *(LIBRARIES[name].title for name in names)], rows)


def left_out(results: Record) -> list[str]:
    """A line for every library and workload that has no time, with the reason."""
    lines = [f"not installed: {name}" for name in results["not_installed"]]
    for group in ("training", "prediction"):
        for workload, result in results[group].items():
            lines += [
                f"{workload}: {record['library']}, {record['dtype']}, {record['threads']} "
                f"thread(s): {record['status']}: {record['detail']}"
                for record in result["contenders"]
                if record["status"] != "ok"
            ]
    return lines


def measured_on(results: Record) -> str:
    machine = results["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    caches = ", ".join(machine["caches"]) or "unknown"
    return (
        f"- {machine['processor']}, {machine['cpus']} CPU(s); caches: {caches}\n"
        f"- bcenet's instruction set in use: {machine['instruction_set']}\n"
        f"- {machine['system']}; Python {machine['python']}; NumPy's BLAS: {machine['blas']}\n"
        f"- {versions}\n"
        f"- {results['date']}; {results['settings']['rounds']} rounds\n"
    )


def markdown(results: Record) -> str:
    """All tables."""
    tolerances = results["settings"]["tolerances"]
    parts = ["# bcenet beside other libraries\n"]
    if results["training"]:
        parts += [
            "Training with Adam in float32: medians over the rounds of one run in which all take "
            "turns. Each\nlibrary is shown at its better number of threads.\n",
            _times(results),
            _ratios(results),
            "The useful operations of a step are those of its matrix products. Their rate is "
            "compared with\nNumPy's float32 matrix product (sgemm) in the same run, on the same "
            "number of threads.\n",
            _ours(results),
        ]
    if results["prediction"]:
        parts += [
            "Prediction of probabilities, 28-64-32-1, float32. ONNX Runtime is called once for "
            "all rows;\ntuned, one row goes through bound buffers and many rows in blocks of "
            "10,000.\n",
            _predictions(results),
        ]
    if results["training"]:
        parts += [
            "Before any time counts, the losses of the first three epochs must agree with "
            "bcenet's,\nrelatively: within "
            f"{tolerances['float32']:g} in float32, where rounding grows from step to step, and\n"
            f"{tolerances['float64']:g} in float64; scikit-learn, whose Adam adds epsilon before "
            "the bias correction, is\ncompared with bcenet's form of that. `SGDClassifier`, its "
            "column of `lr`, takes a row at a time:\nits test AUC may be below bcenet's by at most "
            f"{tolerances['auc']:g}. Largest differences:\n",
            _differences(results),
        ]
    absent = left_out(results)
    if absent:
        parts.append("Left out:\n\n" + "".join(f"- {line}\n" for line in absent))
    parts.append("Measured on:\n\n" + measured_on(results))
    return "\n".join(parts)
