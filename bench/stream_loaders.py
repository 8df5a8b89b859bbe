"""Sides of the streaming measurements that decode: a DataLoader of two workers; pixels; memory.

    python bench/stream_loaders.py speed SIDE FOLDER     images a second of a side of `SIDES`
    python bench/stream_loaders.py pixels FOLDER         our pixels against Pillow's, by the same crops
    python bench/stream_loaders.py memory FOLDER EPOCHS  memory of a loader and its workers, epoch by epoch

Prints JSON. `speed` counts from the ninth batch on, when all workers are at work, and tells the time to
the first batch apart.
"""

from __future__ import annotations

import argparse
import io
import json
import logging
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from stream_data import FEW_SHARDS, shard_paths
from stream_sides import SEED, cpu_seconds

BATCH, WORKERS, SIZE = 64, 2, 224
WARM_UP = 8
"""Batches before counting begins."""
SPEED_VIEW = "share100"


def _stream(folder: Path, view: str, scaled: bool, **words: Any) -> Any:
    from biomedica.stream import PixelSettings, open_samples
    from biomedica.stream.loader import Stream
    from biomedica.stream.pixels import Pixels

    pixels = Pixels(PixelSettings(size=SIZE, scaled_decode=scaled))
    return Stream(
        open_samples(folder / "archive", view), batch=BATCH, seed=SEED, pixels=pixels, **words
    )


def _ours(folder: Path, scaled: bool) -> Iterator[int]:
    from biomedica.stream.loader import Loader

    for batch in Loader(_stream(folder, SPEED_VIEW, scaled), workers=WORKERS):
        assert batch.images.shape[1:] == (3, SIZE, SIZE)
        yield len(batch)


def ours_full(folder: Path) -> Iterator[int]:
    """Our loader; every picture decoded whole."""
    return _ours(folder, scaled=False)


def ours_scaled(folder: Path) -> Iterator[int]:
    """Our loader; the decoder halves what is large enough (the default)."""
    return _ours(folder, scaled=True)


def _random_crop(image: Image.Image) -> torch.Tensor:
    """open_clip's training crop by Pillow, left as bytes."""
    from torchvision.transforms import InterpolationMode, RandomResizedCrop

    crop = RandomResizedCrop(SIZE, scale=(0.9, 1.0), interpolation=InterpolationMode.BICUBIC)
    return torch.from_numpy(np.array(crop(image))).permute(2, 0, 1)


def _webdataset(folder: Path, transform: Callable[[Image.Image], torch.Tensor]) -> Iterator[int]:
    """open_clip's pipeline with a buffer of 1,000 samples."""
    import webdataset as wds

    found = wds.DataPipeline(
        wds.SimpleShardList([str(path) for path in shard_paths(folder)[:FEW_SHARDS]]),
        wds.split_by_worker,
        wds.tarfile_to_samples(),
        wds.shuffle(1_000, initial=100),
        wds.decode("pilrgb"),
        wds.rename(image="jpg", text="txt"),
        wds.map_dict(image=transform),
        wds.to_tuple("image", "text"),
        wds.batched(BATCH),
    )
    for images, _ in wds.WebLoader(found, batch_size=None, shuffle=False, num_workers=WORKERS):
        assert images.shape[1:] == (3, SIZE, SIZE)
        yield len(images)


def webdataset(folder: Path) -> Iterator[int]:
    """webdataset, Pillow's decoder and bicubic filter; bytes."""
    return _webdataset(folder, _random_crop)


def webdataset_open_clip(folder: Path) -> Iterator[int]:
    """webdataset with open_clip's own transform: the same, then normalised float32."""
    from open_clip.transform import image_transform

    return _webdataset(folder, image_transform(SIZE, is_train=True))


SIDES = {each.__name__: each for each in (ours_full, ours_scaled, webdataset, webdataset_open_clip)}

IMPORTS = {
    "ours_full": ("biomedica.stream.loader",),
    "ours_scaled": ("biomedica.stream.loader",),
    "webdataset": ("webdataset", "torchvision.transforms"),
    "webdataset_open_clip": ("webdataset", "open_clip"),
}
"""What a side needs; not measured."""


