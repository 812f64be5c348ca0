"""`pe export`: a model as a folder that runs without torch."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

from perception_encoder.cli.options import JsonOption, PreprocessChoice
from perception_encoder.cli.output import say, write_json, write_line


def export(
    model: Annotated[str, typer.Argument(help="Model id, hub repository or path.")],
    folder: Annotated[Path, typer.Argument(help="Where the export goes.")],
    format_: Annotated[
        Literal["onnx"], typer.Option("--format", help="Engine that will run it.")
    ] = "onnx",
    precision: Annotated[
        Literal["fp32", "fp16", "int8"],
        typer.Option(help="fp16: half the size; int8: a quarter, and faster on CPUs."),
    ] = "fp32",
    preprocess: Annotated[
        PreprocessChoice | None, typer.Option(help="Default: what the model was saved with.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Write a model as ONNX graphs, to run on onnxruntime without torch.

    The graphs are compared with the model before they are kept; what was measured is printed. The
    folder is a model like any other: give it to --model.

    Example:
        pe export PE-Core-T16-384 t16-onnx --precision int8
        pe index photos --model t16-onnx
    """
    from perception_encoder.pipeline.export import export_pretrained

    drifts = export_pretrained(model, folder, precision=precision, preprocess=preprocess)
    if as_json:
        write_json(
            {
                "folder": str(folder),
                "format": format_,
                "precision": precision,
                "drift": {kind: asdict(drift) for kind, drift in drifts.items()},
            }
        )
        return
    for kind, drift in drifts.items():
        say(
            f"{kind}: lowest cosine with the model's own {drift.cosine:.6f}, "
            f"largest difference {drift.difference:.1e}"
        )
    write_line(str(folder))
