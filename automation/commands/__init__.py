"""The commands of `pushtrain`, by what they are about.

What takes long to import is imported by the command that needs it: --help needs nothing.
"""
