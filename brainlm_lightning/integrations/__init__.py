"""Adapters to other projects, one module each; none of them imports the other project."""
