"""Widgets of the lessons: thin over plain functions. ipywidgets is imported when one is made."""
