"""Experiment E1: do gradients do what they say, and can a bottleneck learn the simplest task?"""
