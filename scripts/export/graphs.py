"""Formats that hold the computation too: ONNX and TorchScript, with a batch of any size."""

import io
import json
import logging
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import torch

from scripts.export.format import Format, Logits, first_line, graph_of, input_of, inputs_for, needed, text_of
from sources.errors import UserError
from training.model.trained import RECORD, Trained, of_record

OPSET = 18
"""The version of ONNX's operators, of 2022, which torch's exporter writes without a conversion."""

INPUT, OUTPUT = "images", "logits"
"""Names in an ONNX graph."""

_LARGEST = 2_000_000_000
"""Bytes of an ONNX file, which protobuf limits to 2 GiB."""


def _write_onnx(trained: Trained, path: Path, uint8: bool) -> None:
    onnx = needed("onnx", "--format onnx")
    for name in ("onnxscript", "onnxruntime"):
        needed(name, "--format onnx")
    size = sum(tensor.nbytes for tensor in trained.bundle.module.state_dict().values())
    if size > _LARGEST:
        raise UserError(
            f"{trained.name} has {size / 1e9:.1f} GB of weights, and an ONNX file holds 2 at most: take --format "
            "safetensors or torchscript."
        )
    module, example = graph_of(trained, uint8)
    try:
        with _quiet():
            program = torch.onnx.export(
                module,
                (example,),
                dynamo=True,
                dynamic_shapes=({0: torch.export.Dim("n")},),
                input_names=[INPUT],
                output_names=[OUTPUT],
                opset_version=OPSET,
                external_data=False,
                verbose=False,
            )
    except Exception as error:  # whatever torch's exporter raises for a model that it cannot express
        raise UserError(
            f"torch {torch.__version__} cannot write {trained.name} as ONNX: {first_line(error)}. Take --format "
            "torchscript or safetensors."
        ) from None
    assert program is not None  # with dynamo=True
    model: Any = program.model_proto
    for part in (model.graph, *model.graph.node, *model.functions):
        del part.metadata_props[:]  # where in whose folders torch found each operation
        part.doc_string = ""
    for function in model.functions:
        for node in function.node:
            del node.metadata_props[:]
            node.doc_string = ""
    del model.metadata_props[:]
    text = text_of(trained, input=input_of(trained, uint8), onnx={"opset": OPSET})
    model.metadata_props.add(key=RECORD, value=text)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())


def _open_onnx(trained: Trained, path: Path, uint8: bool) -> Logits:
    return _logits_of(onnx_session(path), trained, uint8)


def _logits_of(session: Any, trained: Trained, uint8: bool) -> Logits:
    def logits(images: torch.Tensor) -> torch.Tensor:
        [answer] = session.run([OUTPUT], {INPUT: inputs_for(trained, images, uint8).numpy()})
        return torch.from_numpy(answer)

    return logits


def onnx_session(path: Path) -> Any:
    """onnxruntime's session of a file, on the CPU. Raises UserError for what it cannot read."""
    runtime = needed("onnxruntime", f"to run {path}")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    try:
        return runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own kinds
        raise UserError(f"onnxruntime cannot read {path}: {first_line(error)}.") from None


def open_onnx(path: Path) -> tuple[Trained, Logits]:
    """What an exported ONNX file says of itself, and what it computes; the module of the answer is empty.

    Raises UserError for a file that this project has not written.
    """
    session = onnx_session(path)
    text = session.get_modelmeta().custom_metadata_map.get(RECORD)
    if text is None:
        raise UserError(
            f"{path} is ONNX, but no export of this trainer: it does not say how images are made for it ({RECORD} in "
            "its metadata)."
        )
    try:
        record = json.loads(text)
        trained = of_record(path, record)
        uint8 = record["input"]["dtype"] == "uint8"
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise UserError(f"{path} has metadata that were changed: {first_line(error)}. Export it again.") from None
    return trained, _logits_of(session, trained, uint8)


def _write_torchscript(trained: Trained, path: Path, uint8: bool) -> None:
    module, example = graph_of(trained, uint8)
    try:
        with _quiet(), torch.no_grad():
            traced = torch.jit.trace(module, example, check_trace=False)  # type: ignore[no-untyped-call]
    except Exception as error:  # whatever a model raises that cannot be traced
        raise UserError(
            f"torch {torch.__version__} cannot write {trained.name} as TorchScript: {first_line(error)}. Take --format "
            "onnx or safetensors."
        ) from None
    text = text_of(trained, input=input_of(trained, uint8))
    whole = path.with_name(f"{path.name}.whole")
    with _quiet():
        torch.jit.save(traced, str(whole), _extra_files={f"{RECORD}.json": text.encode()})  # type: ignore[no-untyped-call]
    _without_places(whole, path)
    whole.unlink()


def _without_places(source: Path, target: Path) -> None:
    """Copy an archive of TorchScript but for the names of the files of Python that its code was traced in."""
    with zipfile.ZipFile(source) as archive, zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as copy:
        for item in archive.infolist():
            if not item.filename.endswith(".debug_pkl"):
                copy.writestr(zipfile.ZipInfo(item.filename), archive.read(item))


def _open_torchscript(trained: Trained, path: Path, uint8: bool) -> Logits:
    try:
        with _quiet():
            module = torch.jit.load(str(path), map_location="cpu").eval()  # type: ignore[no-untyped-call]
    except (RuntimeError, ValueError) as error:
        raise UserError(f"torch cannot read {path} as TorchScript: {first_line(error)}.") from None
    return lambda images: module(inputs_for(trained, images, uint8))


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what torch's exporters say of themselves; what they cannot do they raise."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


ONNX = Format(f"ONNX, opset {OPSET}", ".onnx", _write_onnx, _open_onnx, is_graph=True)
TORCHSCRIPT = Format("TorchScript", ".pt", _write_torchscript, _open_torchscript, is_graph=True)
