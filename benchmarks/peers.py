"""Other ways to make a training sample of a JPEG, given the box and the flip: each to uint8 [224, 224, 3].

``pip install -r benchmarks/requirements.txt`` in an environment of its own; what is not installed is named.
"""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

SIZE = 224
BATCH = 50

Round = Callable[[Sequence["Job"]], Sequence[np.ndarray]]


@dataclass(frozen=True)
class Job:
    """One sample to make; ``box`` is (left, top, width, height) in pixels."""

    data: bytes
    index: int
    box: tuple[int, int, int, int]
    flip: bool


def peers() -> dict[str, Round]:
    """Those that work here, by name; prints the others and why."""
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64)).save(buffer, "JPEG")
    probe = Job(buffer.getvalue(), 0, (8, 8, 40, 40), flip=True)
    made: dict[str, Round] = {}
    for name, make in (
        ("torchvision decode_jpeg + v2", _torchvision_v2),
        ("torchcodec + torchvision v2", _torchcodec),
        ("simplejpeg + Pillow", _simplejpeg),
        ("SPDL", _spdl),
        ("DALI, CPU", _dali),
        ("FFCV", _ffcv),
    ):
        try:
            run = make()
            run([probe])
        except Exception as error:  # whatever an installation lacks
            print(f"{name}: not usable here: {type(error).__name__}: {str(error)[:90]}")
        else:
            made[name] = run
    return made


def _each(make: Callable[[Job], np.ndarray]) -> Round:
    return lambda jobs: [make(job) for job in jobs]


def _by_v2(decode: Callable[[bytes], object]) -> Round:
    from torchvision.transforms.v2 import functional

    def make(job: Job) -> np.ndarray:
        left, top, width, height = job.box
        image = functional.resized_crop(decode(job.data), top, left, height, width, [SIZE, SIZE], antialias=True)
        pixels: np.ndarray = (functional.hflip(image) if job.flip else image).permute(1, 2, 0).contiguous().numpy()
        return pixels

    return _each(make)


def _tensor(data: bytes) -> object:
    import torch

    return torch.from_numpy(np.frombuffer(data, np.uint8).copy())


def _torchvision_v2() -> Round:
    from torchvision.io import ImageReadMode, decode_jpeg

    return _by_v2(lambda data: decode_jpeg(_tensor(data), ImageReadMode.RGB))


def _torchcodec() -> Round:
    from torchcodec.decoders import ImageReadMode, decode_jpeg

    return _by_v2(lambda data: decode_jpeg(_tensor(data), mode=ImageReadMode.RGB))


def _simplejpeg() -> Round:
    import simplejpeg

    def make(job: Job) -> np.ndarray:
        left, top, width, height = job.box
        pixels = simplejpeg.decode_jpeg(job.data, "RGB", fastdct=False, fastupsample=False)
        image = Image.fromarray(pixels[top : top + height, left : left + width])
        filter_ = Image.Resampling.BILINEAR
        image = image.resize((SIZE, height), filter_).resize((SIZE, SIZE), filter_)
        return np.array(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if job.flip else image)

    return _each(make)


def _spdl() -> Round:
    import spdl.io

    def make(job: Job) -> np.ndarray:
        left, top, width, height = job.box
        filters = f"crop={width}:{height}:{left}:{top}:exact=1,scale={SIZE}:{SIZE}:flags=bilinear"
        filters += ",hflip" * job.flip + ",format=pix_fmts=rgb24"
        pixels: np.ndarray = np.asarray(spdl.io.to_numpy(spdl.io.load_image(job.data, filter_desc=filters)))
        return pixels.reshape(SIZE, SIZE, 3)

    return _each(make)


def _dali() -> Round:
    from nvidia.dali import fn, pipeline_def, types

    @pipeline_def(batch_size=BATCH, num_threads=1, device_id=None, prefetch_queue_depth=1)  # type: ignore[untyped-decorator]
    def graph() -> object:
        names = ("data", "anchor", "shape", "flip")
        data, anchor, shape, flip = (fn.external_source(name=name) for name in names)
        image = fn.decoders.image_slice(data, anchor, shape, axis_names="WH", output_type=types.RGB, device="cpu")
        image = fn.resize(image, size=[SIZE, SIZE], interp_type=types.INTERP_LINEAR, antialias=True)
        return fn.flip(image, horizontal=flip)

    pipeline = graph()
    pipeline.build()

    def run(jobs: Sequence[Job]) -> list[np.ndarray]:
        made: list[np.ndarray] = []
        for begin in range(0, len(jobs), BATCH):
            part = jobs[begin : begin + BATCH]
            pipeline.feed_input("data", [np.frombuffer(job.data, np.uint8) for job in part])
            pipeline.feed_input("anchor", [np.array(job.box[:2], np.int32) for job in part])
            pipeline.feed_input("shape", [np.array(job.box[2:], np.int32) for job in part])
            pipeline.feed_input("flip", [np.array(job.flip, np.int32) for job in part])
            (images,) = pipeline.run()
            made += [np.array(images.at(i)) for i in range(len(part))]
        return made

    return run


def _ffcv() -> Round:
    """Its decoder, with the resize of OpenCV that its RandomResizedCrop decoder uses."""
    from ffcv.fields.rgb_image import resizer
    from ffcv.libffcv import imdecode

    def make(job: Job) -> np.ndarray:
        left, top, width, height = job.box
        whole_width, whole_height = Image.open(io.BytesIO(job.data)).size
        whole, out = np.zeros((whole_height, whole_width, 3), np.uint8), np.zeros((SIZE, SIZE, 3), np.uint8)
        imdecode(
            np.frombuffer(job.data, np.uint8), whole, whole_height, whole_width, whole_height, whole_width, 0, 0, 1, 1,
            False, job.flip,
        )  # fmt: skip
        resizer(whole[top : top + height, left : left + width], out)
        return out

    return _each(make)
