"""What napari gets: a reader for pictures of SEMs and focal series, and a widget that scores the active layer.

``napari.yaml`` beside this file is the manifest that napari reads. Nothing of napari is imported.
"""

from semfocus_plugin.napari._layers import LayerData, read, reader_of
from semfocus_plugin.napari._score import score_active_layer, score_of

__all__ = ["LayerData", "read", "reader_of", "score_active_layer", "score_of"]
