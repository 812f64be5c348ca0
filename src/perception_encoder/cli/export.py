"""`pe export`: a model as a folder for other programs, or to run without torch."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

from perception_encoder.cli.options import JsonOption, PreprocessChoice
from perception_encoder.cli.output import check_text_name, say, write_json, write_line


def export(
    model: Annotated[str, typer.Argument(help="Model id, hub repository or path.")],
    folder: Annotated[Path, typer.Argument(help="Where the export goes.")],
    format_: Annotated[
        Literal["onnx", "openvino", "roboflow-package"],
        typer.Option(
            "--format", help="roboflow-package: the weights as they are, for inference_models."
        ),
    ] = "onnx",
    precision: Annotated[
        Literal["fp32", "fp16", "int8"],
        typer.Option(help="fp16: half the size; int8: a quarter, and faster on CPUs."),
    ] = "fp32",
    preprocess: Annotated[
        PreprocessChoice | None, typer.Option(help="Default: what the model was saved with.")
    ] = None,
    calibration: Annotated[
        Path | None,
        typer.Option(
            help="Folder of images like yours: OpenVINO's int8 fits its ranges to them. "
            "Default: bundled drawings."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Export a model to ONNX, OpenVINO, or a package for Roboflow's inference_models.

    The graphs are compared with the model before they are kept; what was measured is printed. The
    folder is a model like any other: give it to --model. So is a roboflow-package, which Roboflow's
    AutoModel.from_pretrained opens with this backend.

    Example:
        pe export PE-Core-T16-384 t16-onnx --precision int8
        pe index photos --model t16-onnx
        pe export PE-Core-B16-224 b16 --format openvino --precision int8 --calibration photos
        pe export PE-Core-L14-336 l14 --format roboflow-package
    """
    check_text_name(str(folder))
    if format_ == "roboflow-package":
        if calibration is not None:
            raise typer.BadParameter("a roboflow-package measures nothing; leave --calibration out")
        _export_package(model, folder, precision, preprocess, as_json=as_json)
        return
    from perception_encoder.export.pretrained import export_pretrained

    drifts = export_pretrained(
        model,
        folder,
        backend=format_,
        precision=precision,
        preprocess=preprocess,
        calibration=calibration,
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
    precision: str,
    preprocess: PreprocessChoice | None,
    *,
    as_json: bool,
) -> None:
    from perception_encoder.export.roboflow import export_roboflow_package

    if precision != "fp32":
        raise typer.BadParameter(
            "a roboflow-package has the weights as they are; leave --precision out"
        )
    export_roboflow_package(model, folder, preprocess=preprocess)
    if as_json:
        write_json({"folder": str(folder), "format": "roboflow-package"})
    else:
        write_line(str(folder))
