"""An embedded AWS cloud: MiniStack in process, and what it lacks for the whole loop."""

from localcloud.cloud import Cloud
from localcloud.image import Image, ImageError, build, make_image
from localcloud.registry import Registry, RegistryError

__all__ = ["Cloud", "Image", "ImageError", "Registry", "RegistryError", "build", "make_image"]
