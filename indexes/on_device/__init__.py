"""Exact search by a GPU: which rows are the nearest, where a device's memory holds all embeddings?"""
