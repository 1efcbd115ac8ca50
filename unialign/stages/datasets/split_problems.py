"""What of a split may spoil a result, known from labels and parts alone: said before anything is computed."""

from collections import Counter
from collections.abc import Iterator

from unialign.stages.datasets.base import Dataset
from unialign.stages.datasets.samples import Split
from unialign.words import counted

# Training clips of a class below which it can hardly be learned; a class is rare if another has so many times more.
FEW_SAMPLES, UNEVEN = 2, 10
FEW_NAMED = 4


def split_problems(dataset: Dataset, protocol: str | None = None) -> list[str]:
    """A sentence each, without its full stop; raises as `Dataset.split` does."""
    return list(_problems(dataset, protocol))


def _problems(dataset: Dataset, protocol: str | None) -> Iterator[str]:
    split, labels = dataset.split(protocol), {sample.id: sample.label for sample in dataset.samples}
    train, test = (Counter(labels[name] for name in part) for part in (split.train, split.test))
    held = set(labels.values())
    if 0 not in held and held == set(range(1, len(dataset.classes))):
        yield f"no clip has the label 0 ({dataset.classes[0]}), all others occur: labels count from 0, not from 1"
    if len(held) == 1:
        yield f"all clips are of one class ({dataset.classes[min(held)]}): there is nothing to tell apart"
        return
    if not split.test:
        yield "no clips are left to test on: add clips, or say which are for what (folders train/ and test/)"
    # Classes that are unseen on purpose are the protocol's business.
    if not split.unseen:
        yield from _uneven(dataset, split, train, test)
    if (protocol or dataset.default_protocol) == "holdout":
        yield (
            "the split is by clip, so people and places of the tested clips are trained on too and results are "
            "flattering: a column `group` of labels.csv, or folders train/ and test/, keeps them apart"
        )


def _uneven(dataset: Dataset, split: Split, train: Counter[int], test: Counter[int]) -> Iterator[str]:
    """Classes that are missing from a part, or rare in training."""
    names = dataset.classes
    if train and test and not train.keys() & test.keys():
        yield (
            f"no tested class has clips to train on (trained: {names[min(train)]}, tested: {names[min(test)]}), so "
            "this is recognition of unseen classes by their texts; otherwise mend the split"
        )
    elif absent := [names[label] for label in sorted(test.keys() - train.keys())]:
        yield f"{counted(len(absent), 'tested class has', 'tested classes have')} no clips to train on ({absent[0]})"
    if len(train) == 1 and len(names) > 1:
        yield f"all clips to train on are of one class ({names[min(train)]})"
    if len(test) == 1 and len(names) > 1:
        yield f"all tested clips are of one class ({names[min(test)]}): top-1 says nothing about the others"
    few = [name for label, name in enumerate(names) if train[label] < FEW_SAMPLES]
    if few:
        yield (
            f"{counted(len(few), 'class has', 'classes have')} fewer than {FEW_SAMPLES} clips to train on "
            f"({', '.join(few[:FEW_NAMED])}{', ...' if len(few) > FEW_NAMED else ''}): add clips, or leave these "
            "classes out"
        )
    if train and max(train.values()) > UNEVEN * min(train.values()):
        most, least = (train.most_common()[place] for place in (0, -1))
        yield (
            f"classes differ in size ({names[most[0]]} {most[1]:,} clips, {names[least[0]]} {least[1]:,}): look at "
            "the mean class accuracy beside top-1"
        )
