"""Find, keep and measure the penultimate features that each class of an image classifier uses.

Importing the package is cheap: neither torch nor torchvision is loaded until something needs it.
"""

from decompose_cli import _torchvision

__version__ = "0.1.0"

_torchvision.install()
