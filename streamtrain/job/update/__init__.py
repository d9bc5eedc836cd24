"""What a user declares about the update: from the mean gradient to new parameters, a file a subject."""

from streamtrain.job.update.averaging import Average
from streamtrain.job.update.batch_size import BatchSize, first_size
from streamtrain.job.update.gradient_clip import Clip
from streamtrain.job.update.optimizer import Group, Optimizer
from streamtrain.job.update.schedules import Schedule, needs_last_step

__all__ = ["Average", "BatchSize", "Clip", "Group", "Optimizer", "Schedule", "first_size", "needs_last_step"]
