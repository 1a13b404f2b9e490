"""Wrong labels found by ``find_label_errors.py`` and by cleanlab, with the same network on the same images.

    uv run python benchmarks/label_errors.py planted --data mnist cifar10_jpeg --noise sym20 sym40 asym20 sym5
    uv run python benchmarks/label_errors.py natural              # the 15 known wrong labels of MNIST's test set
    uv run python benchmarks/label_errors.py speed                # 60,000 MNIST images, without the control

``planted``: 10,000 images, labels made wrong, no control. Ours is one training; cleanlab's 5 trainings on four fifths
each, of the same network on the same images, whose held-out probabilities it ranks by self-confidence or by normalised
margin. A line says the average precision of each list, and the seconds of its trainings and its ranking. It also says
of which share of the wrong labels the suggestion is the true label: what was said most often while they were presented
(``often``), what the trained network says in the end (``end``), and what held-out networks say (``held-out``).

``natural`` needs the list of Northcutt et al. 2021 (github.com/cleanlab/label-errors, mturk/mnist_mturk.json) as a CSV
with the columns ``index`` and ``error``, of 0 and 1: ``--known FILE``.

What was trained is kept below ``--results`` and not trained again: the seconds are then those of before.
"""

from __future__ import annotations

import argparse
import csv
import resource
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from cleanlab.rank import get_label_quality_scores
from sklearn.metrics import average_precision_score

from rethinkgen.commands.find_label_errors import trainer
from rethinkgen.label_errors import ranking
from rethinkgen.label_errors.asked import Asked
from rethinkgen.label_errors.search import _opened, prepare, search, train_folds
from rethinkgen.label_errors.trainings import Judged, probabilities
from rethinkgen.received import opened_arrays
from rethinkgen.run.folder import RunFolder

NOISE = {
    "sym20": ["data.corruption=symmetric_labels", "data.corruption.probability=0.2"],
    "sym40": ["data.corruption=symmetric_labels", "data.corruption.probability=0.4"],
    "asym20": ["data.corruption=asymmetric_labels", "data.corruption.probability=0.2"],
    "sym5": ["data.corruption=symmetric_labels", "data.corruption.probability=0.05"],
}
TRAIN = trainer(["find_label_errors.py"])


def compare(data: str, noise: str, arguments: argparse.Namespace) -> None:
    common = [f"data={data}", *arguments.roots.get(data, []), *NOISE[noise], f"data.num_train={arguments.count}"]
    # One at a time, with all cores, so that seconds add up.
    common += [
        "hydra.launcher.n_jobs=1",
        f"results_dir={arguments.results}",
        f"sweep={data}-{noise}",
        f"seed={arguments.seed}",
        *arguments.more,
    ]
    asked = Asked.of([*common, "control=false", "folds=5"])
    trainings, _ = prepare(asked, TRAIN)
    runs = trainings.run("seed", [str(arguments.seed)])
    ours_seconds = trainings.seconds
    judged, opened = Judged.of(runs), _opened(runs[0])
    with opened_arrays(RunFolder(runs[0].path).examples) as stored:
        true, wrong = stored["original_labels"], stored["is_corrupted"]
    begun = time.perf_counter()
    ranking.order_of(judged.opinions)
    suggested, _ = ranking.suggestions(judged.opinions, judged.labels)
    ours_seconds += time.perf_counter() - begun
    folds = train_folds(trainings, judged, opened, asked)
    theirs_seconds = trainings.seconds - ours_seconds
    begun = time.perf_counter()
    held_out = np.zeros((len(judged.labels), len(opened.class_names)), np.float32)
    for run, part in folds:
        said = probabilities(_opened(run), opened, judged.index[part])
        held_out[part] = np.concatenate([each.numpy() for each in said])
    theirs = {
        method: average_precision_score(wrong, -get_label_quality_scores(judged.labels, held_out, method=method))
        for method in ("self_confidence", "normalized_margin")
    }
    theirs_seconds += time.perf_counter() - begun
    every = np.arange(len(judged.labels))
    predicted = held_out.argmax(1)
    said_of = (held_out[every, each].astype(float) for each in (judged.labels, predicted))
    of_folds = ranking.held_out(next(said_of), predicted, next(said_of), judged.labels)
    own, both = (
        average_precision_score(wrong, -ranking.places(ranking.order_of(opinions)))
        for opinions in (judged.opinions, [*judged.opinions, of_folds])
    )
    end = np.concatenate([each.numpy().argmax(1) for each in probabilities(opened, opened, judged.index)])
    accuracy = runs[0].metrics.get("test/accuracy")
    shares = {
        "often": (suggested == true)[wrong].mean(),
        "end": (end == true)[wrong].mean(),
        "held-out": (predicted == true)[wrong].mean(),
    }
    lines = [
        f"{data} {noise}: {wrong.mean():.1%} of {len(wrong):,} labels are wrong, test accuracy {accuracy:.1%}",
        f"  ours {own:.3f} in {ours_seconds:.0f} s",
        f"  cleanlab self-confidence {theirs['self_confidence']:.3f}, normalised margin "
        f"{theirs['normalized_margin']:.3f} in {theirs_seconds:.0f} s ({theirs_seconds / ours_seconds:.1f} times ours)",
        f"  ours with folds=5 {both:.3f}",
        "  rightly suggested: " + ", ".join(f"{name} {share:.1%}" for name, share in shares.items()),
    ]
    tell(lines, arguments)


