"""The problems that ship with the package. Each module holds one factory, named in ``trainables.catalog``."""
