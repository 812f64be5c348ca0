"""What can be made of vectors and hits beyond a list: for now, pictures of results."""

from perception_encoder.analysis.contact_sheet import SheetHit, SheetRow, contact_sheet

__all__ = ["SheetHit", "SheetRow", "contact_sheet"]