def tell(lines: Sequence[str], arguments: argparse.Namespace) -> None:
    print("\n".join(lines), flush=True)
    with (Path(arguments.results) / "results.txt").open("a", encoding="utf-8") as file:
        file.write("\n".join([*lines, ""]))


def natural(arguments: argparse.Namespace) -> None:
    with open(arguments.known, encoding="utf-8") as file:
        rows = csv.DictReader(line for line in file if not line.startswith("#"))
        known = [60_000 + int(row["index"]) for row in rows if row["error"].lower() in ("1", "true")]
    left_out = np.setdiff1d(np.arange(60_000), np.random.RandomState(0).permutation(60_000)[:20_000])
    path = Path(arguments.results) / "not_trained_on.npy"
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, left_out)
    own = [f"data.exclude={path}", "data.source.parts=[train,test]", *arguments.roots.get("mnist", [])]
    network = ["model=cnn_16_32_32", "optimizer=adam", "regularizer=[random_crop]"]
    network += ["schedule=cosine", f"max_epochs={arguments.epochs}", f"evaluate_every={arguments.epochs}"]
    asked = ["data=mnist", *own, *network, "runs=3", "control=false", f"results_dir={arguments.results}"]
    found = search(Asked.of([*asked, *arguments.more]), TRAIN)
    places = {each.index: each.rank for each in found.suspects}
    order = [each.index for each in found.suspects if each.index >= 60_000]
    ranks = sorted(order.index(index) + 1 for index in known)
    within = ", ".join(f"{sum(rank <= most for rank in ranks)} within {most}" for most in (100, 200, 300, 500))
    overall = ", ".join(str(rank) for rank in sorted(places[index] for index in known))
    lines = [
        f"natural: {len(known)} known errors, ranks among MNIST's 10,000 test images: {ranks}",
        f"  {within}; ranks among all {len(places):,} images: {overall}; trainings of {found.seconds:.0f} s",
    ]
    tell(lines, arguments)


def speed(arguments: argparse.Namespace) -> None:
    begun = time.perf_counter()
    own = [*arguments.roots.get("mnist", []), f"results_dir={arguments.results}", "control=false", *arguments.more]
    search(Asked.of(["data=mnist", *own]), TRAIN)
    most = [resource.getrusage(who).ru_maxrss / 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    seconds = time.perf_counter() - begun
    lines = [
        f"speed: 60,000 MNIST images in {seconds:.0f} s",
        f"  at most {most[0]:,.0f} MB here, {most[1]:,.0f} MB in the process that trains",
    ]
    tell(lines, arguments)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("planted", "natural", "speed"))
    parser.add_argument("--data", nargs="+", default=["mnist"], choices=("mnist", "cifar10_jpeg", "digits"))
    parser.add_argument("--noise", nargs="+", default=list(NOISE), choices=list(NOISE))
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=6, help="of natural")
    parser.add_argument("--known", type=Path, help="of natural: index,error")
    parser.add_argument("--results", default="multirun/benchmark-label_errors")
    parser.add_argument("--root", nargs="*", default=[], help="where data lie: mnist=PATH cifar10_jpeg=PATH")
    parser.add_argument("--more", nargs="*", default=[], help="keys of train.py")
    arguments = parser.parse_args()
    arguments.roots = {
        name: [f"data.root={path}"] for name, _, path in (each.partition("=") for each in arguments.root)
    }
    if arguments.what == "planted":
        for data in arguments.data:
            for noise in arguments.noise:
                compare(data, noise, arguments)
    elif arguments.what == "natural":
        natural(arguments)
    else:
        speed(arguments)


if __name__ == "__main__":
    main()
