"""The networks: their files, what they see, what they say."""

from semfocus_plugin.networks._metrics import (
    border_share,
    clipped_share,
    entropy,
    fine_structure,
    line_correlation,
    structure_beside,
    variance,
)
from semfocus_plugin.networks._models import (
    ELLIPSE_OUTPUTS,
    LAWS,
    SMALLEST,
    AENet,
    Controller,
    Evaluation,
    Evaluator,
    ModelCard,
    Networks,
    in_mirror_images,
    load,
    models_directory,
    read_manifest,
    use_threads,
)
from semfocus_plugin.networks._preprocessing import (
    MAGNIFICATION_SCALE,
    mag_image_value,
    median3,
    normalise,
    prepare,
    preprocess,
    to_unit,
)
from semfocus_plugin.networks._scoring import (
    check_pixels,
    evaluate,
    for_core,
    magnification_from_pixel,
    magnification_of,
    sample_of,
    score,
)
from semfocus_plugin.networks._state import (
    ELEMENTS,
    HISTORY,
    STATE_SIZE,
    MaximumAction,
    State,
    encode,
    maximum_action,
    maximum_action_paper,
    paper_factor,
)

__all__ = [
    "ELEMENTS", "ELLIPSE_OUTPUTS", "HISTORY", "LAWS", "MAGNIFICATION_SCALE", "SMALLEST", "STATE_SIZE", "AENet",
    "Controller", "Evaluation", "Evaluator", "MaximumAction", "ModelCard", "Networks", "State", "border_share",
    "check_pixels", "clipped_share", "encode", "entropy", "evaluate", "fine_structure", "for_core", "in_mirror_images",
    "line_correlation", "load", "mag_image_value", "magnification_from_pixel", "magnification_of", "maximum_action",
    "maximum_action_paper", "median3", "models_directory", "normalise", "paper_factor", "prepare", "preprocess",
    "read_manifest", "sample_of", "score", "structure_beside", "to_unit", "use_threads", "variance",
]  # fmt: skip
