"""Data plots as they stand in biomedical papers; all numbers are drawn at random."""

import numpy as np
from matplotlib.axes import Axes
from numpy.random import Generator
from scipy import stats
from scipy.cluster.hierarchy import dendrogram, linkage

from tour_corpus.canvas import Pixels, new_axes, new_figure, panel_letter, to_pixels

BLUE, RED, GREEN, ORANGE, PURPLE = "#2166ac", "#b2182b", "#1b7837", "#e08214", "#762a83"
PALETTE = [BLUE, RED, GREEN, ORANGE, PURPLE, "#01665e", "#8c510a", "#c51b7d"]


def kaplan_meier(rng: Generator) -> Pixels:
    fig, (ax,) = new_axes(5.0, 4.2)
    for i, (name, scale) in enumerate([("FHL2 low (n = 61)", 78.0), ("FHL2 high (n = 57)", 26.0)]):
        times = np.sort(rng.exponential(scale, 60))
        survival = 1 - np.arange(1, 61) / 62
        inside = times < 60
        x, y = np.r_[0, times[inside], 60], np.r_[1, survival[inside], survival[inside][-1]]
        ax.step(x, y, where="post", color=PALETTE[i], lw=1.8, label=name)
        ax.plot(x[3:-1:5], y[3:-1:5], "|", color=PALETTE[i], ms=7)
        at_risk = [61 - 4 * i, *[int(58 * survival[times < t][-1]) for t in (15, 30, 45, 60)]]
        for t, n in zip((0, 15, 30, 45, 60), at_risk, strict=True):
            ax.text(t, -0.33 - 0.08 * i, str(n), ha="center", fontsize=8, color=PALETTE[i])
    ax.text(-4, -0.25, "No. at risk", fontsize=8, ha="left")
    ax.set(xlim=(0, 61), ylim=(0, 1.03), xlabel="Months since surgery", ylabel="Overall survival")
    ax.text(0, -0.46, " ", fontsize=8)
    ax.set_xticks([0, 15, 30, 45, 60])
    ax.legend(frameon=False, fontsize=8, loc="upper right")
    ax.text(2, 0.06, "log-rank P = 0.003\nHR 2.1 (95% CI 1.3–3.5)", fontsize=8)
    return to_pixels(fig)


def volcano(rng: Generator) -> Pixels:
    fig, (ax,) = new_axes(4.6, 4.0)
    fold = rng.normal(0, 1.1, 2600)
    p = np.abs(fold) ** 1.6 * rng.gamma(1.6, 0.9, 2600)
    up, down = (fold > 1) & (p > 2), (fold < -1) & (p > 2)
    ax.scatter(fold, p, s=4, c="0.75", lw=0)
    ax.scatter(fold[up], p[up], s=7, c=RED, lw=0, label=f"up ({up.sum()})")
    ax.scatter(fold[down], p[down], s=7, c=BLUE, lw=0, label=f"down ({down.sum()})")
    for gene, i in zip(("LUMA1", "VEX3", "TARN2", "ODO9"), np.argsort(-p)[:4], strict=True):
        ax.annotate(gene, (fold[i], p[i]), xytext=(4, 2), textcoords="offset points", fontsize=7)
    ax.axhline(2, ls="--", c="0.5", lw=0.7)
    for x in (-1, 1):
        ax.axvline(x, ls="--", c="0.5", lw=0.7)
    ax.set(xlabel="log$_2$ fold change", ylabel="−log$_{10}$ adjusted P")
    ax.legend(frameon=False, fontsize=8, markerscale=2)
    return to_pixels(fig)


def roc(rng: Generator) -> Pixels:
    fig, (ax,) = new_axes(4.0, 4.0)
    for i, (name, gap) in enumerate([("Network", 2.3), ("Grader A", 1.6), ("Vessel density", 0.9)]):
        threshold = np.linspace(-5, 7, 300)
        false, true = stats.norm.sf(threshold), stats.norm.sf(threshold - gap)
        area = stats.norm.cdf(gap / np.sqrt(2))
        ax.plot(false, true, color=PALETTE[i], lw=1.8, label=f"{name} (AUC {area:.2f})")
    ax.plot([0, 1], [0, 1], "k:", lw=0.9)
    ax.set(xlabel="1 − specificity", ylabel="Sensitivity", xlim=(0, 1), ylim=(0, 1.01))
    ax.set_aspect("equal")
    ax.legend(frameon=False, fontsize=8, loc="lower right")
    return to_pixels(fig)


