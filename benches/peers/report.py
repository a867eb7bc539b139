"""Medians, ratios, the table and the chart, from the lines of results.jsonl."""

import statistics
from collections import defaultdict


def newest(records):
    """Of every workload the records of the last time it was measured."""
    last = {}
    for r in records:
        last[r["workload"]] = max(r["started"], last.get(r["workload"], ""))
    return [r for r in records if r["started"] == last[r["workload"]]]


def rows(workloads, records):
    """A dictionary for every goal that has both sides measured."""
    runs = defaultdict(list)
    for r in newest(records):
        runs[r["workload"], r["side"]].append(r)
    found = []
    for w in workloads:
        ours = runs[w.name, "flanrt"]
        for goal in w.goals:
            theirs = runs[w.name, goal.peer]
            if ours and theirs:
                found.append(row(w, goal, ours, theirs))
    return found


def row(workload, goal, ours, theirs):
    key = "peak_rss_mb" if goal.of == "memory" else "value"
    a, b = middle(ours, key), middle(theirs, key)
    less = workload.less_is_better or goal.of == "memory"
    # How many times better we are, and the goals in the same measure.
    better, must, aim = (b / a if less else a / b), goal.must, goal.aim
    if goal.of == "memory":
        must, aim = 1 / must, 1 / aim
    elif goal.of == "seconds":
        must, aim = b / must, b / aim
    notes = [] if clean(ours) and clean(theirs) else ["noisy"]
    differences = [r["difference"] for r in theirs if r.get("difference") is not None]
    if differences:
        notes.append(f"log-probabilities within {max(differences):.1e}")
        if max(differences) > 1e-3 and "f32" in workload.name:
            notes.append("WRONG")
    return dict(
        name=workload.name + (", peak memory" if goal.of == "memory" else ""),
        unit="MB" if goal.of == "memory" else workload.unit,
        peer=goal.peer,
        ours=a,
        theirs=b,
        better=better,
        must=must,
        aim=aim,
        shown=f"{a / b:.2f}" if goal.of == "memory" else f"{better:.2f}",
        goals=[f"{g:g}" if goal.of == "value" else f"<= {g:g}" + " s" * (goal.of == "seconds") for g in (goal.must, goal.aim)],
        reached="aim" if better >= aim else "must" if better >= must else "-",
        notes=", ".join(notes),
    )


def clean(runs):
    return [r for r in runs if not r["noisy"]]


def middle(runs, key):
    return statistics.median(r[key] for r in clean(runs) or runs)


def table(rows):
    lines = ["| workload | unit | flanrt | peer | theirs | ratio | must | aim | reached | notes |"]
    lines += ["|---|---|---:|---|---:|---:|---:|---:|---|---|"]
    for r in rows:
        must, aim = r["goals"]
        cells = r["name"], r["unit"], number(r["ours"]), r["peer"], number(r["theirs"]), r["shown"], must, aim, r["reached"], r["notes"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def number(x):
    return f"{x:,.0f}" if x >= 1000 else f"{x:.3g}"


def chart(rows, path, title):
    """Bars of how many times better we are, on a logarithmic scale, with marks at the goals. ImportError without matplotlib."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = rows[::-1]
    at = range(len(rows))
    figure, axes = plt.subplots(figsize=(9, 1.5 + 0.3 * len(rows)), layout="constrained")
    colors = [dict(aim="#2a7f62", must="#7fb069").get(r["reached"], "#d1495b") for r in rows]
    axes.barh(at, [r["better"] - 1 for r in rows], left=1, color=colors, height=0.6)
    axes.plot([r["must"] for r in rows], at, "k|", markersize=13, markeredgewidth=2, label="must")
    axes.plot([r["aim"] for r in rows], at, "kd", markersize=4, label="aim")
    axes.set_yticks(at, [f"{r['name']} / {r['peer']}  {r['better']:.1f}x" for r in rows], fontsize=8)
    axes.set_xscale("log")
    ticks = [t for t in (0.5, 1, 2, 3, 5, 10, 20, 50, 100) if t <= 1.3 * max(max(r["better"], r["aim"]) for r in rows)]
    axes.set_xticks(ticks, [f"{t:g}x" for t in ticks])
    axes.minorticks_off()
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_title(title, fontsize=9)
    axes.legend(fontsize=8, loc="upper right")
    figure.savefig(path, dpi=150)
