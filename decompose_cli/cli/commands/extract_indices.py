"""``decompose extract-indices``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from decompose_cli.cli.options.binding import command
from decompose_cli.cli.options.declaration import option
from decompose_cli.cli.options.rankings import METHOD_HELP, METHODS, ORDER
from decompose_cli.cli.output import Output, model_and_dataset, present
from decompose_cli.cli.tables.indices import show_indices
from decompose_cli.decomposition.ranking import DEFAULT_METHOD
from decompose_cli.errors import InputError, one_of, param
from decompose_cli.features.inputs import Inputs
from decompose_cli.storage.names import RESULT


@command()
def extract_indices(
    inputs: Inputs,
    out: Output,
    k: Annotated[
        str,
        option(
            "-k",
            "--k",
            metavar="K[,K...]",
            help="Features per class, or a fraction such as 0.9 of the class's total.",
            show_default=True,
        ),
    ] = "5",
    method: Annotated[str, option("--method", metavar=METHODS, help=METHOD_HELP, show_default=True)] = DEFAULT_METHOD,
    order: ORDER = "highest",
    layout: Annotated[
        str,
        option(
            "--layout",
            metavar="published|document",
            help="Layout of index files: the indices only, or also D and where the indices come from.",
            show_default=True,
        ),
    ] = "published",
) -> None:
    """Find the k penultimate features that each class uses most, over the training images.

    Writes an index file for 'validate -i'. With several k, --output is a folder.

    Example: decompose extract-indices resnet20 -k 5,10,20 -o indices/
    """
    from decompose_cli.decomposition.ranking import parse_method, parse_order
    from decompose_cli.decomposition.sizes import parse_k
    from decompose_cli.engines.extract_indices import LAYOUTS, ExtractSettings
    from decompose_cli.engines.extract_indices import extract_indices as run
    from decompose_cli.storage.files import check_writable, new_folder
    from decompose_cli.storage.result_document import default_names

    ks = parse_k(k)
    settings = ExtractSettings(ks, parse_method(method), parse_order(order), one_of(layout, LAYOUTS, "layout"))

    def extract(file: Path | None, folder: Path | None) -> None:
        result_path = file.with_name(f"{file.stem}.result.json") if file else folder / RESULT if folder else None
        for path in (file, result_path):
            if path is not None:
                check_writable(path, overwrite=out.overwrite)
        document = run(
            inputs,
            settings,
            output=file,
            folder=folder,
            result=result_path,
            overwrite=out.overwrite,
        )
        written = f"Result written to {result_path}" if result_path is not None else None
        present(out, document, lambda: show_indices(out.terminal, document), written=written)

    if out.path is not None and len(ks) > 1 and out.path.suffix == ".json":
        raise InputError(
            f"With several values of {param('k')}, {param('output')} is a folder, and {out.path} is named as a file."
        )
    if out.path is not None and (len(ks) > 1 or out.path.is_dir()):
        extract(None, out.path)
    elif out.path is not None or out.json:
        extract(out.path, None)
    else:
        with new_folder(default_names("extract-indices", *model_and_dataset(inputs), suffix="")) as folder:
            extract(None, folder)