def draw_boxes(ax: Axes, rng: Generator, names: list[str], means: list[float]) -> None:
    data = [rng.normal(m, 0.16 * m + 0.4, 24) for m in means]
    boxes = ax.boxplot(data, widths=0.55, patch_artist=True, showfliers=False)
    for box, colour in zip(boxes["boxes"], PALETTE, strict=False):
        box.set(facecolor=colour, alpha=0.35)
    for line in boxes["medians"]:
        line.set(color="black", lw=1.5)
    for i, values in enumerate(data):
        x = i + 1 + rng.uniform(-0.15, 0.15, len(values))
        ax.plot(x, values, "o", ms=2.6, color=PALETTE[i], alpha=0.8)
    ax.set_xticks(range(1, len(names) + 1), names, fontsize=8)


def bracket(ax: Axes, left: float, right: float, y: float, text: str) -> None:
    rise = 0.015 * (ax.get_ylim()[1] - ax.get_ylim()[0])
    ax.plot([left, left, right, right], [y - rise, y, y, y - rise], "k-", lw=0.9)
    ax.text((left + right) / 2, y, text, ha="center", va="bottom", fontsize=9)


def dry_mass_boxes(rng: Generator) -> Pixels:
    fig, axes = new_axes(6.2, 3.2, 1, 2)
    for ax, letter, label, means in [
        (axes[0], "a", "Dry mass (pg)", [21.0, 24.5, 33.0]),
        (axes[1], "b", "Radius (µm)", [4.1, 4.3, 5.2]),
    ]:
        draw_boxes(ax, rng, ["control", "25 nM", "100 nM"], means)
        ax.set_ylabel(label)
        panel_letter(ax, letter)
        top = ax.get_ylim()[1]
        ax.set_ylim(ax.get_ylim()[0], top * 1.12)
        bracket(ax, 1, 3, top * 1.03, "***")
        bracket(ax, 1, 2, top * 0.95, "n.s.")
    return to_pixels(fig)


def dice_boxes(rng: Generator) -> Pixels:
    fig, (ax,) = new_axes(4.8, 3.2)
    names = ["whole\nlesion", "core", "rim", "oedema"]
    data = [
        np.clip(rng.normal(m, s, 40), 0.3, 0.99)
        for m, s in [(0.91, 0.03), (0.86, 0.06), (0.74, 0.09), (0.81, 0.06)]
    ]
    parts = ax.violinplot(data, showmedians=True)
    for body, colour in zip(parts["bodies"], PALETTE, strict=False):
        body.set(facecolor=colour, alpha=0.5)
    ax.set_xticks(range(1, 5), names)
    ax.set(ylabel="Dice coefficient", ylim=(0.35, 1.0))
    ax.grid(axis="y", color="0.9")
    return to_pixels(fig)


