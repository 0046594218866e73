"""Answers to questions that people have about a machine."""
