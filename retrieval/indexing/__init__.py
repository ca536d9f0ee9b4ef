"""How does a collection come to hold what lies in some folders?

In: folders and an encoder. Out: commits of a collection. An image passes through these steps: listing -> planning ->
reading (and decoding) -> encoding -> writing (and commit). Each module's docstring begins with the step that it belongs
to. `pipeline` connects the steps."""
