"""`tinyres export`."""

from pathlib import Path
from typing import Annotated

import typer

from tinyres import checkpoints, nn
from tinyres.cli.options import Checkpoint
from tinyres.console import UserError, errors, out
from tinyres.export import find_onnx, to_onnx
from tinyres.runs import is_part_of_run


def export(
    checkpoint_file: Checkpoint,
    onnx: Annotated[
        Path | None,
        typer.Option(help="Write an ONNX model to this file; needs the extra onnx.", show_default=False),
    ] = None,
    safetensors: Annotated[
        Path | None, typer.Option(help="Write only the weights to this file, e.g. for PyTorch.", show_default=False)
    ] = None,
) -> None:
    """Write the model of a checkpoint for other programs.

    The ONNX model takes normalised images (batch, 3, height, width), any number at a time. Batch norm is folded into
    the convolutions. The weights have the names of torchvision; in PyTorch, load them with safetensors.torch.load_file
    and load_state_dict.
    """
    with errors():
        if onnx is None and safetensors is None:
            raise UserError("export: expected --onnx FILE or --safetensors FILE, or both")
        _check_outputs(checkpoint_file, onnx, safetensors)
        model, info = checkpoints.load_model(checkpoint_file)
        if onnx is not None:
            find_onnx()  # before files are written
        if safetensors is not None:
            checkpoints.save_weights(safetensors, model)
            out.print(f"Wrote the weights to {safetensors}", soft_wrap=True)
        if onnx is not None:
            size = info["image_size"]
            to_onnx(nn.fuse(model, image_size=size), onnx, image_size=size, classes=info["classes"])
            mean, std = (", ".join(f"{v:.4f}" for v in info[name]) for name in ("mean", "std"))
            numbers = "number" if info.get("floats") else "pixel / 255"
            out.print(f"Wrote the model to {onnx}: images of {size} x {size}, ({numbers} - mean) / std", soft_wrap=True)
            out.print(f"  with mean {mean} and std {std}", soft_wrap=True)


def _check_outputs(checkpoint_file: Path, onnx: Path | None, safetensors: Path | None) -> None:
    """Check that no file is lost: the checkpoint, another one of a run, or the first of two outputs."""
    for option, path in (("--onnx", onnx), ("--safetensors", safetensors)):
        if path and (is_part_of_run(path) or path.resolve() == checkpoint_file.resolve()):
            raise UserError(f"{option}: got {path}, a checkpoint or another file of a run; expected another file")
    if onnx and safetensors and onnx.resolve() == safetensors.resolve():
        raise UserError(f"--onnx, --safetensors: got {onnx} for both, expected two files")
