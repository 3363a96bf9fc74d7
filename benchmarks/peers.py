"""Other ways from a JPEG's bytes to uint8 [224, 224, 3]: training samples of a given box and flip, validation samples.

``benchmarks/requirements.txt`` holds their packages; ``make build/bench/.ready`` installs them beside the trainer's.
"""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

SIZE, RESIZE = 224, 256
BATCH = 50

Round = Callable[[Sequence["Job"]], Sequence[np.ndarray]]


@dataclass(frozen=True)
class Job:
    """One sample to make of the photo in ``data``.

    ``box`` is that of a training sample, (left, top, width, height) in pixels; None asks for a validation sample:
    Resize(256) of the short side and CenterCrop(224).
    """

    data: bytes
    index: int
    box: tuple[int, int, int, int] | None
    flip: bool = False


def peers() -> dict[str, tuple[str, Callable[[bool], Round]]]:
    """By name: the package, and what makes a round of training (True) or validation samples."""
    return {
        "torchvision decode_jpeg + v2": ("torchvision", _torchvision_v2),
        "torchcodec + torchvision v2": ("torchcodec", _torchcodec),
        "simplejpeg + Pillow": ("simplejpeg", _simplejpeg),
        "DALI, CPU": ("nvidia-dali-cuda120", _dali),
        "FFCV": ("ffcv", _ffcv),
        "SPDL": ("spdl", _spdl),
    }


def probe(run: Round, train: bool) -> None:
    """Make one sample of a small image, to see whether ``run`` works here."""
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64)).save(buffer, "JPEG")
    (pixels,) = run([Job(buffer.getvalue(), 0, (8, 8, 40, 40) if train else None, flip=train)])
    if pixels.shape != (SIZE, SIZE, 3) or pixels.dtype != np.uint8:
        raise ValueError(f"it makes {pixels.dtype} {pixels.shape}")


def _each(make: Callable[[Job], np.ndarray]) -> Round:
    return lambda jobs: [make(job) for job in jobs]


def _by_v2(decode: Callable[[bytes], object]) -> Round:
    from torchvision.transforms.v2 import functional

    def make(job: Job) -> np.ndarray:
        image = decode(job.data)
        if job.box is None:
            image = functional.center_crop(functional.resize(image, [RESIZE], antialias=True), [SIZE, SIZE])
        else:
            left, top, width, height = job.box
            image = functional.resized_crop(image, top, left, height, width, [SIZE, SIZE], antialias=True)
        pixels: np.ndarray = (functional.hflip(image) if job.flip else image).permute(1, 2, 0).contiguous().numpy()
        return pixels

    return _each(make)


def _tensor(data: bytes) -> object:
    import torch

    return torch.from_numpy(np.frombuffer(data, np.uint8).copy())


def _torchvision_v2(train: bool) -> Round:
    from torchvision.io import ImageReadMode, decode_jpeg

    return _by_v2(lambda data: decode_jpeg(_tensor(data), ImageReadMode.RGB))


def _torchcodec(train: bool) -> Round:
    from torchcodec.decoders import ImageReadMode, decode_jpeg

    return _by_v2(lambda data: decode_jpeg(_tensor(data), mode=ImageReadMode.RGB))


def _simplejpeg(train: bool) -> Round:
    import simplejpeg
    from torchvision.transforms import functional

    filter_ = Image.Resampling.BILINEAR

    def make(job: Job) -> np.ndarray:
        pixels = simplejpeg.decode_jpeg(job.data, "RGB", fastdct=False, fastupsample=False)
        if job.box is None:
            return np.array(functional.center_crop(functional.resize(Image.fromarray(pixels), RESIZE), SIZE))
        left, top, width, height = job.box
        image = Image.fromarray(pixels[top : top + height, left : left + width])
        image = image.resize((SIZE, height), filter_).resize((SIZE, SIZE), filter_)
        return np.array(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if job.flip else image)

    return _each(make)


