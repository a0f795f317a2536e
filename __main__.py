"""The Pulumi program: read the settings, build the pipeline, tell where things are."""

import pulumi

from components.pipeline import TrainingPipeline
from components.settings import Settings

pipeline = TrainingPipeline("pushtrain", Settings.load())
for name, value in pipeline.outputs.items():
    pulumi.export(name, value)
