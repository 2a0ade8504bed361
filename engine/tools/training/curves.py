"""How a run went, to look at: TensorBoard's events while it goes, `curve.png` at its end."""

from collections.abc import Sequence
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

PANELS = (("loss", ("train_loss", "dev_loss")), ("chrF2, BLEU", ("dev_chrf", "dev_bleu")), ("learning rate", ("rate",)))


class Curves:
    """Points of a run by step. The folder `events` is TensorBoard's."""

    def __init__(self, out: Path, step: int) -> None:
        """`step`: at which it begins; what an earlier run told after it is hidden."""
        self._writer = SummaryWriter(str(out / "events"), purge_step=step + 1)

    def add(self, point: dict[str, float]) -> None:
        for name, value in point.items():
            if name != "step":
                self._writer.add_scalar(name, value, int(point["step"]))
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


def draw(runs: dict[str, Sequence[dict[str, float]]], file: Path) -> None:
    """The curves of one run or several, by name, as a PNG."""
    from matplotlib.figure import Figure  # of the tools only

    figure = Figure(figsize=(15, 4), layout="constrained")
    for axes, (title, names) in zip(figure.subplots(1, len(PANELS)), PANELS, strict=True):
        for run, curve in runs.items():
            for name in names:
                points = [(point["step"], point[name]) for point in curve if name in point]
                if points:
                    style = "o-" if name.startswith("dev") else "-"
                    label = " ".join(each for each in (run, name.replace("_", " ")) if each)
                    axes.plot(*zip(*points, strict=True), style, markersize=3, label=label)
        axes.set(title=title, xlabel="step")
        axes.grid(alpha=0.3)
        if axes.has_data():
            axes.legend()
    figure.savefig(file, dpi=110)
