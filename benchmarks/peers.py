"""Other storage formats for the same samples, each in the form that its authors recommend for random reading.

A peer writes its own copy of the data in a folder and returns its epoch. Its library is imported when it is used; the
loader benchmark skips a peer whose library is not installed and says so. The extra `bench` contains all of them except
MosaicML's, which would downgrade numpy to 2.1 and transformers to 4.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from readers import batches, tensors_of
from workloads import BATCH, Batch, Data, Epoch

# Size of WebDataset's shuffle buffer in samples.
POOL = 1000


@dataclass(frozen=True)
class Peer:
    """exact: it reads in the given order; the others shuffle in their own way, most of them not globally."""

    distribution: str
    make: Callable[[Data, Path], Epoch]
    exact: bool = True


def by_sample(data: Data, read: Callable[[int], Mapping[str, Any]]) -> Epoch:
    """An epoch over a reader of single samples."""
    tensors, views = data.buffers()

    def epoch(order: np.ndarray) -> Iterator[Batch]:
        for positions in batches(order):
            for place, position in enumerate(positions.tolist()):
                for name, value in read(position).items():
                    views[name][place] = value
            yield tensors

    return epoch


def by_stream(data: Data, stream: Callable[[], Iterable[Mapping[str, Any]]]) -> Epoch:
    """An epoch over a reader with its own order."""
    tensors, views = data.buffers()

    def epoch(order: np.ndarray) -> Iterator[Batch]:
        samples = iter(stream())
        for _ in range(len(order) // BATCH):
            place = -1
            for place, sample in enumerate(islice(samples, BATCH)):
                for name, view in views.items():
                    view[place] = sample[name]
            if place < BATCH - 1:
                return
            yield tensors

    return epoch


def zarr_python(data: Data, folder: Path) -> Epoch:
    import zarr

    names = [spec.name for spec in data.workload.arrays]
    arrays = {name: zarr.open_array(store / name, mode="r") for name, store in zip(names, data.stores, strict=True)}
    return by_sample(data, lambda position: {name: array[position] for name, array in arrays.items()})


def tensorstore(data: Data, folder: Path) -> Epoch:
    import tensorstore as ts

    arrays = {
        spec.name: ts.open({"driver": "zarr3", "kvstore": f"file://{store}/{spec.name}/"}, read=True).result()
        for spec, store in zip(data.workload.arrays, data.stores, strict=True)
    }

    def epoch(order: np.ndarray) -> Iterator[Batch]:
        for positions in batches(order):
            reading = {name: array[positions].read() for name, array in arrays.items()}
            yield {name: torch.from_numpy(future.result()) for name, future in reading.items()}

    return epoch


def h5py(data: Data, folder: Path) -> Epoch:
    import h5py

    with h5py.File(folder / "data.h5", "w") as file:
        for name, values in data.maps().items():
            file[name] = values
    file = h5py.File(folder / "data.h5", "r")
    sets = {spec.name: file[spec.name] for spec in data.workload.arrays}
    # Plain indexing is several times faster here than `read_direct` into the batch.
    return by_sample(data, lambda position: {name: values[position] for name, values in sets.items()})


def lmdb(data: Data, folder: Path) -> Epoch:
    import lmdb

    row = np.dtype([(spec.name, spec.dtype, spec.shape) for spec in data.workload.arrays])
    maps = data.maps()
    with lmdb.open(str(folder), map_size=2 * data.samples * row.itemsize + 2**26) as made:
        for start in range(0, data.samples, 500):
            with made.begin(write=True) as transaction:
                for position in range(start, min(start + 500, data.samples)):
                    value = b"".join(values[position].tobytes() for values in maps.values())
                    transaction.put(b"%08d" % position, value)
    opened = lmdb.open(str(folder), readonly=True, lock=False, readahead=False)

    def epoch(order: np.ndarray) -> Iterator[Batch]:
        with opened.begin(buffers=True) as transaction:

            def read(position: int) -> Mapping[str, Any]:
                found = np.frombuffer(transaction.get(b"%08d" % position), dtype=row)[0]
                return {name: found[name] for name in maps}

            yield from by_sample(data, read)(order)

    return epoch


def webdataset(data: Data, folder: Path) -> Epoch:
    import webdataset as wds

    maps = data.maps()
    # Tar files of about 16 MB.
    count = max(BATCH, 2**24 // data.workload.sample_bytes)
    with wds.ShardWriter(f"file:{folder}/%06d.tar", maxcount=count, verbose=0) as writer:
        for position in range(data.samples):
            writer.write(
                {"__key__": f"{position:08d}", **{f"{name}.npy": values[position] for name, values in maps.items()}}
            )
    urls = [str(path) for path in sorted(folder.glob("*.tar"))]

    def stream() -> Iterator[Mapping[str, Any]]:
        files = wds.WebDataset(urls, shardshuffle=len(urls), empty_check=False)
        for sample in files.shuffle(POOL).decode():
            yield {name: sample[f"{name}.npy"] for name in maps}

    return by_stream(data, stream)


def litdata(data: Data, folder: Path) -> Epoch:
    from litdata import StreamingDataLoader, StreamingDataset
    from litdata.streaming import Cache

    maps = data.maps()
    cache = Cache(str(folder), chunk_bytes="64MB")
    for position in range(data.samples):
        # The values of a tensor are stored without a header; scalars can only be stored as Python numbers.
        cache[position] = {
            name: torch.from_numpy(values[position].copy()) if values.ndim > 1 else int(values[position])
            for name, values in maps.items()
        }
    cache.done()
    cache.merge(1)

    def epoch(order: np.ndarray) -> Iterator[Batch]:
        # Decoding several neighbors at once, the default, makes a shuffled epoch 15 times slower.
        dataset = StreamingDataset(str(folder), shuffle=True, batch_decode=False)
        loader = StreamingDataLoader(dataset, batch_size=BATCH, num_workers=0)
        yield from islice(loader, len(order) // BATCH)

    return epoch


def mosaicml(data: Data, folder: Path) -> Epoch:
    from streaming import MDSWriter, StreamingDataset

    maps = data.maps()
    columns = {
        spec.name: f"ndarray:{spec.dtype}:{','.join(map(str, spec.shape))}" if spec.shape else "int"
        for spec in data.workload.arrays
    }
    with MDSWriter(out=str(folder), columns=columns) as writer:
        for position in range(data.samples):
            writer.write(
                {name: values[position] if values.ndim > 1 else int(values[position]) for name, values in maps.items()}
            )
    # Reading by index is two to three times as fast as its own iteration, and in the given order.
    dataset = StreamingDataset(local=str(folder), shuffle=False, batch_size=BATCH)
    return by_sample(data, lambda position: dataset[position])


def arrow_table(data: Data) -> Any:
    """The data as an Arrow table: one fixed-length list per sample and array."""
    import pyarrow as pa

    columns = {}
    for spec in data.workload.arrays:
        flat = pa.array(data.maps()[spec.name].reshape(-1))
        length = int(np.prod(spec.shape, dtype=np.int64))
        columns[spec.name] = pa.FixedSizeListArray.from_arrays(flat, length) if spec.shape else flat
    return pa.table(columns)


def arrow_batch(data: Data, table: Any) -> Batch:
    """The rows of an Arrow table as tensors, copied."""
    batch = {}
    for spec in data.workload.arrays:
        column = table[spec.name].combine_chunks()
        flat = column.flatten() if spec.shape else column
        batch[spec.name] = torch.from_numpy(flat.to_numpy().reshape(len(table), *spec.shape).copy())
    return batch


def hf_datasets(data: Data, folder: Path) -> Epoch:
    import datasets

    datasets.disable_progress_bars()
    datasets.Dataset(arrow_table(data)).save_to_disk(str(folder))
    # Its numpy format turns float16 into float32; Arrow's tables keep the type.
    dataset = datasets.load_from_disk(str(folder)).with_format("arrow")

    def epoch(order: np.ndarray) -> Iterator[Batch]:
        for positions in batches(order):
            yield arrow_batch(data, dataset[positions.tolist()])

    return epoch


def lance(data: Data, folder: Path) -> Epoch:
    import lance

    dataset = lance.write_dataset(arrow_table(data), str(folder / "data.lance"))

    def epoch(order: np.ndarray) -> Iterator[Batch]:
        for positions in batches(order):
            yield arrow_batch(data, dataset.take(positions.tolist()))

    return epoch


def tensordict(data: Data, folder: Path) -> Epoch:
    from tensordict import TensorDict

    TensorDict(tensors_of(data.maps("c")), batch_size=[data.samples]).memmap(str(folder))
    mapped = TensorDict.load_memmap(str(folder))

    def epoch(order: np.ndarray) -> Iterator[Batch]:
        for positions in batches(order):
            yield dict(mapped[torch.from_numpy(positions)].items())

    return epoch


PEERS = {
    "tensordict, memory-mapped": Peer("tensordict", tensordict),
    "LMDB": Peer("lmdb", lmdb),
    "HF datasets": Peer("datasets", hf_datasets),
    "LitData (own order)": Peer("litdata", litdata, exact=False),
    "Lance": Peer("pylance", lance),
    "h5py, contiguous": Peer("h5py", h5py),
    "tensorstore on our shards": Peer("tensorstore", tensorstore),
    "MosaicML streaming": Peer("mosaicml-streaming", mosaicml),
    f"WebDataset (pool of {POOL})": Peer("webdataset", webdataset, exact=False),
    "zarr-python array[i] on our shards": Peer("zarr", zarr_python),
}
