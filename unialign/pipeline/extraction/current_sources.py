"""What samples would be made from now: digests to compare with those of a store, to find stale features."""

from unialign.cache.digests import file_digest, spanned_digest
from unialign.cache.reader import Recorded
from unialign.pipeline.config import Config
from unialign.pipeline.extraction.source_digests import SourceDigests
from unialign.stages.datasets.base import Dataset
from unialign.stages.datasets.pyskl import read_pyskl


def files_now(kind: str, dataset: Dataset, config: Config) -> dict[str, str]:
    """Digest of each sample's file of a kind ("video"); samples without that file are left out."""
    digests = SourceDigests(config.cache.resolve(), dataset.collection)
    found = {
        # A file of many samples has a digest for each.
        sample.id: (sample.digest if kind == "skeleton" else "")
        or spanned_digest(digests.of(sample.files[kind]), sample.span if kind == "video" else None)
        for sample in dataset.samples
        if kind in sample.files
    }
    digests.save()
    return found


def poses_now(reader: Recorded, dataset: Dataset, config: Config) -> dict[str, str]:
    """The same for poses, which are made from videos, skeleton files or one pickle."""
    made_by = reader.store.key.fields["extractor"]
    if made_by == "pyskl":
        return pickled_sources(reader, dataset, config)
    return files_now("skeleton" if made_by == "skeleton" else "video", dataset, config)


def pickled_sources(reader: Recorded, dataset: Dataset, config: Config) -> dict[str, str]:
    """The same for samples of a pickle, the dataset's own or else the configured one; empty if there is none.

    Records written before there was a digest per annotation hold that of the whole file, which stands for all of them.
    """
    pickle = config.extract.poses.pickle or dataset.root
    found = {sample.id: sample.digest for sample in dataset.samples if sample.digest}
    if config.extract.poses.pickle is not None and pickle.is_file() and pickle.resolve() != dataset.root.resolve():
        found = {annotation.id: annotation.digest for annotation in read_pyskl(pickle).annotations}
    if not found:
        return {}
    whole = file_digest(pickle)
    return {name: whole if said == whole else found.get(name, "") for name, said in reader.sources().items()}
