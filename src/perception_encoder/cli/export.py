"""`pe export`: a model as graphs that run without torch, or as a package for Roboflow."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

from perception_encoder.cli.options import JsonOption, PreprocessChoice, complete_model
from perception_encoder.cli.output import check_text_name, say, write_json, write_line


def export(
    model: Annotated[
        str,
        typer.Argument(
            autocompletion=complete_model, help="Model id, Hugging Face repository or path."
        ),
    ],
    folder: Annotated[Path, typer.Argument(help="Folder for the export.")],
    format_: Annotated[
        Literal["onnx", "openvino", "open_clip", "roboflow-package"],
        typer.Option(
            "--format",
            help="open_clip: a snapshot that open_clip opens; roboflow-package: for "
            "inference_models. Both have the unchanged weights.",
        ),
    ] = "onnx",
    precision: Annotated[
        Literal["fp32", "fp16", "int8"],
        typer.Option(help="fp16: half the size; int8: a quarter, and faster on CPUs."),
    ] = "fp32",
    preprocess: Annotated[
        PreprocessChoice | None,
        typer.Option(help="[default: what the model was saved with]", show_default=False),
    ] = None,
    calibration: Annotated[
        Path | None,
        typer.Option(
            help="Folder of images like yours, to which OpenVINO's int8 fits its ranges.  "
            "[default: bundled drawings]",
            show_default=False,
        ),
    ] = None,
    adapter: Annotated[
        str | None,
        typer.Option(help="Folder or repository of a LoRA adapter, to be merged into the model."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Export a model to ONNX, OpenVINO, open_clip, or Roboflow's inference_models.

    The graphs are compared with the model before they are saved, and the drift is printed. The
    folder works with --model like any other model. So does a roboflow-package, which Roboflow's
    AutoModel.from_pretrained opens, too, and an open_clip snapshot.

    Examples:
        pe export PE-Core-T16-384 t16-onnx --precision int8
        pe index photos --model t16-onnx
        pe export PE-Core-B16-224 b16 --format openvino --precision int8 --calibration photos
        pe export PE-Core-L14-336 l14 --format roboflow-package
        pe export PE-Core-L14-336 mine --format open_clip --adapter my-lora
    """
    check_text_name(str(folder))
    if format_ in ("roboflow-package", "open_clip"):
        if calibration is not None:
            raise typer.BadParameter(f"{format_} has no graphs; leave --calibration out")
        if precision != "fp32":
            raise typer.BadParameter(f"{format_} has the unchanged weights; leave --precision out")
    if format_ == "open_clip":
        if preprocess is not None:
            raise typer.BadParameter("open_clip prepares images itself; leave --preprocess out")
        _export_snapshot(model, folder, adapter, as_json=as_json)
        return
    if format_ == "roboflow-package":
        _export_package(model, folder, preprocess, adapter, as_json=as_json)
        return
    from perception_encoder.cli.progress import show_steps
    from perception_encoder.export import export_pretrained

    with show_steps(f"exporting {model}", updates=False):
        drifts = export_pretrained(
            model,
            folder,
            backend=format_,
            precision=precision,
            preprocess=preprocess,
            calibration=calibration,
            adapter=adapter,
        )
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


def _export_package(
    model: str,
    folder: Path,
    preprocess: PreprocessChoice | None,
    adapter: str | None,
    *,
    as_json: bool,
) -> None:
    from perception_encoder.export import export_roboflow_package

    export_roboflow_package(model, folder, preprocess=preprocess, adapter=adapter)
    _report(folder, "roboflow-package", as_json=as_json)


def _export_snapshot(model: str, folder: Path, adapter: str | None, *, as_json: bool) -> None:
    from perception_encoder.cli.progress import show_steps
    from perception_encoder.export import export_open_clip

    with show_steps(f"exporting {model}", updates=False):
        export_open_clip(model, folder, adapter=adapter)
    _report(folder, "open_clip", as_json=as_json)


def _report(folder: Path, format_: str, *, as_json: bool) -> None:
    if as_json:
        write_json({"folder": str(folder), "format": format_})
    else:
        write_line(str(folder))
