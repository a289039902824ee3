"""The marks between which a reasoning model thinks."""

THINK, END_THINK = "<think>", "</think>"
