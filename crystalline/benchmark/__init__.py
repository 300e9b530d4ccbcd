"""Contestants timed in turn: the frame, and a file for each suite of cases."""
