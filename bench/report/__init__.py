"""A page, a picture and a table of measured rows: ``python -m bench report``."""