def _spdl(train: bool) -> Round:
    import spdl.io

    def make(job: Job) -> np.ndarray:
        if job.box is None:
            filters = f"scale={RESIZE}:{RESIZE}:force_original_aspect_ratio=increase:flags=bilinear,crop={SIZE}:{SIZE}"
        else:
            left, top, width, height = job.box
            filters = f"crop={width}:{height}:{left}:{top}:exact=1,scale={SIZE}:{SIZE}:flags=bilinear"
        filters += ",hflip" * job.flip + ",format=pix_fmts=rgb24"
        pixels: np.ndarray = np.asarray(spdl.io.to_numpy(spdl.io.load_image(job.data, filter_desc=filters)))
        return pixels.reshape(SIZE, SIZE, 3)

    return _each(make)


def _dali(train: bool) -> Round:
    from nvidia.dali import fn, pipeline_def, types

    names = ("data", "anchor", "shape", "flip") if train else ("data",)

    @pipeline_def(batch_size=BATCH, num_threads=1, device_id=None, prefetch_queue_depth=1)  # type: ignore[untyped-decorator]
    def graph() -> object:
        data, *rest = (fn.external_source(name=name) for name in names)
        how = {"interp_type": types.INTERP_LINEAR, "antialias": True}
        if not train:
            image = fn.resize(
                fn.decoders.image(data, output_type=types.RGB, device="cpu"), resize_shorter=RESIZE, **how
            )
            return fn.crop(image, crop=(SIZE, SIZE))
        anchor, shape, flip = rest
        image = fn.decoders.image_slice(data, anchor, shape, axis_names="WH", output_type=types.RGB, device="cpu")
        return fn.flip(fn.resize(image, size=[SIZE, SIZE], **how), horizontal=flip)

    pipeline = graph()
    pipeline.build()

    def run(jobs: Sequence[Job]) -> list[np.ndarray]:
        made: list[np.ndarray] = []
        for begin in range(0, len(jobs), BATCH):
            part = jobs[begin : begin + BATCH]
            pipeline.feed_input("data", [np.frombuffer(job.data, np.uint8) for job in part])
            if train:
                boxes = [job.box or (0, 0, 0, 0) for job in part]
                pipeline.feed_input("anchor", [np.array(box[:2], np.int32) for box in boxes])
                pipeline.feed_input("shape", [np.array(box[2:], np.int32) for box in boxes])
                pipeline.feed_input("flip", [np.array(job.flip, np.int32) for job in part])
            (images,) = pipeline.run()
            made += [np.array(images.at(i)) for i in range(len(part))]
        return made

    return run


def _ffcv(train: bool) -> Round:
    """Its decoder and the resize of OpenCV that its decoders of crops use, which do not antialias.

    For validation that is CenterCropRGBImageDecoder's: the central 224/256 of the short side, resized once.
    """
    from ffcv.libffcv import imdecode, resize_crop

    sizes: dict[bytes, tuple[int, int]] = {}  # as its file of photos knows them
    memory = np.zeros(0, np.uint8)  # of a decoded photo, used again as its loader does

    def make(job: Job) -> np.ndarray:
        nonlocal memory
        if job.data not in sizes:
            sizes[job.data] = Image.open(io.BytesIO(job.data)).size
        width, height = sizes[job.data]
        if memory.size < width * height * 3:
            memory = np.zeros(width * height * 3, np.uint8)
        whole = memory[: width * height * 3].reshape(height, width, 3)
        imdecode(np.frombuffer(job.data, np.uint8), whole, height, width, height, width, 0, 0, 1, 1, False, False)
        if job.box is None:
            side = int(SIZE / RESIZE * min(width, height))
            left, top, width, height = (width - side) // 2, (height - side) // 2, side, side
        else:
            left, top, width, height = job.box
        out = np.empty((SIZE, SIZE, 3), np.uint8)
        resize_crop(whole, top, top + height, left, left + width, out)
        return np.ascontiguousarray(out[:, ::-1]) if job.flip else out

    return _each(make)
