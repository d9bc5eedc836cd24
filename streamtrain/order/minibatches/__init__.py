"""Which examples make up every minibatch, of one size or of sizes that change by examples used."""

from streamtrain.order.minibatches.legs import Later
from streamtrain.order.minibatches.minibatch import Order
from streamtrain.order.minibatches.segments import SegmentedOrder

__all__ = ["Later", "Order", "SegmentedOrder"]
