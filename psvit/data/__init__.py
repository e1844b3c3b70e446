"""Images: where they come from, how they are split in three, and how they become batches.

The split is explicit, because searching on what is later reported is the commonest flaw of such results: networks
train on *train*, candidates are compared on *search*, which is held out from the training images, and *val* is looked
at once, at the end.
"""

from psvit.data.baseline import Baseline as Baseline
from psvit.data.baseline import logistic_regression as logistic_regression
from psvit.data.batches import CROP_PCT as CROP_PCT
from psvit.data.batches import INTERPOLATION as INTERPOLATION
from psvit.data.batches import Batches as Batches
from psvit.data.batches import Inputs as Inputs
from psvit.data.batches import accuracy as accuracy
from psvit.data.batches import evaluation_transform as evaluation_transform
from psvit.data.description import describe_images as describe_images
from psvit.data.image_data import ImageData as ImageData
from psvit.data.image_data import found_data as found_data
from psvit.data.image_data import open_data as open_data
from psvit.data.images import Decoded as Decoded
from psvit.data.images import Files as Files
from psvit.data.images import Labelled as Labelled
from psvit.data.images import Pictures as Pictures
from psvit.data.sizes import seen_size as seen_size
from psvit.data.split import parts as parts
from psvit.data.split import stratified_split as stratified_split
