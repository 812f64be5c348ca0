"""Finds what is wrong with a collection of images: leaks, outliers, wrong labels, bad pixels."""

from perception_encoder.analysis.cleaning.clean import CleaningOptions, clean_index
from perception_encoder.analysis.cleaning.report import CleaningReport, Finding, Kind

__all__ = ["CleaningOptions", "CleaningReport", "Finding", "Kind", "clean_index"]
