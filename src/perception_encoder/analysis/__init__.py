"""What can be made of vectors and hits beyond a list: labels, and images of results."""

from perception_encoder.analysis.classifiers import LabelScore, LabelScores, ZeroShotClassifier
from perception_encoder.analysis.contact_sheet import SheetHit, SheetRow, save_contact_sheet

__all__ = [
    "LabelScore",
    "LabelScores",
    "SheetHit",
    "SheetRow",
    "ZeroShotClassifier",
    "save_contact_sheet",
]
