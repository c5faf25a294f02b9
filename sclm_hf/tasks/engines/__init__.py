"""Cells embedded by the workers of Dask, Ray, Spark or `datasets`."""
