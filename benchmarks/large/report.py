"""The results as tables in Markdown."""

from __future__ import annotations

from typing import Any

from benchmarks.large.libraries import FORMS, OURS, TITLES
from benchmarks.rivals.report import best, measured_on, table, three_digits

Record = dict[str, Any]
LOG_LOSS_TOLERANCE = 0.01  # within which a form has learned as much as another one


def counterpart(result: Record, name: str) -> Record | None:
    """bcenet's record that a form is compared with, None without one.

    It is that of the same method and batch. What takes a row at a time is compared with the fastest
    one that has learned as much. Where there are forms that read a file, only these count.
    """
    form, record = FORMS[name], best(result, name)
    if record is None:
        return None
    ours = [one for one in _names(result) if FORMS[one].adapter == OURS]
    ours = [one for one in ours if FORMS[one].prefix] or ours
    if form.batch > 1:
        alike = form.method, form.batch
        ours = [one for one in ours if (FORMS[one].method, FORMS[one].batch) == alike]
    timed = [mine for one in ours if (mine := best(result, one)) is not None]
    if form.batch == 1:
        most = record["log_loss"] + LOG_LOSS_TOLERANCE
        timed = [mine for mine in timed if mine["log_loss"] <= most]
    return min(timed, key=lambda mine: mine["seconds"], default=None)


def _ratio(result: Record, name: str) -> float | None:
    """Its time / bcenet's, None without both."""
    ours = counterpart(result, name)
    return best(result, name)["seconds"] / ours["seconds"] if ours else None


def _names(result: Record) -> list[str]:
    return list(dict.fromkeys(record["library"] for record in result["contenders"]))


def _summary(results: Record) -> str:
    """A row for each workload, and of each library the form that comes nearest to bcenet."""
    rows = []
    for workload, result in results["training"].items():
        row = [f"{workload}: {result['title']}"]
        for adapter in TITLES:
            ratios = [
                ratio
                for name in _names(result)
                if FORMS[name].adapter == adapter and (ratio := _ratio(result, name)) is not None
            ]
            row.append(three_digits(min(ratios)) if ratios else "-")
        rows.append(row)
    return table(["time / bcenet's", *TITLES.values()], rows)


def _row(result: Record, name: str) -> list[str]:
    form, record = FORMS[name], best(result, name)
    batch = "a row" if form.batch == 1 else f"{form.batch}"
    if record is None:
        return [form.title, batch, *["-"] * 4]
    ratio = None if form.adapter == OURS else _ratio(result, name)
    return [
        form.title,
        batch,
        f"{three_digits(result['rows'] / record['seconds'] / 1e6)} ({record['threads']})",
        three_digits(ratio) if ratio else "" if form.adapter == OURS else "-",
        f"{record['log_loss']:.4f}",
        f"{record['auc']:.4f}",
    ]


def _left_out(results: Record) -> list[str]:
    lines = [f"not installed: {name}" for name in results["not_installed"]]
    for workload, result in results["training"].items():
        lines += [
            f"{workload}: {record['library']}, {record['threads']} thread(s): {record['detail']}"
            for record in result["contenders"]
            if record["status"] != "ok"
        ]
    return lines


def markdown(results: Record) -> str:
    """A table for each workload."""
    settings = results["settings"]
    order = (
        "All but Vowpal Wabbit take the rows in random order."
        if settings["shuffled"]
        else "Rows are taken in the order of the file."
    )
    parts = [
        "# bcenet beside other libraries on larger data\n",
        "Rates are medians over the rounds of one run in which all take turns; each library is "
        "shown at\nits better number of threads, in parentheses (of Vowpal Wabbit's two threads "
        f"one only reads).\n{order} Log-loss and AUC are those of\n{settings['test_rows']:,} rows "
        "held out, after one epoch. `time / bcenet's` compares with bcenet at the\nsame method "
        "and batch; what takes a row at a time is compared with bcenet's fastest form whose\n"
        f"log-loss is at most {LOG_LOSS_TOLERANCE:g} above its own. Where bcenet reads files, "
        "only that counts.\n",
        _summary(results),
    ]
    for workload, result in results["training"].items():
        header = ["batch", "million rows/s", "time / bcenet's", "log-loss", "AUC"]
        parts += [
            f"## {workload}: {result['title']}, {result['rows']:,} rows\n",
            table(["", *header], [_row(result, name) for name in _names(result)]),
        ]
    absent = _left_out(results)
    if absent:
        parts.append("Left out:\n\n" + "".join(f"- {line}\n" for line in absent))
    parts.append("Measured on:\n\n" + measured_on(results))
    return "\n".join(parts)
