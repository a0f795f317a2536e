"""The trainer: from a data set of images to a published model, in one container run."""