def expression_heatmap(rng: Generator) -> Pixels:
    fig = new_figure(5.4, 4.6, arranged=False)
    blocks = np.kron(rng.normal(0, 1.3, (4, 3)), np.ones((9, 6)))
    values = blocks + rng.normal(0, 0.55, blocks.shape)
    values = values[:, rng.permutation(18)]
    tree = fig.add_axes((0.08, 0.84, 0.68, 0.13))
    order = dendrogram(
        linkage(values.T, "average"), ax=tree, color_threshold=0, above_threshold_color="0.25"
    )["leaves"]
    tree.axis("off")
    ax = fig.add_axes((0.08, 0.1, 0.68, 0.73))
    drawn = ax.imshow(values[:, order], aspect="auto", cmap="RdBu_r", vmin=-2.5, vmax=2.5)
    ax.set_xticks(range(18), [f"S{i + 1}" for i in order], rotation=90, fontsize=7)
    ax.set_yticks([])
    ax.set_ylabel("36 genes")
    bar = fig.colorbar(drawn, cax=fig.add_axes((0.82, 0.3, 0.03, 0.4)))
    bar.set_label("row z-score", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    return to_pixels(fig)


def cell_map(rng: Generator) -> Pixels:
    fig, axes = new_axes(7.2, 3.5, 1, 2)
    kinds = ["Epithelial", "T cell", "B cell", "Myeloid", "Fibroblast", "Endothelial"]
    centres = np.array([[-2, 8], [9, 1], [-9, 2], [4, -9], [-7, -8], [10, 10]])
    points, marker = [], []
    for i, (kind, centre) in enumerate(zip(kinds, centres, strict=True)):
        turn = rng.normal(0, 1, (2, 2)) * 0.35 + np.eye(2)
        cloud = centre + rng.normal(0, 1.1, (260, 2)) @ turn
        axes[0].scatter(*cloud.T, s=3, color=PALETTE[i], lw=0)
        axes[0].text(centre[0], centre[1] + 2.9, kind, fontsize=8, ha="center", fontweight="bold")
        points.append(cloud)
        marker.append(rng.gamma(2.0 if kind == "Myeloid" else 0.3, 1.0, 260))
    drawn = axes[1].scatter(
        *np.concatenate(points).T, c=np.concatenate(marker), s=3, lw=0, cmap="viridis", vmax=4
    )
    fig.colorbar(drawn, ax=axes[1], shrink=0.6).set_label("TARN2 (log counts)", fontsize=8)
    for ax, letter in zip(axes, "AB", strict=True):
        ax.set(xlabel="UMAP 1", ylabel="UMAP 2", xticks=[], yticks=[])
        panel_letter(ax, letter, -0.08, 1.0)
    return to_pixels(fig)


def epidemic_curve(rng: Generator) -> Pixels:
    fig, (ax,) = new_axes(6.0, 3.2)
    week = np.arange(52)
    wave = 60 * np.exp(-((week - 14) ** 2) / 22) + 105 * np.exp(-((week - 37) ** 2) / 40) + 5
    cases = rng.poisson(wave)
    confirmed = (cases * 0.62).astype(int)
    ax.bar(week + 1, confirmed, color=RED, width=0.9, label="confirmados")
    ax.bar(
        week + 1, cases - confirmed, bottom=confirmed, color="#f4a582", width=0.9, label="probables"
    )
    ax.axvline(30, color="k", ls="--", lw=1)
    ax.text(29.5, 96, "fumigación", fontsize=8, ha="right")
    ax.set(xlabel="Semana epidemiológica, 2018", ylabel="Casos", xlim=(0, 53))
    ax.legend(frameon=False, fontsize=8, loc="upper left")
    return to_pixels(fig)


def age_pyramid(rng: Generator) -> Pixels:
    fig, axes = new_axes(5.4, 3.6, 1, 2)
    bands = ["0–9", "10–19", "20–29", "30–39", "40–49", "50–59", "60–69", "≥70"]
    base = np.array([14, 22, 31, 26, 19, 13, 8, 5])
    for ax, sex, colour in [(axes[0], "Hombres", BLUE), (axes[1], "Mujeres", ORANGE)]:
        ax.barh(bands, base + rng.uniform(-2, 5, 8), color=colour, height=0.8)
        ax.set_title(sex, fontsize=10)
        ax.set_xlim(0, 38)
    axes[0].invert_xaxis()
    axes[0].spines[["left", "right"]].set_visible(False)
    axes[0].tick_params(labelleft=False, length=0)
    fig.supxlabel("Casos por 10 000 habitantes", fontsize=9)
    return to_pixels(fig)


def forest(rng: Generator) -> Pixels:
    fig, (ax,) = new_axes(6.4, 4.0)
    names = [
        "Arden 2009",
        "Bellis 2011",
        "Corrow 2012",
        "Dunmere 2014",
        "Elstan 2015",
        "Farrow 2017",
        "Gild 2018",
        "Hollin 2020",
    ]
    logs = rng.normal(-0.33, 0.18, 8)
    errors = rng.uniform(0.1, 0.34, 8)
    for i, (name, effect, error) in enumerate(zip(names, logs, errors, strict=True)):
        low, mid, high = np.exp(effect + np.array([-1.96, 0, 1.96]) * error)
        ax.plot([low, high], [-i, -i], "k-", lw=1)
        ax.plot(mid, -i, "s", color=BLUE, ms=2.2 / error**0.7)
        ax.text(0.165, -i, name, fontsize=8, va="center")
        ax.text(2.6, -i, f"{mid:.2f} [{low:.2f}, {high:.2f}]", fontsize=8, va="center")
    weight = 1 / errors**2
    pooled, error = (weight * logs).sum() / weight.sum(), weight.sum() ** -0.5
    low, mid, high = np.exp(pooled + np.array([-1.96, 0, 1.96]) * error)
    ax.fill([low, mid, high, mid], [-9, -8.7, -9, -9.3], color=RED)
    ax.text(0.165, -9, "Random effects", fontsize=8, va="center", fontweight="bold")
    ax.text(2.6, -9, f"{mid:.2f} [{low:.2f}, {high:.2f}]", fontsize=8, va="center", weight="bold")
    ax.axvline(1, color="0.4", lw=0.8)
    ax.set(xscale="log", xlim=(0.16, 6.5), yticks=[], xlabel="Risk ratio (log scale)")
    ax.spines["left"].set_visible(False)
    ax.set_xticks([0.5, 1, 2], ["0.5", "1", "2"])
    ax.minorticks_off()
    return to_pixels(fig)


def funnel(rng: Generator) -> Pixels:
    fig, (ax,) = new_axes(4.2, 3.4)
    error = np.sqrt(rng.uniform(0.003, 0.15, 16))
    effect = rng.normal(-0.33, error)
    ax.fill([-0.33, -0.33 - 0.8, -0.33 + 0.8], [0, 0.41, 0.41], color="0.93")
    ax.plot([-0.33, -1.13], [0, 0.41], "k--", lw=0.8)
    ax.plot([-0.33, 0.47], [0, 0.41], "k--", lw=0.8)
    ax.axvline(-0.33, color="k", lw=0.8)
    ax.plot(effect, error, "o", mfc="white", mec=BLUE, ms=6)
    ax.set(ylim=(0.42, 0), xlabel="log risk ratio", ylabel="Standard error")
    return to_pixels(fig)


def confusion(rng: Generator, diagonal: float = 90) -> Pixels:
    fig, (ax,) = new_axes(4.3, 3.7)
    names = ["Sinus", "AF", "PVC", "Block"]
    counts = rng.poisson(4, (4, 4)) + np.diag(rng.poisson(diagonal, 4))
    drawn = ax.imshow(counts, cmap="Blues")
    for i in range(4):
        for j in range(4):
            colour = "white" if counts[i, j] > counts.max() / 2 else "black"
            ax.text(j, i, str(counts[i, j]), ha="center", va="center", color=colour, fontsize=10)
    ax.set_xticks(range(4), names)
    ax.set_yticks(range(4), names)
    ax.set(xlabel="Predicted rhythm", ylabel="True rhythm")
    fig.colorbar(drawn, shrink=0.8)
    return to_pixels(fig)


def confusion_corrected(rng: Generator) -> Pixels:
    return confusion(rng, 64)


def beat(phase: np.ndarray, p_wave: float = 0.14) -> np.ndarray:
    """One heart beat in millivolts; phase in [0, 1)."""
    waves = [
        (0.18, 0.022, p_wave),
        (0.34, 0.009, -0.12),
        (0.365, 0.011, 1.15),
        (0.395, 0.010, -0.28),
        (0.62, 0.045, 0.3),
    ]
    return sum(
        (
            height * np.exp(-((phase - centre) ** 2) / (2 * width**2))
            for centre, width, height in waves
        ),
        np.zeros_like(phase),
    )


def ecg_strip(ax: Axes, rng: Generator, intervals: np.ndarray, p_wave: float) -> None:
    starts = np.r_[0, np.cumsum(intervals)]
    time = np.arange(0, 5, 0.004)
    which = np.searchsorted(starts, time, "right") - 1
    trace = beat((time - starts[which]) / intervals[which], p_wave)
    if p_wave == 0:
        trace += 0.05 * np.sin(2 * np.pi * 6.3 * time + np.sin(3 * time))
    trace += 0.012 * rng.standard_normal(len(time))
    ax.set(xlim=(0, 5), ylim=(-0.7, 1.5), xticks=[], yticks=[])
    for step, width in ((0.04, 0.25), (0.2, 0.7)):
        ax.vlines(np.arange(0, 5.01, step), -0.7, 1.5, color="#f2b8b5", lw=width)
        ax.hlines(np.arange(-0.7, 1.51, step * 2.5), 0, 5, color="#f2b8b5", lw=width)
    ax.plot(time, trace, "k-", lw=0.9)
    ax.spines[:].set_visible(False)


def ecg(rng: Generator) -> Pixels:
    fig, axes = new_axes(7.0, 3.4, 2, 1)
    ecg_strip(axes[0], rng, np.full(9, 0.82), 0.14)
    ecg_strip(axes[1], rng, rng.uniform(0.38, 0.95, 16), 0.0)
    for ax, letter, name in zip(
        axes, "AB", ["Sinus rhythm, lead II", "Atrial fibrillation, lead II"], strict=True
    ):
        ax.text(0.06, 1.28, f"{letter}   {name}", fontsize=9, fontweight="bold")
    return to_pixels(fig)


def st_elevation(rng: Generator) -> Pixels:
    fig, axes = new_axes(6.4, 3.6, 2, 2)
    time = np.arange(0, 2.4, 0.004)
    for ax, lead, lift in zip(
        axes, ["V1", "V2", "V3", "V4"], [0.05, 0.32, 0.45, 0.28], strict=True
    ):
        phase = (time / 0.8) % 1
        rise = lift * np.exp(-((phase - 0.5) ** 2) / 0.008)
        ax.vlines(np.arange(0, 2.41, 0.2), -0.6, 1.6, color="#f2b8b5", lw=0.6)
        ax.hlines(np.arange(-0.5, 1.6, 0.5), 0, 2.4, color="#f2b8b5", lw=0.6)
        ax.plot(time, beat(phase) + rise + 0.01 * rng.standard_normal(len(time)), "k-", lw=1)
        ax.set(xlim=(0, 2.4), ylim=(-0.6, 1.6), xticks=[], yticks=[])
        ax.text(0.05, 1.3, lead, fontweight="bold", fontsize=10)
        ax.spines[:].set_visible(False)
    return to_pixels(fig)


def calcium_traces(rng: Generator) -> Pixels:
    fig, (ax,) = new_axes(6.0, 3.6)
    time = np.arange(0, 60, 0.1)
    for i in range(9):
        spikes = rng.random(len(time)) < 0.012
        spikes[150:170] |= rng.random(20) < 0.25
        decay = np.exp(-np.arange(0, 6, 0.1) / 1.1)
        trace = np.convolve(spikes, decay)[: len(time)] + 0.06 * rng.standard_normal(len(time))
        ax.plot(time, trace * 0.55 + i, lw=0.9, color=PALETTE[i % len(PALETTE)])
    ax.axvspan(15, 17, color="gold", alpha=0.4, lw=0)
    ax.text(16, 9.7, "light", ha="center", fontsize=8)
    ax.plot([57, 57], [-0.9, -0.35], "k-", lw=2)
    ax.text(56.6, -0.6, "1 ΔF/F", ha="right", va="center", fontsize=8)
    ax.set(xlabel="Time (s)", ylabel="Neuron", ylim=(-1.1, 10.3), xlim=(0, 60))
    ax.set_yticks(range(9), range(1, 10))
    return to_pixels(fig)


def spike_raster(rng: Generator) -> Pixels:
    fig, axes = new_axes(4.6, 4.2, 2, 1)
    times = [np.sort(np.r_[rng.uniform(-1, 2, 12), rng.normal(0.22, 0.09, 9)]) for _ in range(28)]
    axes[0].eventplot(times, colors="k", linewidths=0.9, linelengths=0.8)
    axes[0].set(ylabel="Trial", xlim=(-1, 2))
    axes[1].hist(np.concatenate(times), np.arange(-1, 2.01, 0.05), color=GREEN)
    axes[1].set(xlabel="Time from cue (s)", ylabel="Spikes per bin", xlim=(-1, 2))
    for ax, letter in zip(axes, "AB", strict=True):
        ax.axvline(0, color=RED, lw=1)
        panel_letter(ax, letter, -0.15, 0.98)
    return to_pixels(fig)


def dose_response(rng: Generator) -> Pixels:
    fig, (ax,) = new_axes(4.4, 3.4)
    dose = np.logspace(-2, 3, 11)
    for i, (name, half, mark) in enumerate(
        [("compound 4", 0.8, "o"), ("compound 7", 9.0, "s"), ("vehicle", 1e6, "^")]
    ):
        fine = np.logspace(-2.2, 3.2, 120)
        ax.plot(fine, 100 / (1 + fine / half), color=PALETTE[i], lw=1.5)
        y = 100 / (1 + dose / half) + rng.normal(0, 3, 11)
        ax.errorbar(dose, y, 4, fmt=mark, color=PALETTE[i], ms=5, capsize=2, lw=1, label=name)
    ax.set(
        xscale="log", xlabel="Concentration (µM)", ylabel="Viability (% of control)", ylim=(-8, 118)
    )
    ax.legend(frameon=False, fontsize=8)
    return to_pixels(fig)


def band_bars(rng: Generator) -> Pixels:
    fig, (ax,) = new_axes(4.2, 3.2)
    heights = np.array([1.0, 0.92, 0.55, 0.28])
    ax.bar(
        ["0 h", "6 h", "12 h", "24 h"],
        heights,
        yerr=rng.uniform(0.04, 0.12, 4),
        capsize=4,
        color=["0.85", "0.65", "0.45", "0.25"],
        edgecolor="black",
        width=0.6,
    )
    ax.set(ylabel="Relative band intensity", ylim=(0, 1.4))
    bracket(ax, 0, 2, 1.18, "*")
    bracket(ax, 0, 3, 1.3, "**")
    return to_pixels(fig)


def manhattan(rng: Generator) -> Pixels:
    fig, (ax,) = new_axes(7.4, 3.0)
    start = 0
    for chromosome, size in enumerate(np.linspace(260, 80, 18).astype(int)):
        p = rng.exponential(0.75, size)
        if chromosome in (3, 10):
            peak = np.exp(-((np.arange(size) - size / 2) ** 2) / 18)
            p += peak * rng.uniform(4, 9.5, size)
        ax.scatter(start + np.arange(size), p, s=5, lw=0, color=(BLUE, "0.6")[chromosome % 2])
        ax.text(start + size / 2, -0.9, str(chromosome + 1), ha="center", fontsize=7)
        start += size + 10
    ax.axhline(7.3, color=RED, lw=0.9, ls="--")
    ax.set(ylabel="−log$_{10}$ P", xlim=(0, start), ylim=(0, None), xticks=[])
    ax.set_xlabel("Chromosome", labelpad=20)
    return to_pixels(fig)


def ramachandran(rng: Generator) -> Pixels:
    fig, (ax,) = new_axes(4.0, 3.9)
    y, x = np.mgrid[-180:181:3, -180:181:3]
    density = sum(
        w * np.exp(-(((x - a) / s) ** 2) - ((y - b) / t) ** 2)
        for a, b, s, t, w in [
            (-65, -42, 24, 24, 1.0),
            (-110, 130, 42, 34, 0.8),
            (58, 42, 18, 22, 0.3),
        ]
    )
    ax.contourf(x, y, density, [0.03, 0.15, 0.4, 2], colors=["#e0ecf4", "#9ebcda", "#8856a7"])
    helix = rng.normal((-65, -42), (11, 11), (90, 2))
    sheet = rng.normal((-112, 130), (20, 17), (70, 2))
    ax.plot(*np.concatenate([helix, sheet, [[60, 45], [88, -10]]]).T, "k.", ms=3)
    ax.axhline(0, color="0.5", lw=0.6)
    ax.axvline(0, color="0.5", lw=0.6)
    ax.set(xlim=(-180, 180), ylim=(-180, 180), xlabel="φ (°)", ylabel="ψ (°)")
    ax.set_xticks(range(-180, 181, 90))
    ax.set_yticks(range(-180, 181, 90))
    return to_pixels(fig)


def titration(rng: Generator) -> Pixels:
    fig, axes = new_axes(3.8, 4.6, 2, 1)
    time = np.arange(0, 40, 0.02)
    ratio = np.linspace(0.1, 2.6, 20)
    heat = -11 / (1 + np.exp((ratio - 1.02) * 6))
    pulses = sum(
        h * 0.06 * np.exp(-(time - t) / 0.4) * (time > t)
        for h, t in zip(heat - 0.6, np.arange(1, 40, 1.95), strict=False)
    )
    axes[0].plot(time, pulses + 0.004 * rng.standard_normal(len(time)), color=BLUE, lw=0.8)
    axes[0].set(xlabel="Time (min)", ylabel="µcal s$^{-1}$")
    axes[1].plot(ratio, heat + rng.normal(0, 0.2, 20), "ks", ms=4)
    axes[1].plot(ratio, heat, "-", color=RED, lw=1.2)
    axes[1].set(xlabel="Molar ratio", ylabel="kcal mol$^{-1}$")
    return to_pixels(fig)


def error_by_views(rng: Generator) -> Pixels:
    fig, (ax,) = new_axes(4.6, 3.3)
    views = np.array([15, 30, 45, 60, 90, 120, 180])
    for i, (name, scale, floor) in enumerate(
        [("filtered back-projection", 3.2, 0.05), ("total variation", 1.0, 0.03)]
    ):
        error = scale / views + floor + rng.normal(0, 0.002, len(views))
        ax.errorbar(views, error, 0.006, marker="os"[i], color=PALETTE[i], capsize=3, label=name)
    ax.set(xlabel="Number of views", ylabel="Root mean square error")
    ax.legend(frameon=False, fontsize=8)
    return to_pixels(fig)


def cytometry(rng: Generator) -> Pixels:
    fig, axes = new_axes(6.4, 3.3, 1, 2)
    for ax, letter, share in [(axes[0], "A", 0.12), (axes[1], "B", 0.46)]:
        n = int(2400 * share)
        low = rng.normal((1.1, 1.3), (0.4, 0.45), (2400 - n, 2))
        high = rng.normal((3.3, 3.0), (0.38, 0.4), (n, 2))
        ax.hist2d(
            *np.concatenate([low, high]).T, bins=70, range=[[0, 5], [0, 5]], cmap="turbo", cmin=1
        )
        ax.plot([2.3, 4.6, 4.6, 2.3, 2.3], [1.9, 1.9, 4.4, 4.4, 1.9], "k-", lw=1.1)
        ax.text(4.55, 4.48, f"{100 * share:.1f}%", ha="right", fontsize=9)
        ax.set(xlabel="CD69 (log$_{10}$)", ylabel="CD25 (log$_{10}$)", title="")
        ax.set_title(["unstimulated", "stimulated, 24 h"]["AB".index(letter)], fontsize=9)
        panel_letter(ax, letter, -0.18, 1.0)
    return to_pixels(fig)


def bland_altman(rng: Generator) -> Pixels:
    fig, (ax,) = new_axes(4.6, 3.2)
    mean = rng.uniform(40, 75, 70)
    gap = rng.normal(0.9, 3.1, 70)
    ax.plot(mean, gap, "o", mfc="none", mec=PURPLE, ms=5)
    for level, text in [
        (gap.mean(), "bias"),
        (gap.mean() + 1.96 * gap.std(), "+1.96 SD"),
        (gap.mean() - 1.96 * gap.std(), "−1.96 SD"),
    ]:
        ax.axhline(level, color="k", ls="-" if text == "bias" else "--", lw=0.9)
        ax.text(86.5, level + 0.2, f"{text} {level:.1f}", ha="right", fontsize=8)
    ax.set(xlabel="Mean ejection fraction (%)", ylabel="Difference (%)", xlim=(38, 87))
    return to_pixels(fig)


def growth_curves(rng: Generator) -> Pixels:
    fig, (ax,) = new_axes(4.4, 3.1)
    hours = np.arange(0, 25, 1.5)
    for i, (name, rate, top) in enumerate(
        [("wild type", 0.75, 1.5), ("ΔvexA", 0.5, 1.1), ("ΔvexA + pVEX", 0.7, 1.42)]
    ):
        od = top / (1 + np.exp(-rate * (hours - 8.5))) + rng.normal(0, 0.015, len(hours))
        ax.plot(hours, np.clip(od, 0.01, None), "o-", color=PALETTE[i], ms=4, lw=1.2, label=name)
    ax.set(xlabel="Time (h)", ylabel="OD$_{600}$", ylim=(0, 1.7))
    ax.legend(frameon=False, fontsize=8, loc="lower right")
    return to_pixels(fig)


def printed_table(rng: Generator) -> Pixels:
    fig, (ax,) = new_axes(6.0, 2.3)
    ax.axis("off")
    rows = []
    for name in ("Alba", "Brisa", "Cima", "Duna", "Estero"):
        people, rate = int(rng.integers(8, 60)) * 1000, rng.uniform(3, 14)
        cases = round(people * rate / 1000)
        share = f"{rng.uniform(2, 9):.0f}"
        rows.append(
            [f"Municipio {name}", f"{people:,}".replace(",", " "), str(cases), f"{rate:.1f}", share]
        )
    table = ax.table(
        rows,
        loc="center",
        cellLoc="center",
        edges="horizontal",
        colLabels=["", "Habitantes", "Casos", "Tasa por 1000", "Ingresos (%)"],
    )
    table.auto_set_font_size(False)
    table.set_fontsize(9)
    table.scale(1, 1.5)
    return to_pixels(fig)
