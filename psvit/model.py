"""The family as timm knows it. Importing this module registers it: `psvit`, which builds any architecture, and more."""

from psvit.nn.checkpoint_filter import checkpoint_filter_fn as checkpoint_filter_fn
from psvit.nn.network import PSViT as PSViT
from psvit.nn.psvit import create_model as create_model
from psvit.nn.psvit import psvit as psvit
from psvit.nn.psvit import psvit_1d_base as psvit_1d_base
from psvit.nn.psvit import psvit_1d_small as psvit_1d_small
from psvit.nn.psvit import psvit_1d_tiny as psvit_1d_tiny
from psvit.nn.psvit import psvit_2d_base as psvit_2d_base
from psvit.nn.psvit import psvit_2d_small as psvit_2d_small
from psvit.nn.psvit import psvit_2d_tiny as psvit_2d_tiny
