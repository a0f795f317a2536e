"""The pipeline's parts, one Pulumi component a file."""
