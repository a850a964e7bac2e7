"""A microscope of another make: text commands on one socket, binary picture lines on a second."""

from tescan_like.driver import TescanLike

__all__ = ["TescanLike"]
