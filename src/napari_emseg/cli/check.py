"""`emseg check`: what a stack is, and which of its sections are worth a look."""

from typing import Annotated, Any

from cyclopts import Group, Parameter

from napari_emseg.check import SectionCheck, check_stack
from napari_emseg.cli.options import InputOptions, Json
from napari_emseg.cli.printing import print_json, print_line, print_table
from napari_emseg.cli.progress import run_with_progress
from napari_emseg.core.intensity import polarity, stack_range
from napari_emseg.core.settings import CheckSettings, Normalisation
from napari_emseg.core.stack import Stack, VoxelSize

LIMITS = Group("What is worth a word", sort_key=3)

_MEMBRANES = {
    False: "look dark, as EM has them",
    True: "look bright: emseg predict inverts them, unless told --invert no",
    None: "can't tell whether dark or bright",
}


def check(
    input: str,  # noqa: A002 - the word on the command line
    /,
    *,
    json: Json = False,
    settings: Annotated[
        CheckSettings, Parameter(name="*", group=LIMITS)
    ] = CheckSettings(),  # noqa: B008 - frozen
    source: InputOptions = InputOptions(),  # noqa: B008
) -> None:
    """Look for blank, blurred and shifted sections.

    Prints what the stack is, and a table of sections that can't be read, show nothing,
    or differ from the rest. Reads every section once.

    Parameters
    ----------
    input
        TIFF, MRC, DM3/DM4, HDF5, OME-Zarr, npy, PNG, a folder or a glob of sections.
    """
    stack = source.open(input)
    findings = run_with_progress(check_stack(stack, settings=settings))
    if json:
        found = [
            {"z": f.z, "kind": f.kind, "value": f.value, "words": f.words}
            for f in findings
        ]
        print_json({**_facts(stack), "findings": found})
    else:
        _print(stack, findings)


def _facts(stack: Stack) -> dict[str, Any]:
    grey = stack_range(stack, Normalisation())
    return {
        "name": stack.name,
        "format": stack.metadata.get("format"),
        "shape": stack.shape,
        "dtype": str(stack.dtype),
        "voxel_size_nm": stack.voxel_size_nm,
        "grey_values": [grey.low, grey.high],
        "inverted": polarity(stack).inverted,
        "remarks": stack.metadata.get("remarks", []),
    }


def _print(stack: Stack, findings: list[SectionCheck]) -> None:
    z, y, x = stack.shape
    facts = _facts(stack)
    low, high = facts["grey_values"]
    print_line(f"{stack.name}: {z} section{'s' * (z != 1)} of {y} × {x} px (y × x)")
    print_line(f"voxel size   {_size_words(stack.voxel_size_nm)}")
    print_line(f"grey values  {stack.dtype}, {low:g} to {high:g} (1st to 99th percent)")
    print_line(f"membranes    {_MEMBRANES[facts['inverted']]}")
    for remark in facts["remarks"]:
        print_line(f"note         {remark}")
    if not findings:
        print_line("sections     nothing found that is out of the ordinary")
        return
    print_line("")
    print_table(
        ("section", "finding", ""), [(str(f.z), f.kind, f.words) for f in findings]
    )


def _size_words(size: VoxelSize | None) -> str:
    if size is None:
        return "unknown; say it with --voxel-size Z,Y,X in nm"
    z, y, x = ("?" if length is None else f"{length:g}" for length in size)
    return f"{z} × {y} × {x} nm (z × y × x)"
