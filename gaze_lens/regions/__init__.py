"""Where things are in a picture: shapes in its own pixels, named regions, and the image tokens that they become."""

from gaze_lens.regions.heat_map import HeatMap
from gaze_lens.regions.image_tokens import ImageTokens
from gaze_lens.regions.layout import Group, Layout, Region
from gaze_lens.regions.picture import Picture, panels
from gaze_lens.regions.reading import read_image
from gaze_lens.regions.segments import Passages, passages
from gaze_lens.regions.shapes import Box, Mask, Polygon, Shape, Union, as_shape

__all__ = [
    "Box", "Group", "HeatMap", "ImageTokens", "Layout", "Mask", "Passages", "Picture", "Polygon", "Region", "Shape",
    "Union", "as_shape", "panels", "passages", "read_image",
]  # fmt: skip