def speed(side: str, folder: Path) -> dict[str, Any]:
    """Images a second of wall time and of CPU time."""
    for name in IMPORTS[side]:
        import_module(name)
    begun = time.monotonic()
    batches = SIDES[side](folder)
    next(batches)
    first = time.monotonic() - begun
    for _ in islice(batches, WARM_UP - 1):
        pass
    cpu, started = cpu_seconds(), time.monotonic()
    number = sum(batches)
    seconds = time.monotonic() - started
    return {
        "images": number, "seconds": seconds, "cpu": cpu_seconds() - cpu, "first_batch": first,
    }  # fmt: skip


def _differences(folder: Path, scaled: bool, train: bool) -> tuple[float, int]:
    """Mean and largest difference of a channel to Pillow's, over the small view."""
    from biomedica.stream import PixelSettings, open_samples
    from biomedica.stream.loader import Stream
    from biomedica.stream.order import uniform
    from biomedica.stream.pixels import NUM_DRAWS, Pixels, crop_box
    from biomedica.stream.texts import TextSettings

    settings = PixelSettings(size=SIZE, scaled_decode=scaled, train=train)
    samples = open_samples(folder / "archive", "small")
    stream = Stream(samples, batch=BATCH, seed=SEED, pixels=Pixels(settings))
    num_draws = NUM_DRAWS + TextSettings().num_draws
    total, largest, number = 0.0, 0, 0
    for batch, raw in zip(stream, Stream(samples, batch=BATCH, seed=SEED).raw(), strict=True):
        assert batch.keys == raw.keys
        draws = uniform(SEED, np.arange(raw.position, raw.position + len(batch)), num_draws)
        for i, (jpg, _, _) in enumerate(raw.members):
            with Image.open(io.BytesIO(jpg)) as image:
                picture = image.convert("RGB")
            if train:
                top, left, h, w = crop_box(picture.height, picture.width, draws[i], settings)
                picture = picture.crop((left, top, left + w, top + h))
                picture = picture.resize((SIZE, SIZE), Image.Resampling.BICUBIC)
            else:
                picture = _middle(picture)
            theirs = np.asarray(picture).transpose(2, 0, 1).astype(np.int16)
            apart = np.abs(batch.images[i].numpy().astype(np.int16) - theirs)
            total, largest, number = (
                total + apart.mean(),
                max(largest, int(apart.max())),
                number + 1,
            )
    return total / number, largest


def _middle(picture: Image.Image) -> Image.Image:
    """open_clip's evaluation: shorter side to size, then the middle."""
    from torchvision.transforms import CenterCrop, InterpolationMode, Resize

    return CenterCrop(SIZE)(Resize(SIZE, InterpolationMode.BICUBIC)(picture))


def pixels(folder: Path) -> dict[str, Any]:
    """By way of decoding and cropping: mean and largest difference, of 255."""
    return {
        f"{decode}_{crop}": _differences(folder, decode == "scaled", crop == "train")
        for decode in ("full", "scaled")
        for crop in ("train", "middle")
    }


def _memory_mb() -> float:
    """Proportional set size of this process and all below it."""
    import psutil

    own = psutil.Process()
    each = [own, *own.children(recursive=True)]
    return sum(process.memory_full_info().pss for process in each) / 1e6


def memory(folder: Path, epochs: int) -> dict[str, Any]:
    """Megabytes at the end of each epoch; the slope leaves out the first fifth."""
    from biomedica.stream.loader import Loader

    stream = _stream(folder, "small", True, epochs=epochs)
    step_of_epoch = len(stream.mix.samples[0]) // BATCH
    found = []
    for step, batch in enumerate(Loader(stream, workers=WORKERS), start=1):
        del batch
        if step % step_of_epoch == 0:
            found.append(_memory_mb())
    found = found[:-1]  # with the last batch the workers end
    late = np.array(found[epochs // 5 :])
    slope = float(np.polyfit(np.arange(len(late)), late, 1)[0])
    return {"peak": max(found), "slope": slope, "mb": found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["speed", "pixels", "memory"])
    parser.add_argument("words", nargs="+")
    words = parser.parse_args()
    logging.disable(logging.WARNING)
    if words.what == "speed":
        found = speed(words.words[0], Path(words.words[1]))
    elif words.what == "pixels":
        found = pixels(Path(words.words[0]))
    else:
        found = memory(Path(words.words[0]), int(words.words[1]))
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
